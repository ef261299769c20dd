"""The exchange in a box, run beside a test in a thread of its own process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from domain.events import NANOS_PER_DAY
from markets.box.clock import MarketClock
from markets.box.server import Box, opening_of
from markets.source import Source
from markets.venue import Address

PATIENCE_S = 20.0

BTC, ETH = "simulated:BTC-USD", "simulated:ETH-USD"
OPENS = 20_096 * NANOS_PER_DAY


class Boxed:
    """A running box, as a test sees it.

    Attributes
    ----------
    url : ``http://127.0.0.1:PORT``
    address : ``venue.Address`` of both exchanges
    """

    def __init__(self, box: Box) -> None:
        self.url = f"http://{box.url}"
        self.address: Address = box.address
        self.stop = box.stop

    def get(self, path: str) -> object:
        """Return the JSON that a path answers."""
        with urlopen(self.url + path, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def refusal(self, path: str) -> tuple[int, object, Message]:
        """Return status, JSON and headers of an answer that is an error."""
        try:
            with urlopen(self.url + path, timeout=PATIENCE_S) as answer:
                raise AssertionError(f"{path} was answered: {answer.read()!r}")
        except HTTPError as error:
            return error.code, json.load(error), error.headers

    def state(self) -> dict:
        """Return what the box tells of itself."""
        return self.get("/box")

    def fault(self, kind: str, n: int | None = None) -> None:
        """Let a fault happen; see ``markets.box.faults.KINDS``."""
        body = json.dumps({"kind": kind} if n is None else {"kind": kind, "n": n}).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{self.url}/box/faults", body, headers, method="POST"), timeout=PATIENCE_S):
            pass


@contextmanager
def box_of(
    source: Source, speed: float = 60.0, opens: int | None = None, clock_path: Path | None = None, **options
) -> Iterator[Boxed]:
    """Serve a source on a free port while the block runs.

    Parameters
    ----------
    speed : event seconds per wall second; 0: as fast as the connected readers take what they subscribed to
    opens : where the market begins; None as in ``opening_of``
    clock_path : where the clock is kept
    options : as of ``markets.box.server.Box``
    """
    clock = MarketClock(opening_of(source) if opens is None else opens, speed, clock_path)
    box = Box(source, clock, **options)
    thread = threading.Thread(target=box.run, name="box", daemon=True)
    thread.start()
    try:
        yield Boxed(box)
    finally:
        box.stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the box does not stop"
