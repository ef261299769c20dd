"""Archives as a real server gives them: files with ranges and digests, beside the exchange's hourly candles."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from json import dumps

from starlette.responses import Response

from markets.archives import date_of
from tests.markets.samples import MINUTE, START
from tests.markets.servers import html, json

HOUR = 60 * MINUTE


def zipped(text: str, name="a.csv") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, text)
    return file.getvalue()


def kline(opened: int, unit: int, step=HOUR) -> list[str]:
    closed = (opened + step) // unit - 1
    return [str(opened // unit), "10.0", "12.0", "9.0", "11.0", "3.00000000", str(closed), "33.0", "7", "1.2", "1", "0"]


def day_of_candles(day: int, unit=1_000_000, lines=24) -> bytes:
    return zipped("".join(",".join(kline(day + k * HOUR, unit)) + "\n" for k in range(lines)))


@dataclass
class Archive:
    """Serves files with ranges and digests, and the exchange's hourly candles; what is in ``trouble`` comes first."""

    files: dict[str, bytes] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    now: int = START

    def __call__(self, asked):
        if asked.path == "/api/v3/time":
            return json(f'{{"serverTime":{self.now // 1_000_000}}}')
        if asked.path == "/api/v3/klines":
            low, high, limit = (int(asked.params[name]) for name in ("startTime", "endTime", "limit"))
            opened = range(-(-low * 1_000_000 // HOUR) * HOUR, min(high * 1_000_000, self.now) + 1, HOUR)[:limit]
            return json(dumps([[int(r[0]), *r[1:6], int(r[6]), r[7], int(r[8]), *r[9:]]
                               for r in (kline(ts, 1_000_000) for ts in opened)]))  # fmt: skip
        path = asked.path.removesuffix(".CHECKSUM")
        if path not in self.files:
            return html(404, "NoSuchKey")
        return self.digest(path) if path != asked.path else self.part(path, asked.headers.get("range", "bytes=0-"))

    def digest(self, path: str) -> Response:
        """A digest as the archive writes it."""
        digest = self.digests.get(path) or hashlib.sha256(self.files[path]).hexdigest()
        return Response(f"{digest}  {path.rpartition('/')[2]}\n")

    def part(self, path: str, asked: str) -> Response:
        """A file, or what a range asks of it."""
        body, start = self.files[path], int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            return Response(status_code=416)
        headers = {"content-range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        return Response(body[start:], 206 if start else 200, headers)

    def candles(self, day: int, body: bytes, name="1h") -> str:
        path = f"/data/spot/daily/klines/BTCUSDT/{name}/BTCUSDT-{name}-{date_of(day)}.zip"
        self.files[path] = body
        return path

    def trades(self, day: int, body: bytes) -> str:
        path = f"/data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-{date_of(day)}.zip"
        self.files[path] = body
        return path
