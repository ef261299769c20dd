"""Recorded WebSocket frames of Binance's combined stream, one ``local_ns json`` a line, plain or zstd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import zstandard

from domain.events import BUY, SELL
from markets.binance_wire import TradeFrame, meaning
from markets.findings import Finding, one_line, refused
from markets.rows import Rows
from markets.source import Kind
from markets.symbols import dashed, instrument_of

BLOCK = 8 << 20
"""Bytes of text in a piece: some 45,000 frames."""

_READ = 1 << 20

_READ_PACKED = 2 << 10
"""Compressed bytes inflated at once: a block of zstd takes four bytes at least and holds 128 KB, so 64 MB at most."""

MOST_INFLATED = 1_000
"""Bytes of text from one of the file, beyond the first ``BLOCK`` of them: frames shrink to a tenth or a thirtieth."""


class FrameReader:
    """A file of frames; see ``rows.Reader``.

    The event time is the exchange's (``T``): the recorder's own clock, the number before the frame, may run behind it.
    Frames that are no market trade (acknowledgements, other streams, insurance fund executions) are left out; so are
    trades in a format that is not known, which a finding counts.
    """

    kind: Kind = "trades"

    def __init__(self, path: Path, venue: str, known: tuple[list[int], int] | None = None) -> None:
        self.path = path
        self.findings: list[Finding] = []
        self._venue = venue
        self._decoder = msgspec.json.Decoder(TradeFrame)
        self._names: dict[str, str] = {}
        self._unread: set[int] = set()
        self._texts: Iterator[bytes] = iter(())
        self._next = 0  # the piece that _texts yields next; a first read starts it
        self._first_lines, self.lines = known or self._measured()

    @property
    def pieces(self) -> int:
        """The blocks of text."""
        return len(self._first_lines)

    def read(self, piece: int) -> Rows:
        """Return the trades of a block; going back starts over at the beginning of the file."""
        if piece < self._next or self._next == 0:
            self._texts, self._next = self._text(), 0
        text = b""
        while self._next <= piece:
            text = next(self._texts)
            self._next += 1
        return self._decoded(text, self._first_lines[piece])

    def fresh(self) -> FrameReader:
        """Return another reader, at the beginning of the file."""
        return FrameReader(self.path, self._venue, (self._first_lines, self.lines))

    def _measured(self) -> tuple[list[int], int]:
        """Return the number of the first line of each piece, and of lines in all."""
        first_lines, lines = [], 0
        for text in self._text():
            first_lines.append(lines + 1)
            lines += text.count(b"\n") + (not text.endswith(b"\n"))
        return first_lines, lines

    def _text(self) -> Iterator[bytes]:
        """Yield blocks of whole lines."""
        rest = bytearray()
        with self.path.open("rb") as file:
            for chunk in (
                _inflated(file, self.path) if self.path.suffix == ".zst" else iter(lambda: file.read(_READ), b"")
            ):
                rest += chunk
                if len(rest) >= BLOCK:
                    cut = rest.rfind(b"\n") + 1
                    if not cut:
                        raise refused(
                            "frame", self.path, None, f"holds a line of over {BLOCK:,} bytes", "drop the line"
                        )
                    yield bytes(rest[:cut])
                    del rest[:cut]
        if rest:
            yield bytes(rest)

    def _decoded(self, text: bytes, first_line: int) -> Rows:
        decode, lines, trades = self._decoder.decode, [], []
        for line, frame in enumerate(text.splitlines(), first_line):
            try:
                data = decode(frame[frame.index(b" ") :]).data
                if data.X == "MARKET":
                    trades.append((data.s, data.T, float(data.p), float(data.q), data.t, data.m))
                    lines.append(line)
            except (msgspec.MsgspecError, ValueError) as error:
                if (meant := meaning(frame.partition(b" ")[2])) != "":
                    if meant == "trade":
                        self._leave_out(line, error)
                    continue
                raise refused(
                    "frame", self.path, line, f"is no 'local_ns json' frame of a trade ({one_line(error)})",
                    "drop the line; a recording that was cut off may end with half of one",
                ) from error  # fmt: skip
        return self._rows(lines, trades)

    def _leave_out(self, line: int, error: Exception) -> None:
        self._unread.add(line)
        self.findings = [
            Finding("warning", "format", self.path, min(self._unread),
                    f"{len(self._unread)} trades in a format that is not known are left out ({one_line(error)})",
                    "of a recorded session its trades' own files have them")
        ]  # fmt: skip

    def _rows(self, lines: list[int], trades: list[tuple[str, int, float, float, int, bool]]) -> Rows:
        symbols, ts, price, size, ids, maker = zip(*trades, strict=True) if trades else ((),) * 6
        names = list(dict.fromkeys(symbols))
        for name in names:
            if name not in self._names:
                instrument = instrument_of(dashed(name), self._venue)
                if instrument is None:
                    line = lines[symbols.index(name)]
                    raise refused("symbol", self.path, line, f"symbol {name!r} is no instrument", "drop its frames")
                self._names[name] = instrument
        places = {name: place for place, name in enumerate(names)}
        return Rows(
            row=np.array(lines, np.int64),
            instruments=tuple(self._names[name] for name in names),
            code=np.array([places[symbol] for symbol in symbols], np.int64),
            ts=np.array(ts, np.int64) * 1_000_000,
            values=np.column_stack((np.array(price, np.float64), np.array(size, np.float64))),
            trade_id=np.array(ids, np.int64),
            # The buyer was the maker: the taker sold.
            side=np.where(np.array(maker, np.bool_), SELL, BUY).astype(np.int8),
        )


def _inflated(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the text of a zstd file of one or several frames; a file that ends inside one is refused."""
    inflate = zstandard.ZstdDecompressor().decompressobj()
    begun, read, given = False, 0, 0
    try:
        while chunk := file.read(_READ_PACKED):
            read += len(chunk)
            while chunk:
                begun = True
                text = inflate.decompress(chunk)
                given += len(text)
                if given > BLOCK + MOST_INFLATED * read:
                    raise refused("memory", path, None, f"inflates to over {MOST_INFLATED:,} times its size",
                                  "it is no recording; download or record it again")  # fmt: skip
                yield text
                chunk = b""
                if inflate.eof:
                    chunk, begun = inflate.unused_data, False
                    inflate = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise refused("corrupt", path, None, f"is not readable zstd ({one_line(error)})",
                      "download or record it again") from error  # fmt: skip
    if begun:
        raise refused("corrupt", path, None, "ends in the middle of its compressed data",
                      "download it again, or save the whole lines with zstd -dc")  # fmt: skip
