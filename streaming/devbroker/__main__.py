"""``python -m streaming.devbroker --data DIR --port 19092``: the dev broker on its own."""

from __future__ import annotations

import argparse
import sys
from math import inf
from pathlib import Path

import structlog

from domain.errors import TidemillError
from streaming.devbroker.limits import Limits
from streaming.devbroker.server import serve


def main() -> int:
    """Run the broker until it is told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m streaming.devbroker", description="A small Kafka broker.")
    parser.add_argument("--data", type=Path, required=True, help="data directory, made when it is not there")
    parser.add_argument("--port", type=int, required=True, help="0 takes any free one; DATA/address tells which")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--fsync", default="never", help="never (survives kill -9), interval or always (power loss)")
    parser.add_argument(
        "--patience", type=float, default=Limits.patience_s, metavar="S",
        help="seconds in which a first request comes, a request is complete, an answer is read (default %(default)g)",
    )  # fmt: skip
    arguments = parser.parse_args()
    if not 0 < arguments.patience < inf:
        parser.error(f"--patience {arguments.patience:g}: a number of seconds above 0")
    limits = Limits(patience_s=arguments.patience)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        serve(arguments.data, arguments.host, arguments.port, arguments.fsync, limits=limits, on_ready=_say)
    except TidemillError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command speaks to a person
        return 2
    return 0


def _say(address: str) -> None:
    print(f"listening on {address}", flush=True)  # noqa: T201 - likewise


if __name__ == "__main__":
    sys.exit(main())
