"""`python -m serving.llama FILE`: serve one GGUF file with llama.cpp's own server until told to
stop.

The server is llama.cpp's native one, from the package `xllamacpp` (the extra `real`). It streams
OpenAI completions and queues what has no slot. This module starts it, and ends with its parent; it
adds no route and no format.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from runtime.gguf import NotGguf, read_metadata
from runtime.processes import UNUSABLE, Parent

MISSING = (
    "GGUF files are served by llama.cpp, which is not installed: pip install 'cord-proxy[real]'"
)
_ERRORS_ONLY = 1
_CACHED_PROMPTS_MIB = 256


def main() -> int:
    """Serve; the exit status."""
    arguments = _parser().parse_args()
    try:
        metadata = read_metadata(arguments.file)
        import xllamacpp
    except NotGguf as exc:
        return _refuse(str(exc))
    except ImportError:
        return _refuse(MISSING)
    if arguments.exit_with_parent:
        Parent().watch()
    longest = min(filter(None, (arguments.max_model_len, metadata.context_length)))
    params = xllamacpp.CommonParams()
    params.model.path = str(arguments.file)
    params.model_alias = {arguments.name or arguments.file.stem}
    params.hostnames = [
        arguments.uds or arguments.host
    ]  # a name that ends in .sock is a Unix socket
    params.port = arguments.port
    params.n_parallel = arguments.slots
    params.n_ctx = longest * arguments.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = arguments.threads
    params.cache_ram_mib = _CACHED_PROMPTS_MIB
    params.verbosity = _ERRORS_ONLY
    params.ui = False
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as exc:
        return _refuse(f"llama.cpp cannot load {arguments.file} ({metadata.architecture}): {exc}")
    if arguments.uds is None:
        print(server.listening_address, flush=True)
    threading.Event().wait()
    return 0


def _refuse(reason: str) -> int:
    print(f"serving.llama: {reason}", file=sys.stderr)
    return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.llama", description="Serve one GGUF file with llama.cpp."
    )
    parser.add_argument("file", type=Path, help="a GGUF file")
    parser.add_argument("--name", help="the model's name on the wire (default: the file's)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="0 takes a free one, which is printed (default: 8000)",
    )
    parser.add_argument(
        "--uds", help="listen on this Unix socket instead; its name must end in .sock"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads (default: 1; two busy servers a core stall)"
    )
    parser.add_argument(
        "--slots", type=int, default=8, help="sequences written at once (default: 8)"
    )
    parser.add_argument(
        "--max-model-len",
        type=int,
        default=4096,
        help="tokens of prompt and completion, at most the model's (4096)",
    )
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="leave when standard input closes"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
