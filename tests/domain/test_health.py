from dataclasses import replace

import pytest

from domain.health import (
    BEAT_TTL,
    READY_LAG,
    STALL,
    START_GRACE,
    VERSION_GRACE,
    Beat,
    live,
    market_clock,
    overdue,
    ready,
)

NOW = 10_000.0
WELL = Beat("trainer", "a", 1, "running", 1, {"features/0": 5}, 5, NOW - 1, 3, True, NOW - 1, NOW - 1_000)


def test_a_service_that_moves_and_beats_is_live_and_ready():
    assert live(WELL, NOW)
    assert ready(WELL, NOW)


def test_a_service_that_never_beat_is_neither():
    assert not live(None, NOW)
    assert not ready(None, NOW)


def test_a_missing_beat_kills():
    assert live(WELL, WELL.beat_at + BEAT_TTL)
    assert not live(WELL, WELL.beat_at + BEAT_TTL + 0.1)


def test_a_stall_with_work_waiting_kills():
    stuck = replace(WELL, progressed_at=NOW - STALL - 0.1)
    assert not live(stuck, NOW)
    assert not ready(stuck, NOW)
    assert live(replace(WELL, progressed_at=NOW - STALL), NOW)


@pytest.mark.parametrize("lag", [0, None])
def test_a_standstill_without_work_or_with_unknown_work_never_kills(lag):
    idle = replace(WELL, progressed_at=NOW - 3_600, lag=lag)
    assert live(idle, NOW)
    assert ready(idle, NOW)


def test_a_slow_start_is_borne_for_its_grace_and_no_longer():
    for beat in (
        replace(WELL, phase="starting", progress=0, progressed_at=0.0, lag=50, ready=False),
        replace(WELL, phase="starting", progress=0, progressed_at=0.0, ready=False, beat_at=NOW - 60),
    ):
        assert live(replace(beat, started_at=NOW - START_GRACE + 1), NOW)
        assert not live(replace(beat, started_at=NOW - START_GRACE - STALL - 1), NOW)
        assert not ready(replace(beat, started_at=NOW - 1), NOW)


@pytest.mark.parametrize("phase", ["draining", "done"])
def test_what_drains_or_is_done_is_left_alone_and_not_relied_on(phase):
    leaving = replace(WELL, phase=phase, beat_at=NOW - 3_600, progressed_at=NOW - 3_600)
    assert live(leaving, NOW)
    assert not ready(replace(leaving, beat_at=NOW), NOW)


def test_catching_up_is_live_but_not_ready():
    behind = replace(WELL, lag=READY_LAG + 1)
    assert live(behind, NOW)
    assert not ready(behind, NOW)
    assert ready(replace(WELL, lag=READY_LAG), NOW)


def test_its_own_word_counts():
    assert not ready(replace(WELL, ready=False), NOW)


def test_a_version_is_overdue_after_its_grace_and_never_where_none_is_due():
    assert overdue(WELL, NOW) == 0
    assert overdue(replace(WELL, detail={"due_at": None}), NOW) == 0
    assert overdue(replace(WELL, detail={"due_at": NOW - VERSION_GRACE}), NOW) == 0
    late = replace(WELL, detail={"due_at": NOW - VERSION_GRACE - 1})
    assert overdue(late, NOW) == VERSION_GRACE + 1
    assert overdue(replace(late, phase="draining"), NOW) == 0


def test_the_markets_clock_is_how_far_its_bars_go():
    beats = [
        replace(WELL, service="featurizer", detail={"watermark": 5}),
        replace(WELL, service="featurizer", detail={"watermark": 9}),
        replace(WELL, service="ingest", detail={"watermark": 99}),
        replace(WELL, service="featurizer", detail={}),
    ]
    assert market_clock(beats) == 9
    assert market_clock([]) == 0
