"""`python -m serving FOLDER`: serve one model until told to stop."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runtime.errors import CheckpointError
from runtime.processes import UNUSABLE, Parent


def main() -> int:
    """Serve; the exit status."""
    arguments = _parser().parse_args()
    if not arguments.folder.is_dir():
        print(f"serving: there is no folder {arguments.folder}", file=sys.stderr)
        return UNUSABLE
    if (parent := Parent() if arguments.exit_with_parent else None) is not None:
        parent.watch()
    import torch
    from transformers.utils.logging import disable_progress_bar

    from runtime.server import run
    from serving.app import build_app
    from serving.engine import GenerationEngine

    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(arguments.threads)
    try:
        engine = GenerationEngine.load(
            arguments.folder,
            device=arguments.device,
            dtype=arguments.dtype,
            max_batch=arguments.max_batch,
            max_model_len=arguments.max_model_len,
            prefix_cache_mb=arguments.prefix_cache_mb,
        )
    except CheckpointError as exc:
        print(f"serving: {exc}", file=sys.stderr)
        return UNUSABLE
    app = build_app(engine, arguments.name or str(arguments.folder))
    return run(app, host=arguments.host, port=arguments.port, uds=arguments.uds, parent=parent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving", description="Serve one local model as OpenAI completions."
    )
    parser.add_argument("folder", type=Path, help="a checkpoint that transformers loads")
    parser.add_argument("--name", help="the model's name on the wire (default: the folder)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--uds", help="listen on this Unix socket instead")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, … (default: the GPU if there is one)"
    )
    parser.add_argument(
        "--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"]
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads on CPU (default: 1)")
    parser.add_argument(
        "--max-batch", type=int, default=32, help="sequences written at once (default: 32)"
    )
    parser.add_argument(
        "--max-model-len", type=int, help="tokens of prompt and completion (default: the model's)"
    )
    parser.add_argument(
        "--prefix-cache-mb",
        type=int,
        default=256,
        help="memory for beginnings that may come again (default: 256)",
    )
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="leave when standard input closes"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
