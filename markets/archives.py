"""Binance's public archives: a file for each UTC day, for history that would take too many requests.

References
----------
https://github.com/binance/binance-public-data: daily files appear on the next day, with a SHA-256 beside each; times
of the spot market are microseconds from 2025-01-01 on, milliseconds before.
"""

from __future__ import annotations

import asyncio
import csv
import io
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv

from domain.errors import BadRecord, Unavailable
from domain.events import BUY, NANOS_PER_DAY, NANOS_PER_SECOND, SELL
from domain.tables import BarTable, Ints, TradeTable
from markets.binance import Binance
from markets.binance_wire import MS, US, Kline, candle_table
from markets.downloads import Downloads
from markets.patience import Tell
from markets.venue import Rest

BASE = "https://data.binance.vision"

RECENT_DAYS = 30
"""Whole days that ended longer ago come from the archives: a month of 1-minute candles is 44 requests."""

_TRADES = {
    "id": pa.int64(),
    "price": pa.float64(),
    "qty": pa.float64(),
    "quoteQty": pa.string(),
    "time": pa.int64(),
    "isBuyerMaker": pa.bool_(),
    "isBestMatch": pa.string(),
}
_USED = ["id", "price", "qty", "time", "isBuyerMaker"]
_BLOCK = 4 << 20
"""Bytes of text in a table: some 60,000 trades."""

_DAY_BYTES = 32 << 20
"""Most bytes of a day's candles: 86,400 of a second take half of it."""

_MICROSECONDS = 10**14
"""A time from here on is in microseconds: as milliseconds it would be of the year 5138, and before it is of 1973."""


class Archives:
    """What the archives hold of a day.

    Parameters
    ----------
    downloads
        The files.
    """

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads

    async def candles(self, symbol: str, name: str, interval: int, day: int) -> BarTable | None:
        """Return the candles of a day; None when the archives have no such day.

        Parameters
        ----------
        symbol, name : of the market and of the candle's length, as the exchange has them: ``BTCUSDT``, ``1m``
        interval, day : int
            Nanoseconds: the candle's length, and when the day begins.

        Raises
        ------
        BadRecord
            When the file holds something else.
        Unavailable
            As for ``Downloads.file``; or when the file cannot be opened, which is then removed.
        """
        path = await self._downloads.file(f"/data/spot/daily/klines/{symbol}/{name}/{symbol}-{name}-{date_of(day)}.zip")
        return None if path is None else await asyncio.to_thread(_read_candles, path, interval, day)

    async def trades(self, symbol: str, day: int) -> AsyncIterator[TradeTable]:
        """Yield the trades of a day in order of their ids; nothing when the archives have no such day.

        Raises
        ------
        BadRecord, Unavailable
            As for ``candles``.
        """
        path = await self._downloads.file(f"/data/spot/daily/trades/{symbol}/{symbol}-trades-{date_of(day)}.zip")
        if path is not None:
            tables = _read_trades(path, day)
            while (table := await asyncio.to_thread(next, tables, None)) is not None:
                yield table


