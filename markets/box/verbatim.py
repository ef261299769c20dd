"""Recorded frames of Binance, given out again as they were recorded, byte for byte."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

import msgspec
import zstandard

_KEPT = 10_000
"""Frames that stay at hand behind the newest that was asked for: trades are also sent twice, or late."""


class _Frame(msgspec.Struct):
    data: msgspec.Raw


class _Trade(msgspec.Struct):
    e: str = ""
    s: str = ""
    t: int = 0


class Verbatim:
    """The events of frame files, by symbol and trade id.

    Parameters
    ----------
    paths
        Sound frame files (see ``markets.frames``), in order. They are read as far as their trades were asked for.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._events = _events(paths)
        self._read: dict[str, OrderedDict[int, bytes]] = {}

    def event(self, symbol: str, trade_id: int) -> bytes | None:
        """Return the event of a trade as it was recorded; None when it is not in the files any more.

        Parameters
        ----------
        symbol : as in the event
        trade_id : rising, but for the last few thousand
        """
        read = self._read.setdefault(symbol, OrderedDict())
        while trade_id not in read:
            if read and next(reversed(read)) > trade_id:
                return None
            found = next(self._events, None)
            if found is None:
                return None
            theirs, their_id, event = found
            self._read.setdefault(theirs, OrderedDict())[their_id] = event
        while len(read) > _KEPT and next(iter(read)) < trade_id - _KEPT:
            read.popitem(last=False)
        return read[trade_id]


def _events(paths: Sequence[Path]) -> Iterator[tuple[str, int, bytes]]:
    frame, trade = msgspec.json.Decoder(_Frame), msgspec.json.Decoder(_Trade)
    for path in paths:
        for line in _lines(path):
            try:
                event = bytes(frame.decode(line.partition(b" ")[2]).data)
                told = trade.decode(event)
            except msgspec.MsgspecError:
                continue  # something else than an event: it was judged when the file was opened as a source
            if told.e == "trade":
                yield told.s, told.t, event


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        if path.suffix != ".zst":
            yield from file
            return
        inflated = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        yield from BufferedReader(inflated)
