"""A live session, recorded while it runs: frames as they came, trades as they were handed out, and their provenance."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog

from domain.errors import Unavailable
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE, NANOS_PER_SECOND, Trade
from markets.recordings import Shelf, join_frames, join_trades, write_frames, write_trades
from markets.venue import Address

PROVENANCE = "recording.json"

WRITE_S = 60.0
"""Seconds of a session that a kill may cost; a file a minute is what any file system bears."""

MOST_BYTES, MOST_TRADES = 8 << 20, 100_000
"""What is kept in memory before it is written: a second of the worst burst."""

MOST_REPAIRS = 10_000
"""Repairs that are listed one by one."""

_LATE = 10 * NANOS_PER_MINUTE
"""How long after midnight something of the day before is waited for."""


class Span(msgspec.Struct):
    """The trades of one instrument that were written."""

    trades: int
    first_id: int
    last_id: int


class Repair(msgspec.Struct):
    """Trades that the stream had left out and REST told: so many, of ids above ``after`` and up to ``last``."""

    instrument: str
    after: int | None
    last: int
    trades: int


class Provenance(msgspec.Struct):
    """Where a session is from; without ``ended`` it was killed, or goes on."""

    venue: str
    rest: str
    stream: str
    instruments: tuple[str, ...]
    simulated: bool
    began: str
    versions: dict[str, str]
    ended: str | None = None
    frames: int = 0
    trades: dict[str, Span] = {}
    repaired: int = 0
    repairs: list[Repair] = []


class Recorder:
    """Writes one session into a folder of its own; see ``repairs.Tape``, and ``recordings`` for its files.

    Frames may come from one thread while trades come from another.

    Parameters
    ----------
    folder : where sessions are kept
    venue, address, instruments, simulated : what is recorded
    write_s : seconds between two writes
    clock : wall clock, ns since epoch UTC

    Attributes
    ----------
    folder : of this session

    Raises
    ------
    Unavailable
        When its folder cannot be made. A folder that cannot be written later ends the recording, never the feed: one
        line says so, and ``ended`` is never told.
    """

    def __init__(
        self, folder: Path, venue: str, address: Address, instruments: Sequence[str], *, simulated: bool,
        write_s: float = WRITE_S, clock: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        now = clock()
        self.folder = folder / f"{venue}-{_time(now):%Y%m%dT%H%M%S.%fZ}"
        self._clock, self._write_ns = clock, int(write_s * NANOS_PER_SECOND)
        self._frames = Shelf(self.folder, "frames", write_frames, join_frames)
        self._trades = Shelf(self.folder, "trades", write_trades, join_trades)
        self._lines: dict[int, list[bytes]] = {}
        self._bytes = 0
        self._rows: dict[int, list[Trade]] = {}
        self._n = 0
        self._frames_written = self._trades_written = now
        self._joining: threading.Thread | None = None
        self._today = now // NANOS_PER_DAY
        self._lock = threading.Lock()  # of the provenance, which both threads change and write
        self._provenance = Provenance(
            venue, address.rest, address.stream, tuple(instruments), simulated, _time(now).isoformat(), _versions()
        )
        self._broken = False
        try:
            self.folder.mkdir(parents=True)
            self._say()
        except OSError as error:
            raise Unavailable(
                f"{self.folder}: the recording cannot be written ({error.strerror or error}); make room, or set record "
                "= false"
            ) from error

    def frames(self, frames: Sequence[bytes]) -> None:
        """Keep frames, stamped with the time of now."""
        now = self._clock()
        # Between JSON's tokens white space may be of any kind, and within its strings there is no line feed.
        lines = [b"%d %b\n" % (now, frame.replace(b"\n", b" ")) for frame in frames]
        self._lines.setdefault(now // NANOS_PER_DAY, []).extend(lines)
        self._bytes += sum(map(len, lines))
        if self._bytes >= MOST_BYTES or self._is_due(now, self._frames_written):
            self._write_frames(now)

    def trades(self, trades: Sequence[Trade]) -> None:
        """Keep trades, by the day on which they happened."""
        now = self._clock()
        for trade in trades:
            self._rows.setdefault(trade.ts_event // NANOS_PER_DAY, []).append(trade)
        self._n += len(trades)
        if self._n >= MOST_TRADES or self._is_due(now, self._trades_written):
            self._write_trades(now)
            self._tidy(now)

    def repaired(self, instrument: str, after: int | None, last: int, trades: int) -> None:
        """Note what REST told."""
        with self._lock:
            self._provenance.repaired += trades
            if len(self._provenance.repairs) < MOST_REPAIRS:
                self._provenance.repairs.append(Repair(instrument, after, last, trades))

    def close(self) -> None:
        """Write what is kept, put each day together and say that the session is whole."""
        now = self._clock()
        self._write_frames(now)
        self._write_trades(now)
        if self._joining is not None:
            self._joining.join()
        if self._broken:
            return
        with self._writing():
            self._join(None)
            self._provenance.ended = _time(now).isoformat()
            self._say()

    def _is_due(self, now: int, written: int) -> bool:
        return not 0 <= now - written < self._write_ns  # also when the clock was set back

    def _write_frames(self, now: int) -> None:
        lines, self._lines, self._bytes, self._frames_written = self._lines, {}, 0, now
        if self._broken:
            return
        with self._writing(), self._lock:
            for day, some in lines.items():
                self._frames.write(day, some)
                self._provenance.frames += len(some)
            self._say()

    def _write_trades(self, now: int) -> None:
        rows, self._rows, self._n, self._trades_written = self._rows, {}, 0, now
        if self._broken:
            return
        with self._writing(), self._lock:
            for day, some in rows.items():
                self._trades.write(day, some)
                for trade in some:
                    span = self._provenance.trades.setdefault(trade.instrument, Span(0, trade.trade_id, 0))
                    span.trades += 1
                    span.last_id = trade.trade_id
            self._say()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write; where that does not go, the recording is over."""
        try:
            yield
        except OSError as error:
            self._broken = True
            structlog.get_logger().error(
                "the recording ends here, the feed goes on; make room, and redeploy ingest to record again",
                folder=self.folder, reason=error.strerror or str(error),
            )  # fmt: skip

    def _tidy(self, now: int) -> None:
        """Put the files of a day that is over together, aside."""
        day = (now - _LATE) // NANOS_PER_DAY
        if day > self._today and (self._joining is None or not self._joining.is_alive()):
            self._today = day
            self._joining = threading.Thread(target=self._join_aside, args=(day,), name="recorder", daemon=True)
            self._joining.start()

    def _join_aside(self, before: int) -> None:
        try:
            self._join(before)
        except OSError as error:  # the small files hold everything, and the next day is another chance
            structlog.get_logger().warning("files of a day not put together", folder=self.folder, reason=str(error))

    def _join(self, before: int | None) -> None:
        self._frames.join(before)
        self._trades.join(before)

    def _say(self) -> None:
        partial = self.folder / f".{PROVENANCE}"
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self._provenance)))
        partial.rename(self.folder / PROVENANCE)


def _time(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / NANOS_PER_SECOND, UTC)


def _versions() -> dict[str, str]:
    names = ("tidemill", "websockets", "pyarrow", "zstandard")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
