"""Versions made once more from the lake: the same state, the same file, and a line without what was bad."""

import numpy as np
import pytest

from assets.retracing import Retracing, tape_between
from assets.training import left_out
from domain.errors import ArtifactRefused, BadState, UsageError
from domain.tables import ExampleTable, VectorTable
from domain.topics import TRADES
from tests.streaming.mill import NAMES, Mill, trades_of
from warehouse.lake import Lake

LINE, NEW = NAMES[0], f"{NAMES[0]}@2"


@pytest.fixture
def mill(tmp_path):
    mill = Mill(tmp_path)
    trades = trades_of(0, 1_000)
    for begin in range(0, 1_000, 100):
        mill.memory.append((TRADES, 0), trades[begin : begin + 100])
        mill.turn()
    mill.close()
    return mill


@pytest.fixture
def retracing(mill):
    with Lake.open(mill.places) as lake:
        yield Retracing(lake, mill.control, mill.context.registry, mill.project)


@pytest.fixture
def versions(mill):
    return [v for v in mill.context.registry.since(0, 1_000) if v.line == LINE]


def test_every_kept_version_is_made_once_more_byte_for_byte(retracing, versions):
    assert [v.kind for v in versions[:2]] == ["initial", "update"]
    assert len(versions) > 3
    for version in versions:
        made = retracing.rebuild(version)
        assert made.same_state
        assert made.same_file, version.number
        assert not retracing.restore(made), "the published file is there"


def test_a_damaged_version_is_put_in_place_again(mill, retracing, versions):
    registry, version = mill.context.registry, versions[-1]
    registry.refusals.note(LINE, {version.number: "torn"}, "trainer")
    version.path.write_bytes(version.path.read_bytes()[:-1])
    with pytest.raises(ArtifactRefused):
        registry.open(version)
    assert retracing.restore(retracing.rebuild(version))
    assert registry.open(version).line.digest() == version.digest
    assert registry.refusals.newest(9) == []


def test_its_parent_damaged_it_is_made_from_one_further_back(retracing, versions):
    parent, version = versions[-2:]
    parent.path.unlink()
    made = retracing.rebuild(version)
    assert made.same_state
    assert made.parent == versions[-3]


def test_what_the_lake_has_not_is_said(retracing, versions):
    retracing.lake.write(
        lambda c: c.execute("DELETE FROM examples WHERE ts_available = (SELECT max(ts_available) FROM examples)")
    )
    with pytest.raises(BadState, match="backfill what is missing"):
        retracing.rebuild(versions[-1])


def test_a_line_unlearned_is_the_line_that_never_saw_the_window(mill, retracing, versions):
    """The oracle: the same line led along a lake from which the rows were deleted."""
    until = versions[-1].watermark
    after, before = versions[2].watermark, versions[-2].watermark
    window = (after, before)
    version = retracing.unlearn(LINE, NEW, window, until)
    assert (version.line, version.kind) == (NEW, "unlearned")
    assert version.parent == versions[2].number, "from the newest version that had not seen the window"
    assert version.n_learned < versions[-1].n_learned
    start = mill.context.registry.open(versions[2]).line
    retracing.lake.write(
        lambda c: (
            c.execute(f"DELETE FROM features WHERE ts_event > {after} AND ts_event <= {before}"),  # noqa: S608
            c.execute(f"DELETE FROM examples WHERE ts_available > {after} AND ts_event <= {before}"),  # noqa: S608
        )
    )
    start.advance(tape_between(retracing.lake, LINE, start.watermark, until), until)
    assert version.digest == start.digest() != versions[-1].digest


def test_unlearned_again_it_lacks_both_windows_and_can_be_rebuilt(mill, retracing, versions):
    until, marks = versions[-1].watermark, [v.watermark for v in versions[1:]]
    first = retracing.unlearn(LINE, NEW, (marks[0], marks[1]), until)
    checkpoint = mill.context.registry.open(first)
    assert checkpoint.without == ((marks[0], marks[1]),)
    assert retracing.rebuild(first).same_file
    whole = retracing.unlearn(LINE, f"{LINE}@3", (0, marks[0]), until)
    assert whole.parent is None, "the window lies in the training window: from the beginning"
    assert retracing.rebuild(whole).same_file


def test_a_window_that_holds_nothing_is_refused(retracing, versions):
    until = versions[-1].watermark
    for window in ((until, until + 5), (9, 9), (9, 3)):
        with pytest.raises(UsageError, match="holds nothing"):
            retracing.unlearn(LINE, NEW, window, until)


def test_left_out_is_what_was_asked_or_answered_in_the_window():
    ts = np.arange(1, 11)
    vectors = VectorTable(ts, np.zeros((10, 16)))
    examples = ExampleTable(ts, ts + 3, np.zeros((10, 16)), np.zeros((10, 3)))
    asked, answered = left_out(vectors, examples, ((4, 6),))
    assert asked.ts.tolist() == [1, 2, 3, 4, 7, 8, 9, 10]
    assert answered.ts.tolist() == [1, 7, 8, 9, 10], "2 and 3 were answered after the window began"
    assert len(read_both(vectors, examples)) == 20


def read_both(vectors, examples):
    return [*left_out(vectors, examples, ())[0].ts, *left_out(vectors, examples, ())[1].ts]
