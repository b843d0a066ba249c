"""`python -m scoring serve`: load models and serve them until told to stop."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading


def main() -> int:
    """Serve; the exit status."""
    arguments = _parser().parse_args()
    import torch
    import uvicorn
    from transformers.utils.logging import disable_progress_bar

    from scoring.engine import Engine
    from scoring.service import build_app

    if arguments.exit_with_parent:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(arguments.threads)
    models = dict(argument.split("=", 1) for argument in arguments.model)
    engine = Engine.load(models, device=arguments.device, dtype=arguments.dtype, kv_budget_mb=arguments.kv_budget_mb)
    uvicorn.run(
        build_app(engine, max_batch=arguments.max_batch),
        host=arguments.host,
        port=arguments.port,
        uds=arguments.uds,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scoring", description="Score reasoning steps with local models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve models over HTTP")
    serve.add_argument("--model", action="append", required=True, type=_named, metavar="NAME=PATH", help="repeatable")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=4100)
    serve.add_argument("--uds", help="listen on this Unix socket instead")
    serve.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: the GPU if there is one)")
    serve.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    serve.add_argument("--threads", type=int, default=1, help="torch threads on CPU (default: 1)")
    serve.add_argument("--kv-budget-mb", type=int, default=1024, help="memory for cached prefixes (default: 1024)")
    serve.add_argument("--max-batch", type=int, default=32, help="requests scored together at most (default: 32)")
    serve.add_argument("--exit-with-parent", action="store_true", help="leave when standard input closes")
    return parser


def _named(argument: str) -> str:
    if "=" not in argument:
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=PATH")
    return argument


def _leave_with_parent() -> None:
    """Standard input is a pipe our parent holds: its end means the parent has gone."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
