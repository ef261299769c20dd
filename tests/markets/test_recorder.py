"""A recorded session replays to the very trades that were handed out, also when its process was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from domain.errors import Unavailable
from domain.events import NANOS_PER_DAY, Trade
from markets.recorded import Recorded
from markets.recorder import Recorder
from markets.recordings import files
from markets.venue import Address
from tests.markets.samples import drained
from tests.markets.toy import START, A, B, Exchange, live, polled, until

pytestmark = pytest.mark.process

DAY = START // NANOS_PER_DAY * NANOS_PER_DAY
ADDRESS = Address("http://toy", "ws://toy")


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self, now=START):
        self.now = now

    def __call__(self):
        return self.now


def recorder(folder, clock=None, write_s=60.0):
    return Recorder(folder, "toy", ADDRESS, (A, B), simulated=True, write_s=write_s, clock=clock or Clock())


def made(first, n, ts=START, instrument=A, step=1_000_003):
    sides = (1, -1, 0)
    return [Trade(instrument, ts + k * step, first + k, 100 + k / 7, 0.1 + k / 3, sides[k % 3]) for k in range(n)]


def replayed(folder):
    return drained(Recorded(files(folder, "trades")).open({}, 0))


def lines(folder):
    inflate = zstandard.ZstdDecompressor()
    whole = [inflate.stream_reader(path.read_bytes(), read_across_frames=True) for path in files(folder, "frames")]
    text = b"".join(reader.read() for reader in whole)
    return [line.split(b" ", 1) for line in text.splitlines()]


def about(folder):
    return json.loads((folder / "recording.json").read_text())


@pytest.fixture
def exchange():
    exchange = Exchange()
    yield exchange
    exchange.stop()


def test_a_session_with_a_gap_replays_to_the_very_trades_that_were_handed_out(exchange, tmp_path):
    feed = live(exchange, record=tmp_path).open({}, 1.0)
    until(exchange.subscribed)
    exchange.trade(A, 50, a_frame=7)
    exchange.trade(B, 20)
    exchange.make(A, 30)
    exchange.trade(A, 1)
    got = polled(feed, 101)
    feed.close()
    [session] = tmp_path.iterdir()
    again = replayed(session)
    for name in (A, B):
        assert [t for t in again if t.instrument == name] == [t for t in got if t.instrument == name]
    said = about(session)
    assert said["ended"] > said["began"]
    assert (said["venue"], said["rest"], said["simulated"]) == ("toy", exchange.address.rest, False)
    assert said["trades"][A] == {"trades": 81, "first_id": 1_000, "last_id": 1_080}
    assert sum(repair["trades"] for repair in said["repairs"]) == said["repaired"] >= 30
    frames = [json.loads(frame) for _, frame in lines(session)]
    assert said["frames"] == len(frames)
    shown = [row for frame in frames for row in frame.get("trades", [])]
    assert len(shown) == 71  # what came, not what REST told
    assert sorted(path.name for path in session.iterdir()) == sorted(
        [path.name for of in ("frames", "trades") for path in files(session, of)] + ["recording.json"]
    )


def test_frames_are_kept_as_they_came_one_a_line_with_the_time(tmp_path):
    clock = Clock()
    tape = recorder(tmp_path, clock)
    tape.frames([b'{"a": 1}', b'{\n"b": 2}'])
    clock.now += 5
    tape.frames([b"not json"])
    tape.close()
    assert lines(tape.folder) == [
        [b"%d" % START, b'{"a": 1}'],
        [b"%d" % START, b'{ "b": 2}'],
        [b"%d" % (START + 5), b"not json"],
    ]


def test_a_day_is_one_file_once_it_is_over_and_each_trade_is_in_the_day_it_happened(tmp_path):
    clock = Clock(DAY)
    tape = recorder(tmp_path, clock, write_s=60)
    wanted = []
    for minute in range(0, 1_500, 25):
        clock.now = DAY + minute * 60_000_000_000
        some = made(len(wanted), 10, clock.now - 20_000_000)
        tape.trades(some)
        tape.frames([b"{}"] * 3)
        wanted += some
    until(lambda: len([path for path in files(tape.folder, "trades") if "11-14" in path.name]) == 1)
    assert len(files(tape.folder, "trades")) > 2  # of the day that goes on
    tape.close()
    assert [path.name.split(".")[0] for path in files(tape.folder, "trades")] == [
        "trades-2023-11-13", "trades-2023-11-14", "trades-2023-11-15"
    ]  # fmt: skip
    assert len(files(tape.folder, "frames")) == 2
    assert replayed(tape.folder) == wanted
    assert len(lines(tape.folder)) == 180


def test_a_trade_that_comes_after_its_day_was_put_together_is_not_lost(tmp_path):
    clock = Clock(DAY)
    tape = recorder(tmp_path, clock, write_s=0)
    early, late = made(1, 5, DAY), made(6, 5, DAY + NANOS_PER_DAY - 10_000_000, step=1_000)
    for trade in early:
        tape.trades([trade])
    clock.now = DAY + NANOS_PER_DAY + 3_600_000_000_000
    tape.trades([])
    until(lambda: len(files(tape.folder, "trades")) == 1)
    for trade in late:
        tape.trades([trade])
    assert replayed(tape.folder) == early + late
    tape.close()
    assert replayed(tape.folder) == early + late


def test_files_that_others_cover_are_left_out(tmp_path):
    """As after a kill between putting files together and removing them."""
    tape = recorder(tmp_path, write_s=0)
    wanted = made(1, 30)
    for trade in wanted:
        tape.trades([trade])
    small = {path: path.read_bytes() for path in files(tape.folder, "trades")}
    tape.close()
    for path, content in small.items():
        path.write_bytes(content)
    assert len(small) == 30
    assert len(files(tape.folder, "trades")) == 1
    assert replayed(tape.folder) == wanted
    again = recorder(tmp_path, Clock(START + 1_000_000))  # another session is another folder
    assert again.folder != tape.folder
    again.close()


KILLED = """
import sys
from pathlib import Path
from domain.events import Trade
from markets.recorder import Recorder
from markets.venue import Address
tape = Recorder(Path(sys.argv[1]), "toy", Address("", ""), ["toy:A-USD"], simulated=True, write_s=0.002)
print(tape.folder, flush=True)
n = 0
while True:
    tape.frames([b"{}"] * 50)
    tape.trades([Trade("toy:A-USD", 1_700_000_000_000_000_000 + k, k, 1.0, 1.0, 1) for k in range(n, n + 50)])
    n += 50
