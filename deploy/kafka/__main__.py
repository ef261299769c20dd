"""``python -m deploy.kafka``: Apache Kafka in the foreground, until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import sys
import threading
from pathlib import Path

from deploy.kafka.jars import version
from deploy.kafka.node import KafkaNode
from domain.errors import TidemillError, UsageError

TICK_S = 0.5


def main() -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.kafka", description="Apache Kafka as one node on loopback.")
    parser.add_argument("--home", type=Path, default=Path(".tidemill/kafka"), help="its settings, log and data")
    parser.add_argument("--port", type=int, default=9092, help="where clients connect")
    arguments = parser.parse_args()
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    try:
        _refuse_taken(arguments.port)
        _say(f"starting Apache Kafka {version()} (the first time, Maven collects it)")
        _run(KafkaNode(arguments.home, arguments.port), asked)
    except TidemillError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command speaks to a person
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _run(node: KafkaNode, asked: threading.Event) -> None:
    node.start()
    try:
        _say(f"it answers; data and log lie in {node.home}; Ctrl-C stops it. Use it from another terminal with\n")
        _say(f"  export TIDEMILL_KAFKA_BOOTSTRAP_SERVERS={node.address}\n")
        while not asked.wait(TICK_S):
            node.refuse_ended()
    finally:
        node.stop()


def _refuse_taken(port: int) -> None:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1.0):
        raise UsageError(f"port {port} is taken, perhaps by another Kafka; stop that one or choose another port")


def _say(words: str) -> None:
    print(words, flush=True)  # noqa: T201 - likewise


if __name__ == "__main__":
    sys.exit(main())
