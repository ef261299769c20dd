"""Kill the services and an Apache Kafka of our own during a replay: ``python -m benchmarks.chaos --kills 200``.

``tidemill chaos`` does the same on the dev broker. Prints one JSON object; exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from deploy.kafka.node import KafkaNode
from orchestration.chaos import drawn_market, run
from orchestration.planned import plan


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    wish = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the answer
    with TemporaryDirectory(prefix="tidemill-chaos-") as root:
        node = KafkaNode(Path(root) / "kafka")
        node.start()
        os.environ["TIDEMILL_KAFKA_BOOTSTRAP_SERVERS"] = node.address

        def end_broker() -> None:
            node.kill()
            node.start()

        try:
            data = drawn_market(Path(root), wish.kills, wish.seed)
            with plan([data], "", "", "", [], Path(root) / "home") as planned:
                outcome = run(planned, wish.kills, wish.seed, end_broker=end_broker)
        finally:
            node.stop()
    outcome.print(as_json=True)
    return 1 if outcome.first_difference else 0


if __name__ == "__main__":
    sys.exit(main())