"""


def test_a_kill_leaves_files_that_can_be_read(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE,
                               cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONPATH": "."})  # fmt: skip
    folder = Path(process.stdout.readline().decode().strip())
    until(lambda: len(files(folder, "trades")) > 20)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    got = replayed(folder)
    assert [t.trade_id for t in got] == list(range(len(got)))
    assert len(got) >= 20 * 50
    assert {frame for _, frame in lines(folder)} == {b"{}"}
    assert about(folder)["ended"] is None


def test_what_is_kept_in_memory_is_bounded(tmp_path):
    tape = recorder(tmp_path)
    for k in range(12):
        tape.frames([b"x" * 1_000] * 1_000)
        tape.trades(made(10_000 * k, 10_000, START + 10**10 * k))
    assert len(files(tape.folder, "frames")) == 1
    assert len(files(tape.folder, "trades")) == 1
    tape.close()
    assert len(lines(tape.folder)) == 12_000
    assert len(replayed(tape.folder)) == 120_000


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"file.*cannot be written.*make room"):
        recorder(tmp_path / "file")


def test_a_recording_that_fails_ends_with_one_line_and_the_feed_goes_on(exchange, tmp_path, said):
    feed = live(exchange, record=tmp_path).open({}, 1.0)
    until(exchange.subscribed)
    [session] = tmp_path.iterdir()
    shutil.rmtree(session)
    feed._tape._write_ns = 0  # only now, for it hears of frames all the time
    for _ in range(3):
        exchange.trade(A, 10)
        assert len(polled(feed, 10)) == 10
    feed.close()
    assert len([line for line in said if "the recording ends here" in line["event"]]) == 1


def test_a_clock_that_is_set_back_does_not_keep_a_recording_from_being_written(tmp_path):
    clock = Clock()
    tape = recorder(tmp_path, clock)
    clock.now -= 3_600 * 10**9
    tape.trades(made(1, 1))
    assert len(files(tape.folder, "trades")) == 1
