"""Every kind of broken file gives one line that names the file, the row and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zstandard

from domain.errors import UsageError
from markets.checks import check
from markets.recorded import Recorded
from tests.markets.samples import MINUTE, START, candles, changed, drained, trades, write

NAN = float("nan")
FRAME = '9 {"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":%d,"p":"5.0","q":"1.0","T":%d,"m":true}}'

BROKEN_ROWS = {
    # what is wrong: the columns, the row that is named, words of the message
    "trades out of order": (changed(trades(), "ts", 4, START), 4, "is before that of row 3; sort the file"),
    "a trade id twice": (changed(trades(), "trade_id", 3, 2), 3, "trade_id 2 repeats row 2; keep one"),
    "a lower trade id": (changed(trades(), "trade_id", 3, 1), 3, "trade_id 1 is lower than in row 2; sort"),
    "a price of zero": (changed(trades(), "price", 5, 0.0), 5, "a price of 0.0 is not a positive number; correct"),
    "a price that is no number": (changed(trades(), "price", 2, NAN), 2, "a price of nan"),
    "an infinite price": (changed(candles(), "high", 6, float("inf")), 6, "a price of inf"),
    "a trade of no size": (changed(trades(), "size", 1, 0.0), 1, "a size of 0.0"),
    "an unknown side": (changed(trades(), "side", 3, "hold"), 3, "side is 'hold'; write the taker's side"),
    "a symbol that is none": (changed(trades(), "symbol", 4, "B T C"), 4, "symbol 'B T C' is no instrument"),
    "a time of another unit": (changed(trades(), "ts", 6, START // 1_000), 6, "is outside 1980 to 2200, read as ns"),
    "candles out of order": (changed(candles(), "ts", 3, START), 3, "is before that of row 2; sort"),
    "a candle twice": (changed(candles(), "ts", 3, START + MINUTE), 3, "repeats row 2; keep one"),
    "a low above the open": (changed(candles(), "low", 2, 105.0), 2, "do not satisfy low <= open, close <= high"),
    "a high below the close": (changed(candles(), "high", 4, 99.5), 4, "do not satisfy low <= open, close <= high"),
    "a negative volume": (changed(candles(), "volume", 5, -1.0), 5, "a volume of -1.0 is negative"),
    "a volume that is no number": (changed(candles(), "volume", 5, NAN), 5, "a volume of nan"),
    "a candle off the grid": (changed(candles(40), "ts", 40, START + 39 * MINUTE + 1), 40, "no multiple of 1m"),
    "a gap longer than is ever filled": (changed(candles(), "ts", 6, START + 20_000 * MINUTE), 6, "a gap of 13.9 days"),
    "candles by their close": (
        candles() | {"ts": [ts + MINUTE - 10**6 for ts in candles()["ts"]]}, 1, "write each candle's OPEN time"
    ),
    "a flat price without volume": (
        {name: [5.0] * 80 if name in {"open", "high", "low", "close"} else cells for name, cells in candles(80).items()}
        | {"volume": [0.0] * 80}, 1, "all 80 rows have price 5 and volume 0; this is no market data",
    ),
}  # fmt: skip


def refusal(*paths: Path, **options) -> str:
    """The message for which files are refused: always one line, and the first finding of their check."""
    with pytest.raises(UsageError) as caught:
        Recorded(paths, **options)
    message = str(caught.value)
    assert "\n" not in message
    first = check(paths)[0]
    assert (first.severity, str(first)) == ("fatal", message)
    return message


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("what", BROKEN_ROWS)
def test_a_broken_row_is_named(tmp_path, what, suffix):
    columns, row, words = BROKEN_ROWS[what]
    path = write(tmp_path / f"broken.{suffix}", columns)
    message = refusal(path)
    line = f" (line {row + 1})" if suffix == "csv" else ""
    assert message.startswith(f"{path}: row {row}{line}: ")
    assert words in message


@pytest.mark.parametrize("name", ["symbol", "ts", "price", "size", "trade_id"])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_an_empty_cell_is_named(tmp_path, name, suffix):
    message = refusal(write(tmp_path / f"t.{suffix}", changed(trades(), name, 3, None)))
    assert f"row 3{' (line 4)' if suffix == 'csv' else ''}: {name} is empty; fill it in or drop the row" in message


def test_an_empty_side_is_unknown_and_no_fault(tmp_path):
    source = Recorded([write(tmp_path / "t.parquet", changed(trades(3), "side", 2, None))])
    [table] = source.history("recorded:BTC-USD", 0, 2**62)
    assert table.side.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("piece", [1, 4])
def test_rows_are_counted_across_pieces_and_instruments(tmp_path, piece):
    """Each instrument is judged by its own rows, which are named by their place in the file."""
    both = {name: [*cells, *candles(6, "ETH-USD")[name]] for name, cells in candles(6).items()}
    path = write(tmp_path / "c.parquet", changed(both, "ts", 10, START), row_group_size=piece)
    assert f"{path}: row 10: recorded:ETH-USD: ts 2023-11-14 00:00:00 is before that of row 9" in refusal(path)


@pytest.mark.parametrize(
    ("cell", "words"),
    [("abc", "price is 'abc'; write a number"), ("1,5", "has 7 cells, the header has 6"), ("", "price is empty")],
)
def test_a_cell_of_text_that_is_no_number_is_named(tmp_path, monkeypatch, cell, words):
    monkeypatch.setattr("markets.tabular.BLOCK", 100)
    path = write(tmp_path / "t.csv", trades(30))
    lines = path.read_text().splitlines()
    cells = lines[17].split(",")
    lines[17] = ",".join([*cells[:2], cell, *cells[3:]])
    path.write_text("\n".join(lines))
    message = refusal(path)
    assert f"row 17 (line 18): {words}" in message


def test_a_time_that_is_none_is_named(tmp_path):
    path = write(tmp_path / "t.csv", trades(5))
    path.write_text(path.read_text().replace(str(START + MINUTE // 3), "yesterday"))
    assert "row 2 (line 3): ts is 'yesterday'; write it as in the rows before" in refusal(path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"symbol": ["A"], "ts": [START], "price": [1.0]},
            "has no column size, side, trade_id (it has symbol, ts, price)",
        ),
        ({name: cells for name, cells in candles().items() if name != "volume"}, "has no column volume"),
        (trades() | {"price": ["1"] * 6}, "column 'price' holds string; write numbers"),
        (trades() | {"trade_id": [0.5] * 6}, "column 'trade_id' holds double"),
        (trades() | {"symbol": list(range(6))}, "column 'symbol' holds int64"),
        (trades() | {"ts": [1.5] * 6}, "column 'ts' holds double"),
        (trades() | {"ts": [5] * 6}, "ts is 5, no time in any unit"),
        (trades(0) | {"symbol": []}, "column 'symbol' holds null"),
        (candles(1), "one candle does not tell its interval"),
    ],
)
def test_wrong_columns_are_named(tmp_path, columns, words):
    assert words in refusal(write(tmp_path / "f.parquet", columns))


def test_files_that_cannot_be_read_say_so(tmp_path):
    corrupt = tmp_path / "corrupt.parquet"
    corrupt.write_bytes(b"PAR1 this is not Parquet PAR1")
    torn = write(tmp_path / "torn.parquet", trades(5_000))
    torn.write_bytes(torn.read_bytes()[:4_000])
    spoiled = write(tmp_path / "spoiled.parquet", trades(5_000), compression="zstd")
    content = bytearray(spoiled.read_bytes())
    content[100:5_000] = os.urandom(4_900)
    spoiled.write_bytes(content)
    text = tmp_path / "text.csv"
    text.write_bytes(b"\xff\xfe\x00\x01")
    empty = tmp_path / "empty.csv"
    empty.touch()
    header = write(tmp_path / "header.csv", trades(1))
    header.write_text(header.read_text().splitlines()[0] + "\n")
    for path, words in {
        tmp_path / "none.parquet": "does not exist; name one that is there",
        tmp_path: "is a directory; name its files",
        corrupt: "is not a readable Parquet file",
        torn: "is not a readable Parquet file",
        spoiled: "is not a readable Parquet file",
        text: "is not UTF-8 text",
        empty: "has no column",
        header: "holds no row; give a file with data",
        Path(__file__): ".py is not a known format; give .parquet, .csv",
    }.items():
        message = refusal(path)
        assert message.startswith(f"{path}: ")
        assert words in message


def test_spoiled_frames_name_the_line(tmp_path):
    ms = START // 1_000_000
    good = [FRAME % (k, ms + k) for k in range(1, 5)]
    for number, (line, words) in enumerate({
        '9 {"stream":"btcusdt@trade","data":{"e":"tr': "is no 'local_ns json' frame of a trade",
        "": "is no 'local_ns json' frame",
    }.items()):  # fmt: skip
        path = tmp_path / f"{number}.jsonl"
        path.write_text("\n".join([*good[:2], line, *good[3:]]) + "\n")
        message = refusal(path)
        assert message.startswith(f"{path}: line 3: ")
        assert words in message


def test_trades_in_another_format_are_left_out_and_counted(tmp_path):
    """A recording holds what an exchange sent; one frame of a new kind is no reason to lose the others."""
    ms = START // 1_000_000
    spoiled = [
        '9 {"data":{"e":"trade","s":"BTCUSDT","t":3,"p":"five","q":"1","T":1,"m":true}}',
        '9 {"data":{"e":"trade","s":"BTCUSDT","t":3,"p":5.0,"q":"1","T":1,"m":true}}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*(FRAME % (k, ms + k) for k in (1, 2)), *spoiled, FRAME % (4, ms + 4)]) + "\n")
    source = Recorded([path])
    [finding] = [one for one in source.findings if one.code == "format"]
    assert str(finding).startswith(f"{path}: line 3: 2 trades in a format that is not known are left out")
    assert [trade.trade_id for trade in drained(source.open({}, 0))] == [1, 2, 4]


def test_spoiled_compressed_frames_say_so(tmp_path):
    ms = START // 1_000_000
    packed = zstandard.ZstdCompressor().compress("\n".join(FRAME % (k, ms + k) for k in range(1, 2_000)).encode())
    for name, content, words in (
        ("torn", packed[: len(packed) // 2], "ends in the middle of its compressed data; download it again"),
        ("noise", b"no zstd at all", "is not readable zstd"),
        ("spoiled", packed[:40] + b"\xff" * 40 + packed[80:], "is not readable zstd"),
        ("empty", b"", "holds no row"),
    ):
        path = tmp_path / f"{name}.jsonl.zst"
        path.write_bytes(content)
        assert words in refusal(path)


def test_trades_and_candles_do_not_mix(tmp_path):
    one, other = write(tmp_path / "a.csv", trades()), write(tmp_path / "b.csv", candles())
    assert refusal(one, other) == f"{other}: holds candles, {one} trades; give files of one kind"


def test_files_that_overlap_are_refused(tmp_path):
    one, other = write(tmp_path / "a.csv", candles()), write(tmp_path / "b.csv", candles(start=START + 3 * MINUTE))
    assert f"{other}: row 1 (line 2): recorded:BTC-USD: begins at" in refusal(other, one)


def test_a_sound_file_has_no_warning(tmp_path):
    assert not [
        finding for finding in check([write(tmp_path / "c.parquet", candles(100))]) if finding.severity != "note"
    ]


def test_what_is_odd_but_usable_is_reported_and_served(tmp_path):
    columns = trades(200, step=10**9) | {"note": ["x"] * 200}
    columns["trade_id"] = [k if k < 100 else k + 5 for k in range(200)]
    columns["ts"] = [ts if k < 150 else ts + 2 * 60 * MINUTE for k, ts in enumerate(columns["ts"])]
    columns["price"] = [100.0 if k != 120 else 1_000.0 for k in range(200)]
    path = write(tmp_path / "t.parquet", columns)
    found = {finding.code: str(finding) for finding in Recorded([path]).findings}
    assert "column note is not used" in found["columns"]
    assert "5 trade ids are missing" in found["lost"]
    assert "row 151: recorded:BTC-USD: the longest gap, 7201s, ends here" in found["gap"]
    assert "row 121: recorded:BTC-USD: the price changes by +900% after row 120, as in 1 more rows" in found["jump"]
    assert "of the minutes have no row" in found["empty"]


def test_flat_prices_and_silent_candles_are_reported(tmp_path):
    flat = candles(80) | dict.fromkeys(("open", "high", "low", "close"), [5.0] * 80)
    codes = {finding.code for finding in check([write(tmp_path / "flat.parquet", flat)])}
    assert "flat" in codes
    silent = candles(80) | {"volume": [1.0] * 10 + [0.0] * 70}
    assert "silent" in {finding.code for finding in check([write(tmp_path / "silent.parquet", silent)])}


def test_the_interval_is_stated(tmp_path):
    columns = candles(50, step=5 * MINUTE)
    [finding] = [f for f in check([write(tmp_path / "c.parquet", columns)]) if f.code == "interval"]
    assert "candles of 5m" in finding.message


def test_other_instruments_of_a_file_may_be_broken(tmp_path):
    both = {name: [*cells, *candles(6, "ETH-USD")[name]] for name, cells in candles(6).items()}
    path = write(tmp_path / "c.parquet", changed(both, "close", 9, -1.0))
    assert Recorded([path], instruments=["recorded:BTC-USD"]).instruments == ("recorded:BTC-USD",)