class ArchivedBinance(Binance):
    """The exchange with its archives: candles of long ago come from these, and join those of requests.

    Parameters
    ----------
    downloads
        Opens the client of the archives: ``lambda: Downloads(cache, BASE)``.
    tell
        Is told which days the archives lack; requests tell them instead.
    venue
        As of ``Binance``.
    """

    def __init__(
        self,
        downloads: Callable[[], AbstractAsyncContextManager[Downloads]],
        tell: Tell = lambda _: None,
        venue: str = "binance",
    ) -> None:
        super().__init__(venue)
        self._downloads = downloads
        self._tell = tell

    async def candles(
        self, rest: Rest, instrument: str, interval: int, start: int, end: int
    ) -> AsyncIterator[BarTable]:
        """Yield closed candles; see ``Venue.candles``."""
        name, symbol = self.interval(interval), self.symbol(instrument)
        recent = await self.now(rest) - RECENT_DAYS * NANOS_PER_DAY
        days = range(-(-start // NANOS_PER_DAY), min(end, recent) // NANOS_PER_DAY)
        given, missing = start, []
        async with AsyncExitStack() as stack:
            archives = Archives(await stack.enter_async_context(self._downloads())) if days else None
            for day in (number * NANOS_PER_DAY for number in days):
                table = await archives.candles(symbol, name, interval, day) if archives else None
                if table is None:
                    missing.append(date_of(day))
                    continue
                if given < day:
                    self._say(instrument, missing)
                    async for page in super().candles(rest, instrument, interval, given, day):
                        yield page
                yield table
                given, missing = day + NANOS_PER_DAY, []
        self._say(instrument, missing)
        async for page in super().candles(rest, instrument, interval, given, end):
            yield page

    def _say(self, instrument: str, missing: list[str]) -> None:
        if missing:
            days = missing[0] if len(missing) == 1 else f"{missing[0]} to {missing[-1]}"
            self._tell(f"{instrument}: the archives have no candles of {days}; they are asked for by request")


def date_of(ts: int) -> str:
    """Return the UTC date of a time, ns.

    >>> date_of(20_000 * NANOS_PER_DAY)
    '2024-10-04'
    """
    return datetime.fromtimestamp(ts // NANOS_PER_SECOND, UTC).date().isoformat()


def _read_candles(path: Path, interval: int, day: int) -> BarTable:
    with _opened(path) as file:
        text = file.read(_DAY_BYTES + 1)
    if len(text) > _DAY_BYTES:
        raise BadRecord("schema", f"{path} holds over {_DAY_BYTES:,} bytes of candles, more than a day has")
    try:
        lines = [line for line in csv.reader(io.StringIO(text.decode("utf-8", "replace"))) if line]
    except csv.Error as error:
        raise BadRecord("schema", f"{path} holds a line that is no candle: {error}") from error
    if lines and not lines[0][0].isdecimal():  # a header, should there ever be one
        del lines[0]
    try:
        rows = msgspec.convert(lines, list[Kline], strict=False)
    except msgspec.ValidationError as error:
        raise BadRecord("schema", f"{path} holds a line that is no candle: {error}") from error
    if not rows:
        raise BadRecord("schema", f"{path} holds no candle")
    table = candle_table(rows, _unit(rows[0].opened), interval)
    opened = table.ts - interval
    _demand_day(path, opened, day)
    if np.any(np.diff(opened) <= 0):
        raise BadRecord("schema", f"{path} holds candles out of order")
    return table


def _read_trades(path: Path, day: int) -> Iterator[TradeTable]:
    with _opened(path) as file:
        header = not file.read(1).isdigit()  # should there ever be one
        file.seek(0)
        options = pacsv.ReadOptions(use_threads=False, block_size=_BLOCK, skip_rows=header, column_names=list(_TRADES))
        convert = pacsv.ConvertOptions(
            column_types=_TRADES, include_columns=_USED, true_values=["True", "true"], false_values=["False", "false"]
        )
        last = -1
        try:
            for batch in pacsv.open_csv(file, options, convert_options=convert):
                table = _trades_of(batch)
                _demand_day(path, table.ts, day)
                if np.any(np.diff(table.trade_id, prepend=last) <= 0):
                    raise BadRecord("schema", f"{path} holds trades out of order")
                last = table.trade_id[-1]
                yield table
        except pa.ArrowInvalid as error:
            raise BadRecord("schema", f"{path} holds a line that is no trade: {error}") from error


def _trades_of(batch: pa.RecordBatch) -> TradeTable:
    # Arrow's own way to arrays would import pandas: a second, 50 MB.
    columns: list[npt.NDArray[Any]] = [np.from_dlpack(batch.column(name)) for name in _USED[:4]]
    ids, price, size, time = columns
    maker = np.from_dlpack(batch.column("isBuyerMaker").cast(pa.int8()))
    unit = _unit(int(time[0]))
    # The buyer was the maker: the taker sold.
    return TradeTable(time * unit, ids, price, size, np.where(maker, SELL, BUY).astype(np.int8))


def _unit(time: int) -> int:
    """Return the nanoseconds of a file's unit of time, told by the magnitude of a time."""
    return US if time >= _MICROSECONDS else MS


def _demand_day(path: Path, ts: Ints, day: int) -> None:
    if not (day <= ts.min() and ts.max() < day + NANOS_PER_DAY):
        raise BadRecord("schema", f"{path} holds times outside {date_of(day)}; has the archive changed its format?")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the one member of a zip file."""
    try:
        with zipfile.ZipFile(path) as packed, packed.open(packed.namelist()[0]) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, IndexError) as error:
        path.unlink()
        raise Unavailable(f"{path} cannot be unpacked ({error}) and is removed; run again to download it") from error
