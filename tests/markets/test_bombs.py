"""Files made to harm: small ones that hold much, cells without end, names and kinds of files that are none of a market.

Each is refused in one line, and memory stays bounded meanwhile.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from domain.errors import BadRecord
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from markets.archives import _read_candles
from markets.findings import FileRefused
from markets.recorded import Recorded
from markets.tabular import PIECE_ROWS

ROOT = Path(__file__).parents[2]
HEADER = "symbol,ts,price,size,side,trade_id\n"
FIRST = 1_546_300_800


in_another_process = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def opened_elsewhere(path):
    """Return the refusal of a file in another process, and the most memory that took, MB."""
    command = [sys.executable, "-m", "tests.markets.opening", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True)
    refusal, memory = done.stdout.splitlines()
    return refusal, int(memory)


def trades(n, **columns):
    """Return a table of trades a second apart; text columns have one value, however many rows there are."""
    one = pa.array(np.zeros(n, np.int32))
    return pa.table(
        {
            "symbol": pa.DictionaryArray.from_arrays(one, pa.array(["BTC-USD"])),
            "ts": pa.array(np.arange(FIRST, FIRST + n)),
            "price": pa.array(np.ones(n)),
            "size": pa.array(np.ones(n)),
            "side": pa.DictionaryArray.from_arrays(one, pa.array(["buy"])),
            "trade_id": pa.array(np.arange(1, n + 1)),
            **columns,
        }
    )


@pytest.mark.process
@in_another_process
def test_twenty_kilobytes_of_zstd_that_hold_seven_hundred_megabytes_are_refused_in_bounded_memory(tmp_path):
    bomb = tmp_path / "frames.jsonl.zst"
    bomb.write_bytes(zstandard.ZstdCompressor().compress(bytes(700 << 20)))
    assert bomb.stat().st_size < 64 << 10
    refusal, memory = opened_elsewhere(bomb)
    assert "inflates to over 1,000 times its size" in refusal
    assert memory < 600


@pytest.mark.process
@in_another_process
def test_frames_without_a_line_break_are_refused_in_bounded_memory(tmp_path):
    with (tmp_path / "frames.jsonl").open("wb") as file:
        file.truncate(2 << 30)
    refusal, memory = opened_elsewhere(tmp_path / "frames.jsonl")
    assert "holds a line of over" in refusal
    assert memory < 600


@pytest.mark.process
@in_another_process
def test_parquet_with_millions_of_rows_in_one_row_group_is_read_in_bounded_memory(tmp_path):
    n = 12_000_000
    table = trades(n, ts=pa.array(np.full(n, FIRST)), trade_id=pa.array(np.zeros(n, np.int64)))
    pq.write_table(table, tmp_path / "trades.parquet", row_group_size=n, compression="zstd")
    del table
    assert (tmp_path / "trades.parquet").stat().st_size < 1 << 20
    refusal, memory = opened_elsewhere(tmp_path / "trades.parquet")
    assert "trade_id 0 repeats" in refusal
    assert memory < 700


@pytest.mark.slow
def test_a_large_row_group_is_read_piece_by_piece_whatever_the_order(tmp_path):
    n = PIECE_ROWS * 2 + 10
    pq.write_table(trades(n), tmp_path / "one.parquet", row_group_size=n)
    pq.write_table(trades(n), tmp_path / "many.parquet", row_group_size=100_000)
    one, many = Recorded([tmp_path / "one.parquet"]), Recorded([tmp_path / "many.parquet"])
    assert one.span("recorded:BTC-USD") == many.span("recorded:BTC-USD")
    for start, end in ((0, n), (PIECE_ROWS - 5, PIECE_ROWS + 5), (5, 9), (n - 9, n), (PIECE_ROWS * 2 - 1, n)):
        low, high = ((FIRST + at) * 10**9 for at in (start, end))
        ids = [np.concatenate([t.trade_id for t in s.history("recorded:BTC-USD", low, high)]) for s in (one, many)]
        assert np.array_equal(ids[0], np.arange(start + 1, end + 1))
        assert np.array_equal(ids[0], ids[1])


def column_of(kind):
    return {
        "nested": {"price": pa.array([[1.0] * 9] * 4)},
        "struct": {"side": pa.array([{"a": 1}] * 4)},
        "names of a megabyte": {"symbol": pa.array(["B" * (2 << 20) + str(n) for n in range(4)])},
    }[kind]


@pytest.mark.parametrize("kind", ["nested", "struct", "names of a megabyte"])
def test_a_column_that_is_none_of_a_table_of_trades_is_refused_in_one_short_line(tmp_path, kind):
    pq.write_table(trades(4, **column_of(kind)), tmp_path / "trades.parquet")
    said = refusal_of(tmp_path / "trades.parquet")
    assert "column" in said


CELLS = {
    "a field above what csv takes": "B" * 140_000 + f",{FIRST},1,1,buy,1\n",
    "a field that is long": "B" * 20_000 + f",{FIRST},1,1,buy,1\n",
    "a line without an end": "B" * (9 << 20),
    "a long line behind good ones": f"BTC-USD,{FIRST},1,1,buy,1\n" * 3 + "BTC-USD," + "1" * 140_000 + ",1,1,buy,4\n",
    "zeros": "\0" * 5_000 + "\n",
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_csv_with_cells_or_lines_beyond_reason_is_refused_in_one_short_line(tmp_path, kind):
    (tmp_path / "trades.csv").write_text(HEADER + CELLS[kind])
    refusal_of(tmp_path / "trades.csv")


@pytest.mark.parametrize("header", ["x" * 140_000, "symbol," * 15_000, "\n", ""])
def test_a_csv_whose_header_is_none_is_refused_in_one_short_line(tmp_path, header):
    (tmp_path / "trades.csv").write_text(f"{header}\n1,2,3\n" if header else "")
    refusal_of(tmp_path / "trades.csv")


@pytest.mark.process
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".jsonl.zst"])
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "directory", "empty", "loop", "nothing behind a link"])
def test_what_is_not_a_file_of_data_is_refused_and_nothing_waits_for_it(tmp_path, suffix, kind):
    path = tmp_path / f"trades{suffix}"
    with socket.socket(socket.AF_UNIX) as listening:
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "device":
                path.symlink_to("/dev/zero")
            case "socket":
                listening.bind(str(path))
            case "directory":
                path.mkdir()
            case "empty":
                path.touch()
            case "loop":
                path.symlink_to(path)
            case _:
                path.symlink_to(tmp_path / "elsewhere")
        if kind == "empty" and suffix.startswith(".jsonl"):
            return  # a recording that has just begun
        refusal_of(path)


def test_a_link_to_a_file_of_data_is_followed(tmp_path):
    pq.write_table(trades(4), tmp_path / "there.parquet")
    (tmp_path / "trades.parquet").symlink_to(tmp_path / "there.parquet")
    assert Recorded([tmp_path / "trades.parquet"]).instruments == ("recorded:BTC-USD",)


def test_a_name_with_a_line_break_is_told_in_one_line(tmp_path):
    (tmp_path / "a\nb.csv").write_text("x\n")
    refusal_of(tmp_path / "a\nb.csv")


def test_an_archive_of_candles_that_inflates_beyond_a_day_is_a_bad_record(tmp_path):
    path = tmp_path / "BTCUSDT-1m-2024-10-04.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.csv", bytes(40 << 20))
    with pytest.raises(BadRecord, match="more than a day"):
        _read_candles(path, NANOS_PER_MINUTE, 20_000 * NANOS_PER_DAY)


def test_an_archive_of_candles_with_a_cell_beyond_reason_is_a_bad_record(tmp_path):
    path = tmp_path / "BTCUSDT-1m-2024-10-04.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.csv", "1" * 140_000)
    with pytest.raises(BadRecord, match="no candle"):
        _read_candles(path, NANOS_PER_MINUTE, 20_000 * NANOS_PER_DAY)


def refusal_of(path):
    with pytest.raises(FileRefused) as refused:
        Recorded([path])
    said = str(refused.value)
    assert "\n" not in said
    assert len(said) < 700
    return said
