"""Judgement of services, without a process or a clock: what is wrong, and what to do about it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.health import Beat
from orchestration.homes import Status
from orchestration.tending import (
    MOST,
    MOST_MENDED,
    PAUSES_S,
    STEADY_S,
    WINDOW_S,
    Look,
    Memory,
    ailment_of,
    judge,
)

NOW = 1_000_000.0
TODAY = {"config": "c1", "code": "k1"}
BEAT = Beat("trainer", "host:7", 7, "running", 0, {}, 5, NOW, 0, True, NOW, NOW - 500)
RUNNING = Look(Status("trainer", "running", 1, pid=7, started_at=int((NOW - 500) * 1e9)), TODAY, BEAT)
DEAD = Look(Status("trainer", "crashed", 1, reason="signal SIGKILL", detail="a line", exit_code=-9), TODAY, BEAT)


def with_beat(**changes):
    return dataclasses.replace(RUNNING, beat=dataclasses.replace(BEAT, **changes))


def with_phase(phase, **changes):
    return Look(Status("trainer", phase, 1, **changes), TODAY, BEAT)


def look_over(look, *, may_end=False, refused=False):
    return ailment_of(look, TODAY, NOW, may_end=may_end, refused=refused)


@pytest.mark.parametrize("phase", ["starting", "restarting", "stopping", "backoff"])
def test_a_service_on_its_way_is_left_alone(phase):
    assert look_over(with_phase(phase)) is None


@pytest.mark.parametrize("phase", ["absent", "stopped", "failed", "crashed", "crash_loop", "lost", "orphan", "done"])
def test_a_service_that_should_run_and_does_not_is_certainly_ill(phase):
    ailment = look_over(with_phase(phase))
    assert ailment.certain
    assert "; " not in ailment.words


def test_only_a_recording_may_come_to_an_end():
    assert look_over(with_phase("done"), may_end=True) is None
    assert look_over(with_phase("stopped"), may_end=True) is not None


def test_the_reason_names_process_and_signal_and_time():
    assert look_over(DEAD).words == "process 7 ended (signal SIGKILL), seen at 13:46:40 UTC"
    error = with_phase("crashed", reason="exit code 1", detail="no space; really", exit_code=1)
    assert look_over(error).words == "process 7 ended (exit code 1, no space, really), seen at 13:46:40 UTC"
    gone = with_phase("failed", reason="cannot execute", detail="No such file: python", exit_code=None)
    assert look_over(gone).words == "process 7 ended (cannot execute, No such file: python), seen at 13:46:40 UTC"


def test_a_running_service_is_judged_by_its_beat():
    assert look_over(RUNNING) is None
    assert look_over(with_beat(beat_at=NOW - 12)).words == "no heartbeat for 12 s"
    assert look_over(with_beat(progressed_at=NOW - 40, lag=1200)).words == (
        "its offset has not moved for 40 s with 1,200 records waiting"
    )
    assert look_over(with_beat(progressed_at=NOW - 40, lag=None)) is None


def test_a_beat_of_the_predecessor_counts_for_nothing():
    """The new process may be slow to start, and must not be killed for its predecessor's silence."""
    successor = dataclasses.replace(RUNNING.status, pid=8, started_at=int((NOW - 20) * 1e9))
    stale = dataclasses.replace(BEAT, beat_at=NOW - 100)
    assert look_over(Look(successor, TODAY, stale)) is None
    late = dataclasses.replace(successor, started_at=int((NOW - 200) * 1e9))
    assert look_over(Look(late, TODAY, stale)).words == "never sent a heartbeat in 200 s"


def test_another_fingerprint_than_todays_is_named():
    old = dataclasses.replace(RUNNING, meta={"config": "c0", "code": "k1"})
    ailment = look_over(old)
    assert (ailment.words, ailment.certain) == ("config changed (c0 -> c1)", False)


def test_a_refused_change_is_no_ailment_but_what_the_old_process_suffers_is():
    old = dataclasses.replace(RUNNING, meta={"config": "c0", "code": "k1"})
    assert look_over(old, refused=True) is None
    silent = dataclasses.replace(old, beat=dataclasses.replace(BEAT, beat_at=NOW - 12))
    assert look_over(silent, refused=True).kind == "silent"


