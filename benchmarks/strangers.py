"""How long strangers keep a client of the dev broker waiting, and what memory they take.

Run ``python benchmarks/strangers.py [--seconds S] [--json]``. One client asks again and again while others send spoilt
requests, numbers without an end and unfinished frames, or do not read what they are answered. Before that a producer
and a consumer show the throughput.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.attacks.requests import made, spoilt
from tests.attacks.strangers import MIB, asked, connected, crowd, framed, head, pushed, resident
from tests.brokers import BrokerProcess, broker_process

MESSAGES, SIZE = 200_000, 200


class Client(threading.Thread):
    """Asks every few milliseconds and remembers the longest wait."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.waits: list[float] = []
        self._port, self._over = port, threading.Event()

    def run(self) -> None:
        """Ask until told otherwise."""
        with connected(self._port) as one:
            while not self._over.wait(0.005):
                self.waits.append(asked(one))

    def end(self) -> dict[str, float]:
        """Return the figures, in ms."""
        self._over.set()
        self.join()
        waits = sorted(1_000 * wait for wait in self.waits)
        return {"asked": len(waits), "median_ms": round(waits[len(waits) // 2], 1), "max_ms": round(waits[-1], 1)}


def attack(port: int, kind: str, seconds: float) -> None:
    """Be a crowd of strangers for a while; in a process of its own, so as to hold up the broker and not the client."""
    rng, until = random.Random(3), time.monotonic() + seconds
    while time.monotonic() < until:
        with crowd(port, 0 if kind == "nobody" else 12) as strangers:
            for one in strangers:
                match kind:
                    case "spoilt":
                        pushed(one, framed(spoilt(made(rng), rng)))
                    case "numbers":
                        pushed(one, framed(struct.pack(">hhih", 3, 9, 5, -1) + b"\xff" * 600_000))
                    case "unfinished":
                        pushed(one, struct.pack(">ihhi", 100 * MIB, 0, 8, 5) + bytes(MIB))
                    case "unread":
                        body = head(1, 4) + struct.pack(">iiiib", -1, 0, 1, 2**31 - 1, 0)
                        body += struct.pack(">ih1siiqi", 1, 1, b"t", 1, 0, 0, 2**31 - 1)
                        pushed(one, framed(body) * 20)
            time.sleep(0.2)


def throughput(address: str) -> dict[str, int]:
    """Return records produced and consumed a second."""
    producer, began = (
        Producer({"bootstrap.servers": address, "queue.buffering.max.messages": MESSAGES}),
        time.monotonic(),
    )
    value = os.urandom(SIZE)
    for _ in range(MESSAGES):
        producer.produce("t", value)
    producer.flush()
    produced = time.monotonic() - began
    reader = Consumer({"bootstrap.servers": address, "group.id": "g"})
    reader.assign([TopicPartition("t", 0, 0)])
    began, n = time.monotonic(), 0
    while n < MESSAGES:
        n += len(reader.consume(10_000, 1.0))
    consumed = time.monotonic() - began
    reader.close()
    return {"produced_a_second": int(MESSAGES / produced), "consumed_a_second": int(MESSAGES / consumed)}


def measured(broker: BrokerProcess, seconds: float) -> dict[str, object]:
    """Return the figures of every kind of stranger."""
    found: dict[str, object] = {"throughput": throughput(broker.address)}
    for kind in ("nobody", "spoilt", "numbers", "unfinished", "unread"):
        client, before = Client(broker.port), resident(broker.pid)
        crowds = multiprocessing.get_context("spawn").Process(target=attack, args=(broker.port, kind, seconds))
        client.start()
        crowds.start()
        crowds.join()
        found[kind] = {**client.end(), "grew_mb": round((resident(broker.pid) - before) / 1e6, 1)}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind of stranger")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, broker_process(Path(scratch) / "broker") as broker:
        admin = AdminClient({"bootstrap.servers": broker.address})
        for done in admin.create_topics([NewTopic("t", 1, 1)]).values():
            done.result(60)
        found = measured(broker, chosen.seconds)
    if chosen.json:
        print(json.dumps(found))
    else:
        for name, figures in found.items():
            print(f"{name:12}{json.dumps(figures)}")


if __name__ == "__main__":
    main()
