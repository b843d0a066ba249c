"""`python -m scoring serve`: load models and serve them until told to stop."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from runtime.errors import CheckpointError
from runtime.processes import UNUSABLE, Parent


def main() -> int:
    """Serve; the exit status."""
    parser = _parser()
    arguments = parser.parse_args()
    if any("{answer}" not in text for _, text in arguments.elicitation):
        parser.error("--elicitation: the text must say {answer} where the answer goes")
    if (parent := Parent() if arguments.exit_with_parent else None) is not None:
        parent.watch()
    import torch
    from transformers.utils.logging import disable_progress_bar

    from runtime.server import run
    from scoring.engine import ScoringEngine
    from scoring.service import build_app
    from scoring.tokens import Elicitation

    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(arguments.threads)
    templates, closings = dict(arguments.elicitation), dict(arguments.closing)
    default = Elicitation()
    try:
        engine = ScoringEngine.load(
            dict(arguments.model),
            device=arguments.device,
            dtype=arguments.dtype,
            kv_budget_mb=arguments.kv_budget_mb,
            batch_tokens=arguments.batch_tokens,
            elicitations={
                name: Elicitation(templates.get(name, default.template), closings.get(name))
                for name in {**templates, **closings}
            },
        )
    except CheckpointError as exc:
        print(f"scoring: {exc}", file=sys.stderr)
        return UNUSABLE
    with closing(engine):
        return run(
            build_app(engine),
            host=arguments.host,
            port=arguments.port,
            uds=arguments.uds,
            parent=parent,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scoring", description="Score reasoning steps with local models."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve models over HTTP")
    serve.add_argument(
        "--model",
        action="append",
        required=True,
        type=_named,
        metavar="NAME=PATH",
        help="repeatable",
    )
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=4100)
    serve.add_argument("--uds", help="listen on this Unix socket instead")
    serve.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, … (default: the GPU if there is one)"
    )
    serve.add_argument(
        "--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"]
    )
    serve.add_argument("--threads", type=int, default=1, help="torch threads on CPU (default: 1)")
    serve.add_argument(
        "--kv-budget-mb", type=int, default=1024, help="memory for what was read (default: 1024)"
    )
    serve.add_argument(
        "--batch-tokens", type=int, default=4096, help="tokens a forward at most (default: 4096)"
    )
    serve.add_argument(
        "--elicitation", action="append", default=[], type=_named, metavar="NAME=TEXT",
        help="how a model is asked for its answer, which goes where the text says {answer}",
    )  # fmt: skip
    serve.add_argument(
        "--closing", action="append", default=[], type=_named, metavar="NAME=TEXT",
        help="what ends a model's thinking before that (default: what its chat template calls for)",
    )  # fmt: skip
    serve.add_argument(
        "--exit-with-parent", action="store_true", help="leave when standard input closes"
    )
    return parser


def _named(argument: str) -> tuple[str, str]:
    name, found, value = argument.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{argument!r} has no NAME= in front")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
