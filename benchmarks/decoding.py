"""How many trades a second each venue reads from frames: ``python benchmarks/decoding.py [FRAMES]``.

FRAMES are recorded frames of Binance (``.jsonl.zst``, one ``local_ns json`` a line); without, 30,000 made-up ones.
Those of Kraken are the same trades as it would write them, one, four and fifty a frame. On one core: the median of five
passes, in thousands a second of processor time, and for comparison what a decoder does that only parses the JSON.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import zstandard

from markets.binance import Binance
from markets.kraken import Kraken

MADE_UP = (
    b'{"stream":"%susdt@trade","data":{"e":"trade","E":%d,"s":"%sUSDT","t":%d,"p":"61837.63000000","q":"0.00120000",\
"T":%d,"m":%s,"M":true}}'
)


def main() -> None:
    """Measure and print one JSON object."""
    if sys.argv[1:]:
        lines = zstandard.decompress(Path(sys.argv[1]).read_bytes(), 1 << 30).splitlines()
        frames = [line.partition(b" ")[2] for line in lines]
    else:
        frames = [
            MADE_UP % (name.lower(), ms, name, k, ms, b"true" if k % 3 else b"false")
            for k in range(30_000)
            for name, ms in [((b"BTC", b"ETH")[k % 2], 1_723_161_255_000 + 33 * k)]
        ]
    rows = [_as_kraken(msgspec.json.decode(frame)["data"]) for frame in frames]
    found = {
        "trades": len(frames),
        "binance": _thousands(Binance().read, frames, len(frames)),
        "only parsed": _thousands(msgspec.json.decode, frames, len(frames)),
    }
    for many in (1, 4, 50):
        packed = [_frame(rows[at : at + many]) for at in range(0, len(rows), many)]
        found[f"kraken, {many} a frame"] = _thousands(Kraken().read, packed, len(rows))
    print(msgspec.json.encode(found).decode())


def _thousands(read: Callable[[bytes], object], frames: list[bytes], trades: int) -> int:
    passes = []
    for _ in range(5):
        began = time.process_time()
        for frame in frames:
            read(frame)
        passes.append(trades / (time.process_time() - began))
    return round(statistics.median(passes) / 1_000)


def _as_kraken(data: dict[str, object]) -> bytes:
    seconds, ms = divmod(int(str(data["T"])), 1_000)
    at = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}217Z"
    symbol, side = f"{str(data['s'])[:3]}/USD", "sell" if data["m"] else "buy"
    return (
        f'{{"symbol":"{symbol}","side":"{side}","price":{data["p"]},"qty":{data["q"]},"ord_type":"market",'
        f'"trade_id":{data["t"]},"timestamp":"{at}"}}'
    ).encode()


def _frame(rows: list[bytes]) -> bytes:
    return b'{"channel":"trade","type":"update","data":[' + b",".join(rows) + b"]}"


if __name__ == "__main__":
    main()