def test_a_version_that_is_due_while_examples_arrive_is_missed_after_a_grace():
    assert look_over(with_beat(detail={"due_at": NOW - 20})) is None
    assert look_over(with_beat(detail={"due_at": None})) is None
    ailment = look_over(with_beat(detail={"due_at": NOW - 45}))
    assert (ailment.kind, ailment.words) == ("overdue", "a version is due for 45 s while examples arrive")
    assert not ailment.certain


def test_after_giving_up_other_code_or_another_configuration_is_a_new_start():
    memory = Memory()
    redeployments(memory, ((NOW + 5 * i, DEAD) for i in range(100)))
    assert memory.gave_up
    mended = ailment_of(DEAD, {**TODAY, "code": "k2"}, NOW + 600, may_end=False, refused=False)
    assert judge(memory, DEAD, mended, NOW + 600)
    assert not memory.gave_up


def test_what_is_certain_is_acted_on_at_once_and_what_is_not_at_the_second_look():
    assert judge(Memory(), DEAD, look_over(DEAD), NOW)
    silent, memory = with_beat(beat_at=NOW - 12), Memory()
    assert not judge(memory, silent, look_over(silent), NOW)
    assert judge(memory, silent, look_over(silent), NOW + 5)


def test_a_good_look_between_two_bad_ones_forgives():
    silent, memory = with_beat(beat_at=NOW - 12), Memory()
    for _ in range(5):
        assert not judge(memory, silent, look_over(silent), NOW)
        assert not judge(memory, RUNNING, None, NOW)


def well_at(at):
    return dataclasses.replace(RUNNING, beat=dataclasses.replace(BEAT, beat_at=at, progressed_at=at))


def redeployments(memory, looks):
    """Return at which of the looks the service was redeployed."""
    return [
        at for at, look in looks if judge(memory, look, ailment_of(look, TODAY, at, may_end=False, refused=False), at)
    ]


def test_what_never_becomes_healthy_is_tried_thrice_with_pauses_and_given_up_for_good():
    memory = Memory()
    times = redeployments(memory, ((NOW + 5 * i, DEAD) for i in range(2000)))
    assert [at - NOW for at in times] == [0.0, PAUSES_S[1], PAUSES_S[1] + PAUSES_S[2]]
    assert memory.gave_up.startswith("3 redeployments did not help, last: process 7 ended")
    assert 10 * WINDOW_S < 2000 * 5


def test_a_service_that_was_healthy_in_between_is_redeployed_without_a_pause_until_it_is_a_loop():
    memory = Memory()
    looks = [(NOW + at, DEAD if at % 10 == 0 else well_at(NOW + at)) for at in range(0, 205, 5)]
    assert redeployments(memory, looks) == [NOW + 10 * i for i in range(MOST_MENDED)]
    memory = Memory()
    looks = [(NOW + at, DEAD if at % 10 == 0 else well_at(NOW + at)) for at in range(0, 10 * MOST_MENDED + 5, 5)]
    redeployments(memory, looks)
    assert memory.gave_up.startswith("12 redeployments within 10 min helped for a moment each, last: process 7 ended")


def test_one_that_died_before_anybody_looked_again_was_healthy_if_its_last_beat_says_so():
    memory, times = Memory(), []
    for i in range(6):
        at = NOW + 20 * i
        ready = i < 3
        beat = dataclasses.replace(BEAT, started_at=at - 10, beat_at=at - 1, ready=ready)
        times += redeployments(memory, [(at, dataclasses.replace(DEAD, beat=beat))])
    assert times == [NOW, NOW + 20, NOW + 40, NOW + 60, NOW + 100]
    assert memory.vain == 3
    redeployments(memory, [(NOW + 200, DEAD)])
    assert memory.gave_up.startswith("3 redeployments did not help")


def test_one_that_hangs_again_and_again_is_given_up_though_it_looks_healthy_in_between():
    memory = Memory()
    looks = []
    for i in range(40):
        at = NOW + 5 * i
        hangs = i % 8 >= 6
        looks.append((at, well_at(at) if not hangs else dataclasses.replace(well_at(at - 12), status=RUNNING.status)))
    assert len(redeployments(memory, looks)) == MOST
    assert memory.gave_up.startswith("it hung again after 3 redeployments within 10 min, last: no heartbeat for 12 s")


