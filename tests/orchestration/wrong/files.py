"""Wrong files: of market data, given to ``replay``, and of configuration; what they hold, and words of the refusal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Content = str | bytes | Callable[[Path], object]

CANDLES, TRADES = "symbol,ts,open,high,low,close,volume\n", "symbol,ts,price,size,side,trade_id\n"
FIRST = 1_546_300_800


def candles(*rows: str) -> str:
    """Return a CSV of candles; a row of nothing is a good one."""
    good = "AAA,{ts},1.0,1.0,1.0,1.0,5.0"
    return CANDLES + "".join(f"{(row or good).format(ts=FIRST + 60 * n)}\n" for n, row in enumerate(rows))


def trades(*rows: str) -> str:
    """Return a CSV of trades; a row of nothing is a good one."""
    good = "AAA,{ts},1.0,1.0,buy,{n}"
    return TRADES + "".join(f"{(row or good).format(ts=FIRST + n, n=n)}\n" for n, row in enumerate(rows))


def parquet(**columns: object) -> Callable[[Path], object]:
    """Return what writes a Parquet file of these columns."""
    return lambda path: pq.write_table(pa.table(columns), path)


def _unreadable_kind(path: Path) -> None:
    os.mkfifo(path)


DATA: list[tuple[str, Content, str, str]] = [
    ("nothing.csv", "", "nothing.csv", ";"),
    ("blank.csv", "\n\n\n", "blank.csv", ";"),
    ("header.csv", CANDLES, "header.csv: holds no row", "give a file with data"),
    ("header-of-trades.csv", TRADES, "header-of-trades.csv: holds no row", "give a file with data"),
    ("columns.csv", "a,b,c\n1,2,3\n", "columns.csv: has no column", "name the columns of"),
    ("few.csv", "symbol,ts,open\nAAA,5,1\n", "few.csv: has no column", "name the columns of"),
    ("twice.csv", "symbol,symbol,ts,open,high,low,close,volume\nA,A,5,1,1,1,1,1\n", "'symbol' occurs twice", "rename"),
    ("capitals.csv", CANDLES.upper() + "AAA,5,1,1,1,1,1\n", "has no column", "name the columns of"),
    ("semicolons.csv", candles("").replace(",", ";"), "has no column", "name the columns of"),
    ("prose.csv", "This is a letter.\nIt has two lines.\n", "prose.csv: has no column", "name the columns of"),
    ("binary.csv", bytes(range(256)) * 40, "binary.csv", ";"),
    ("utf16.csv", candles("", "").encode("utf-16"), "utf16.csv", ";"),
    ("nul.csv", b"\0" * 5_000, "nul.csv", ";"),
    ("ragged.csv", candles("", "AAA,{ts},1.0", ""), "ragged.csv", ";"),
    ("wide.csv", candles("", "AAA,{ts},1,1,1,1,1,1,1", ""), "wide.csv", ";"),
    ("text.csv", candles("", "AAA,{ts},one,1,1,1,1", ""), "text.csv", ";"),
    ("empty-cell.csv", candles("", "AAA,{ts},,1,1,1,1", ""), "empty-cell.csv", ";"),
    ("nan.csv", candles("", "AAA,{ts},nan,1,1,1,1", ""), "nan.csv: row 2", ";"),
    ("infinite.csv", candles("", "AAA,{ts},inf,inf,1,1,1", ""), "infinite.csv: row 2", ";"),
    ("negative.csv", candles("", "AAA,{ts},-1,1,-1,1,1", ""), "negative.csv: row 2", ";"),
    ("zero.csv", candles("", "AAA,{ts},0,0,0,0,1", ""), "zero.csv: row 2", ";"),
    ("low-above-high.csv", candles("", "AAA,{ts},1,1,2,1,1", ""), "low-above-high.csv: row 2", ";"),
    ("volume.csv", candles("", "AAA,{ts},1,1,1,1,-5", ""), "volume.csv: row 2", ";"),
    ("unsorted.csv", candles("", "", "AAA,1546300800,1,1,1,1,1", ""), "unsorted.csv: row 3", ";"),
    ("same-time.csv", candles("", "AAA,1546300800,1,1,1,1,1", ""), "same-time.csv: row 2", ";"),
    ("old.csv", candles("AAA,5,1,1,1,1,1", ""), "ts is 5, no time in any unit", "write seconds, ms, us or ns"),
    ("units.csv", candles("", "AAA,1546300860000,1,1,1,1,1"), "units.csv: row 2", ";"),
    ("dates.csv", candles("AAA,tomorrow,1,1,1,1,1", "AAA,tomorrow,1,1,1,1,1"), "dates.csv", ";"),
    ("off-grid.csv", candles(*[""] * 40, "AAA,1546303221,1,1,1,1,1"), "off-grid.csv", ";"),
    ("alone.csv", candles(""), "one candle does not tell its interval", "give a longer file"),
    ("gap.csv", candles("", "", "AAA,1609459200,1,1,1,1,1", "AAA,1609459260,1,1,1,1,1"), "gap of", "cut the file there"),
    ("symbol.csv", candles("!!,{ts},1,1,1,1,1", "!!,{ts},1,1,1,1,1"), "symbol.csv: row 1", "such as BTC-USD"),
    ("no-symbol.csv", candles(",{ts},1,1,1,1,1", ",{ts},1,1,1,1,1"), "no-symbol.csv", ";"),
    ("side.csv", trades("", "AAA,{ts},1,1,upwards,{n}", ""), "side.csv: row 2", "buy or sell"),
    ("id.csv", trades("", "AAA,{ts},1,1,buy,x", ""), "id.csv", ";"),
    ("same-id.csv", trades("", "AAA,1546300800,1,1,buy,0", ""), "same-id.csv: row 2", ";"),
    ("price.csv", trades("", "AAA,{ts},-1,1,buy,{n}", ""), "price.csv: row 2", ";"),
    ("size.csv", trades("", "AAA,{ts},1,-1,buy,{n}", ""), "size.csv: row 2", ";"),
    ("nothing.parquet", "", "nothing.parquet", ";"),
    ("text.parquet", "symbol,ts\n", "text.parquet", ";"),
    ("zeros.parquet", b"\0" * 10_000, "zeros.parquet", ";"),
    ("torn.parquet", b"PAR1" + b"\0" * 500 + b"PAR1", "torn.parquet", ";"),
    ("columns.parquet", parquet(a=[1], b=[2]), "columns.parquet: has no column", "name the columns of"),
    ("no-rows.parquet", parquet(symbol=pa.array([], pa.string()), ts=pa.array([], pa.int64()),
                                **{n: pa.array([], pa.float64()) for n in ("open", "high", "low", "close", "volume")}),
     "no-rows.parquet: holds no row", "give a file with data"),
    ("types.parquet", parquet(symbol=[1, 2], ts=[FIRST, FIRST + 60],
                              **{n: [1.0, 1.0] for n in ("open", "high", "low", "close", "volume")}),
     "column 'symbol' holds int64", "write text"),
    ("texts.parquet", parquet(symbol=["A", "A"], ts=[FIRST, FIRST + 60],
                              **{n: ["1", "1"] for n in ("open", "high", "low", "close", "volume")}),
     "column 'open' holds string", "write numbers"),
    ("floats.parquet", parquet(symbol=["A", "A"], ts=[1.0, 2.0],
                               **{n: [1.0, 1.0] for n in ("open", "high", "low", "close", "volume")}),
     "column 'ts' holds double", "write timestamps"),
    ("nulls.parquet", parquet(symbol=["A", None], ts=[FIRST, FIRST + 60],
                              **{n: [1.0, 1.0] for n in ("open", "high", "low", "close", "volume")}),
     "row 2: symbol is empty", "fill it in or drop the row"),
    ("nothing.jsonl", "", "nothing.jsonl", ";"),
    ("prose.jsonl", "This is a letter.\n", "prose.jsonl", ";"),
    ("other.jsonl", '{"a": 1}\n{"b": 2}\n', "other.jsonl", ";"),
    ("plain.jsonl.zst", '{"a": 1}\n', "plain.jsonl.zst", ";"),
    ("torn.jsonl.zst", b"\x28\xb5\x2f\xfd" + b"\0" * 50, "torn.jsonl.zst", ";"),
    ("data.txt", candles("", ""), ".txt is not a known format", "give .parquet"),
    ("data.csv.gz", b"\x1f\x8b" + b"\0" * 50, ".gz is not a known format", "give .parquet"),
    ("data.xlsx", b"PK", ".xlsx is not a known format", "give .parquet"),
    ("data", candles("", ""), "no suffix is not a known format", "give .parquet"),
    ("pipe.csv", _unreadable_kind, "pipe.csv: is a pipe, a socket or a device", "save what it gives in a file"),
    ("folder.csv", Path.mkdir, "no file is named", "write --data candles.parquet"),
    ("dangling.csv", lambda path: path.symlink_to("/nowhere/x.csv"), "dangling.csv: does not exist", "name one that"),
    ("loop.csv", lambda path: path.symlink_to(path), "loop.csv", ";"),
]  # fmt: skip
"""Name, content, words."""

NAMES = [
    ("/nowhere/x.csv", "/nowhere/x.csv: does not exist", "name one that is there"),
    ("''", "''", ";"),
    (f"/usr/{'x' * 300}.csv", "xxx.csv", "name one that is there"),
    ("/dev/null", "/dev/null: is a pipe, a socket or a device", "save what it gives in a file"),
    ("/usr/a\nb.csv", "'/usr/a\\nb.csv': does not exist", "name one that is there"),
    ("https://example.org/x.csv", "does not exist", "name one that is there"),
    ("s3://bucket/x.parquet", "does not exist", "name one that is there"),
    ("/usr/*.csv", "/usr/*.csv: does not exist", "name one that is there"),
]
"""What is given to ``--data`` and is no file at all."""

TOML: list[tuple[str, Content, str, str]] = [
    ("empty.toml", "", "instruments: is missing", "add it"),
    ("comment.toml", "# nothing yet\n", "instruments: is missing", "add it"),
    ("only.toml", 'instruments = ["A"]\n', "fleet: is missing", "add it"),
    ("binary.toml", bytes(range(256)), "is not text in UTF-8", "save it as UTF-8"),
    ("zeros.toml", b"\0" * 100, "is not TOML", "correct it there"),
    ("utf16.toml", 'instruments = ["A"]\n'.encode("utf-16"), "is not text in UTF-8", "save it as UTF-8"),
    ("utf16le.toml", 'instruments = ["A"]\n'.encode("utf-16-le"), "is not TOML", "correct it there"),
    ("latin1.toml", 'instruments = ["é"]\n'.encode("latin-1"), "is not text in UTF-8", "save it as UTF-8"),
    ("mark.toml", b"\xef\xbb\xbf" + b'instruments = ["A"]\n', "begins with a byte order mark", "save it as UTF-8 without"),
    ("huge.toml", "# " + "x" * 2_000_000, "has more than 1,000,000 bytes", "set TIDEMILL_CONFIG"),
    ("json.toml", '{"instruments": ["A"]}', "is not TOML", "correct it there"),
    ("yaml.toml", "instruments:\n  - A\n", "is not TOML", "correct it there"),
    ("script.toml", "#!/bin/sh\nrm -rf /\n", "is not TOML", "correct it there"),
    ("folder.toml", Path.mkdir, "is not a file", "set TIDEMILL_CONFIG"),
    ("pipe.toml", _unreadable_kind, "is not a file", "set TIDEMILL_CONFIG"),
    ("dangling.toml", lambda path: path.symlink_to("/nowhere/x.toml"), "does not exist", "set TIDEMILL_CONFIG"),
    ("loop.toml", lambda path: path.symlink_to(path), "loop.toml", "set TIDEMILL_CONFIG"),
]  # fmt: skip


def make(path: Path, content: Content) -> None:
    """Make a file of a table."""
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
