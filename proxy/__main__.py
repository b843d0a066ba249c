"""The `cord` command line: init, serve, demo, check, export. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from proxy import __version__
from proxy.errors import ConfigError
from proxy.logs import configure


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = _parser().parse_args(argv)
    configure(
        getattr(arguments, "log_level", arguments.quiet), getattr(arguments, "log_format", "text")
    )
    try:
        return int(arguments.run(arguments))
    except ConfigError as exc:
        print(f"cord: configuration: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cord",
        description="Several local LLMs write the reasoning together, behind an OpenAI-compatible API.",
    )
    parser.add_argument("--version", action="version", version=f"cord {__version__}")
    _add_logging(parser)
    parser.set_defaults(quiet="warning")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve", help="start the proxy, its scorer and its embedded teachers"
    )
    _add_config(serve)
    serve.add_argument("--host", help="address to listen on (default: general_settings.host)")
    serve.add_argument(
        "--port", type=_port, help="port to listen on, 0 for any (default: general_settings.port)"
    )
    serve.set_defaults(run=_serve, quiet="info")

    init = commands.add_parser(
        "init", help="write a configuration for the servers that answer, or the embedded demo"
    )
    _add_config(init)
    init.add_argument(
        "--teacher",
        action="append",
        default=[],
        metavar="URL",
        help="a server's address; repeatable",
    )
    init.add_argument(
        "--embedded", action="store_true", help="the embedded demo, whatever servers there are"
    )
    init.add_argument("--force", action="store_true", help="overwrite a configuration")
    init.set_defaults(run=_init)

    demo = commands.add_parser(
        "demo", help="serve, send one problem through the openai client, show the steps arrive"
    )
    demo.add_argument(
        "--config",
        type=Path,
        help="default: config.yaml, or the embedded models where there is none",
    )
    demo.add_argument(
        "problem",
        nargs="?",
        type=Path,
        help="a JSON chat request (default: one for the embedded models)",
    )
    demo.add_argument(
        "--once", action="store_true", help="exit after the answer instead of serving on"
    )
    demo.add_argument(
        "--port", type=_port, help="port to listen on (default: general_settings.port)"
    )
    demo.set_defaults(run=_demo)

    check = commands.add_parser(
        "check", help="start what the configuration names and tell what answers"
    )
    _add_config(check)
    check.add_argument(
        "--wait",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait (default: 120)",
    )
    check.set_defaults(run=_check)

    export = commands.add_parser("export", help="turn traces into training rows")
    from proxy.trace.export import command as exporting

    exporting.add_arguments(export)
    export.set_defaults(run=exporting.run)

    view = commands.add_parser("view", help="show a stored trace in the browser, without a server")
    from proxy.ui import command as viewing

    viewing.add_arguments(view)
    view.set_defaults(run=viewing.run)

    replay = commands.add_parser(
        "replay", help="choose again from stored searches by another score or width"
    )
    from proxy import replay as replaying

    replaying.add_arguments(replay)
    replay.set_defaults(run=replaying.run)

    traces = commands.add_parser("traces", help="list traces, show one as a tree, erase a person's")
    from proxy.trace import terminal

    terminal.add_arguments(traces)
    for command in commands.choices.values():
        _add_logging(command)
    return parser


def _add_logging(parser: argparse.ArgumentParser) -> None:
    """Before or after the command; where it is given nowhere, each command has its own default."""
    levels = ["debug", "info", "warning", "error"]
    parser.add_argument(
        "--log-level",
        default=argparse.SUPPRESS,
        choices=levels,
        help="default: info for serve, else warning",
    )
    parser.add_argument(
        "--log-format",
        default=argparse.SUPPRESS,
        choices=["text", "json"],
        help="form of a log line (default: text)",
    )


def _port(argument: str) -> int:
    if not argument.isdecimal() or int(argument) > 65535:
        raise argparse.ArgumentTypeError(f"{argument} is no port: a number from 0 to 65535")
    return int(argument)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=Path("config.yaml"), help="default: config.yaml"
    )


def _serve(arguments: argparse.Namespace) -> int:
    from proxy.serve import serve

    return serve(arguments.config, host=arguments.host, port=arguments.port)


def _init(arguments: argparse.Namespace) -> int:
    from proxy.init import init

    return init(
        arguments.config, arguments.teacher, embedded=arguments.embedded, force=arguments.force
    )


def _demo(arguments: argparse.Namespace) -> int:
    from proxy.demo import demo

    return demo(arguments.config, arguments.problem, once=arguments.once, port=arguments.port)


def _check(arguments: argparse.Namespace) -> int:
    from proxy.check import check

    return check(arguments.config, wait_s=arguments.wait)


if __name__ == "__main__":
    sys.exit(main())