def test_giving_up_ends_when_the_service_is_seen_healthy():
    memory = Memory()
    redeployments(memory, ((NOW + 5 * i, DEAD) for i in range(100)))
    assert memory.gave_up
    steady = [NOW + 500 + 5 * i for i in range(int(STEADY_S / 5) + 1)]
    assert redeployments(memory, [(at, well_at(at)) for at in steady]) == []
    assert not memory.gave_up
    assert redeployments(memory, [(NOW + 1000, DEAD)]) == [NOW + 1000]


@pytest.mark.parametrize(
    "words",
    [
        "[Errno 28] No space left on device",
        "tidemill: the control database /h (database or disk is full) cannot be used",
    ],
)
def test_a_service_on_a_full_disk_is_tried_again_for_as_long_as_it_takes_but_with_pauses(words):
    full = with_phase("crashed", reason="exit code 1", detail=words, exit_code=1)
    memory, ailment = Memory(), ailment_of(full, TODAY, NOW, may_end=False, refused=False)
    tried = [second for second in range(0, 3_600, 5) if judge(memory, full, ailment, NOW + second)]
    assert memory.gave_up == ""
    assert len(tried) == 3_600 // PAUSES_S[-1]


def test_changes_of_a_person_are_deployed_however_many_but_the_same_one_not_for_ever():
    memory = Memory()

    def look(config):
        return dataclasses.replace(RUNNING, meta={"config": config, "code": "k1"})

    changing = [(NOW + i / 10, look(f"old{i // 2}")) for i in range(40)]
    assert len(redeployments(memory, changing)) == 20
    memory = Memory()
    stuck = redeployments(memory, ((NOW + 5 * i, look("old")) for i in range(400)))
    assert len(stuck) == 1 + MOST
    assert memory.gave_up


@given(st.lists(st.sampled_from(["dead", "silent", "well", "late"]), max_size=300))
def test_no_history_of_looks_makes_more_redeployments_than_are_allowed(names):
    """In a row without health, and in a window with it. And the memory survives its way through a cursor."""
    memory, times, row = Memory(), [], 0
    looks = {"dead": DEAD, "silent": with_beat(beat_at=NOW - 12), "late": with_phase("backoff")}
    for i, name in enumerate(names):
        memory, at = Memory.of(memory.plain()), NOW + 5 * i
        look = looks.get(name) or well_at(at)
        row = 0 if name == "well" else row
        if judge(memory, look, ailment_of(look, TODAY, at, may_end=False, refused=False), at):
            times.append(5 * i)
            row += 1
        assert row <= MOST
    for at in times:
        lately = [t for t in times if at - WINDOW_S < t <= at]
        steady = any(names[k : k + int(STEADY_S / 5) + 1].count("well") > STEADY_S / 5 for k in range(len(names)))
        assert len(lately) <= MOST_MENDED or steady


@pytest.mark.parametrize("hour", [3_600.0, -3_600.0])
def test_a_clock_that_is_set_by_an_hour_redeploys_nothing_that_beats(hour):
    memory = Memory()
    for second in range(0, 60, 5):
        now = NOW + hour + second
        # The look that comes before the next beat sees one of another time.
        at = NOW if second == 0 else now
        look = with_beat(beat_at=at, progressed_at=at, started_at=at - 500)
        assert not judge(memory, look, ailment_of(look, TODAY, now, may_end=False, refused=False), now)


def test_a_clock_that_is_set_back_hides_no_service_that_stopped_beating():
    now = NOW - 3_600
    assert ailment_of(RUNNING, TODAY, now, may_end=False, refused=False).kind == "silent"


@pytest.mark.parametrize("outside", [False, True])
def test_a_clock_that_is_set_back_delays_no_redeployment_by_an_hour(outside):
    dead = dataclasses.replace(DEAD, status=dataclasses.replace(DEAD.status, detail="disk full")) if outside else DEAD
    memory, tried = Memory(), []
    for now in (NOW, *(NOW - 3_600 + 5 * look for look in range(24))):
        ailment = ailment_of(dead, TODAY, now, may_end=False, refused=False)
        if judge(memory, dead, ailment, now):
            tried.append(now)
    assert tried[0] == NOW
    assert tried[1] <= NOW - 3_600 + max(PAUSES_S)
