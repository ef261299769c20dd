"""Binance's public archives: a file for each UTC day that has ended, and its digest beside it.

References
----------
https://github.com/binance/binance-public-data
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from domain.events import NANOS_PER_DAY, nanos_at
from markets.box.binance_query import MS, US
from markets.box.binance_rest import INTERVALS, kline_rows, trade_rows
from markets.box.faults import Faults
from markets.box.listing import Listing
from markets.box.market import Market

MICROSECONDS_FROM = nanos_at(datetime(2025, 1, 1, tzinfo=UTC))
"""Files of this day and later have times in microseconds, earlier ones in milliseconds."""

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_Lines: TypeAlias = Callable[[], Iterable[Iterable[object]]]


class BinanceArchive:
    """The daily files of one market: what its requests answer, as CSV in a zip.

    Parameters
    ----------
    market
        What was traded.
    faults
        Whether the next file is spoilt.

    Notes
    -----
    A file is there once its day has ended, and the same bytes each time it is made: only the last is kept, for its
    digest and it are asked for one after the other. Files weigh nothing: their host is another than that of requests.
    """

    def __init__(self, market: Market, faults: Faults) -> None:
        self._market = market
        self._faults = faults
        self._listings = {listing.binance: listing for listing in market.listings}
        self._last = "", b""

    def routes(self) -> list[Route]:
        """Return where it answers."""
        return [
            Route("/data/spot/daily/klines/{symbol}/{name}/{file}", self._klines, methods=["GET"]),
            Route("/data/spot/daily/trades/{symbol}/{file}", self._trades, methods=["GET"]),
        ]

    async def _klines(self, request: Request) -> Response:
        name = request.path_params["name"]
        interval = INTERVALS.get(name, 2 * NANOS_PER_DAY)
        if interval > NANOS_PER_DAY:  # a day has no week
            return _lacking()
        return await self._answer(request, name, partial(self._candles_of, interval))

    async def _trades(self, request: Request) -> Response:
        return await self._answer(request, "trades", self._trades_of)

    def _candles_of(self, interval: int, listing: Listing, day: int, unit: int) -> _Lines | None:
        end = day + NANOS_PER_DAY
        candles = self._market.candles.between(listing.instrument, interval, day, end - 1, end)
        return partial(kline_rows, candles, interval, unit) if len(candles) else None

    def _trades_of(self, listing: Listing, day: int, unit: int) -> _Lines | None:
        trades = self._market.tape.day(listing.instrument, day // NANOS_PER_DAY)
        return (lambda: (row.values() for row in trade_rows(trades, unit))) if len(trades) else None

    async def _answer(
        self, request: Request, name: str, lines_of: Callable[[Listing, int, int], _Lines | None]
    ) -> Response:
        """Answer with a file, part of one, or its digest."""
        symbol, asked = request.path_params["symbol"], request.path_params["file"]
        listing, file = self._listings.get(symbol), asked.removesuffix(".CHECKSUM")
        day = _day(file.removeprefix(f"{symbol}-{name}-"))
        if listing is None or day is None or not self._has(listing, day):
            return _lacking()
        if self._last[0] != file:
            lines = lines_of(listing, day, US if day >= MICROSECONDS_FROM else MS)
            if lines is None:
                return _lacking()
            # Beside the loop, which has trades to send meanwhile.
            self._last = file, await asyncio.to_thread(_zipped, file.replace(".zip", ".csv"), lines)
        body = self._last[1]
        if asked != file:
            return Response(f"{hashlib.sha256(body).hexdigest()}  {file}\n", media_type="binary/octet-stream")
        return self._part(body, request.headers.get("range", ""))

    def _has(self, listing: Listing, day: int) -> bool:
        """Whether a day has ended that lies between the listing and the source's end."""
        tape, end = self._market.tape, day + NANOS_PER_DAY
        closed = tape.begins(listing.instrument) < end <= self._market.clock.now()
        return closed and (tape.ends is None or day <= tape.ends)

    def _part(self, body: bytes, asked: str) -> Response:
        """Answer with a file, or with the one range of it that was asked for."""
        headers, size = {"accept-ranges": "bytes"}, len(body)
        found, status = _RANGE.fullmatch(asked), 200
        if found is not None:
            start, end = int(found[1]), min(int(found[2] or size), size - 1)
            if start >= size:
                return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
            if start <= end:
                status, body = 206, body[start : end + 1]
                headers["content-range"] = f"bytes {start}-{end}/{size}"
        if self._faults.taken("checksum", 1):
            middle = len(body) // 2
            body = b"%b%c%b" % (body[:middle], body[middle] ^ 1, body[middle + 1 :])
        return Response(body, status, headers, "application/zip")


def _day(file: str) -> int | None:
    """Return when the day of ``2025-01-08.zip`` begins, ns; None where that is no such name."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d\.zip", file):
        return None
    try:
        return nanos_at(datetime.fromisoformat(file.removesuffix(".zip")))
    except ValueError:
        return None


def _zipped(name: str, lines: _Lines) -> bytes:
    text = "".join(",".join(map(str, line)) + "\n" for line in lines())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # as of 1980, always
    return file.getvalue()


def _lacking() -> Response:
    said = "<Code>NoSuchKey</Code><Message>The specified key does not exist.</Message>"
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{said}</Error>', 404, media_type="application/xml")
