"""What a start shows of itself: parts with counts, from Dagster's own events, and whether anything moves."""

from types import SimpleNamespace

import dagster as dg
import pytest

from orchestration import startup
from orchestration.instance import prepare_instance
from orchestration.jobs import BOOTSTRAP
from orchestration.startup import FirstRun, Part, Startup, still_part, table_of
from orchestration.status import Row

DEPLOYMENT = SimpleNamespace(foundation=["broker"], project=SimpleNamespace(interval=3_600 * 10**9))


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.from_config(str(prepare_instance(tmp_path))) as instance:
        yield instance


@pytest.fixture
def bootstrap(instance):
    """Run a job of the first run's steps, in which a step may fail; each says ``lines`` lines."""

    def run(lines=2, fails=""):
        def step(name, says):
            @dg.op(name=name, ins={"after": dg.In(dg.Nothing)})
            def one(context):
                for k in range(says):
                    context.log.info("%s line %d", name, k + 1)
                if name == fails:
                    raise ValueError("the exchange is closed\nfor today")

            return one

        counts = {"bars": lines, "features": lines, "examples": lines, "initial_model": 5}

        @dg.job(name=BOOTSTRAP)
        def job():
            former = None
            for name, says in counts.items():
                former = step(name, says)(former) if former is not None else step(name, says)()

        return job.execute_in_process(instance=instance, raise_on_error=False)

    return run


def parts_of(first):
    return {part.name: part for part in first.look()}


def test_before_its_run_history_waits_for_the_daemon(instance):
    assert FirstRun(instance, 2, 1).look() == [
        Part("history", "waiting"),
        Part("training", "waiting"),
    ]


def test_history_and_training_of_a_run_that_went_well_are_done(instance, bootstrap):
    bootstrap()
    first = FirstRun(instance, 2, 1)
    assert first.look() == [Part("history", "done"), Part("training", "done")]
    read = first.events
    assert read > 11
    first.look()
    assert first.events == read, "no event is read twice"


def test_what_made_a_step_fail_is_said_and_what_follows_waits(instance, bootstrap):
    run = bootstrap(fails="features")
    found = parts_of(FirstRun(instance, 2, 1))
    why = f"the exchange is closed; see run {run.run_id} and sensor bootstrap in Dagster"
    assert (found["history"].state, found["history"].line.removeprefix("ValueError: ")) == ("failed", why)
    assert found["training"] == Part("training", "waiting")


def test_a_run_that_ends_before_its_first_step_is_a_failed_history(instance, bootstrap):
    job = dg.job(name=BOOTSTRAP)(lambda: None)
    run = instance.create_run_for_job(job)
    instance.report_run_failed(run, "its worker was killed")
    found = parts_of(FirstRun(instance, 2, 1))
    assert (found["history"].state, found["training"].state) == ("failed", "waiting")
    assert found["history"].line.startswith("its worker was killed; see run ")


def test_the_next_attempt_stands_for_itself(instance, bootstrap):
    first = FirstRun(instance, 2, 1)
    bootstrap(fails="bars")
    assert parts_of(first)["history"].state == "failed"
    bootstrap()
    assert parts_of(first) == {name: Part(name, "done") for name in ("history", "training")}


def test_what_runs_tells_its_count_its_last_line_and_an_estimate(instance, bootstrap, monkeypatch):
    bootstrap(lines=2)
    first = FirstRun(instance, 4, 1)  # half of what the tables will log
    monkeypatch.setattr(startup, "HISTORY_STEPS", ("bars", "features", "examples", "to come"))
    monkeypatch.setattr(startup.time, "time", lambda: 1e12)
    part = parts_of(first)["history"]
    assert (part.state, part.count, part.detail) == ("running", "6 of 16", "examples line 2")
    assert part.left_s == pytest.approx((1e12 - next(iter(first._run.began.values()))) * 10 / 6)
    assert part.line.endswith(" s left")
    assert part == Part("history", "running", part.count), "a line or an estimate alone changes nothing"


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(startup.time, "monotonic", lambda: now.s)
    return now


def row(name, phase="running", healthy=True, **more):
    return Row(name, phase, healthy=healthy, **more)


def test_only_what_gets_further_moves_and_a_crash_loop_does_not(clock):
    start = Startup(DEPLOYMENT, None)
    sick = [row("broker"), row("trainer", healthy=False, pid=1, restarts=0)]
    start.look(sick)
    for restarts in range(1, 9):
        clock.s += 10
        phase = ("running", "backoff")[restarts % 2]
        start.look([row("broker"), row("trainer", phase, healthy=False, pid=restarts, restarts=restarts)])
    assert start.still_s == 70, "its first back-off was new"
    start.look([row("broker"), row("trainer")])
    assert start.still_s == 0


def test_once_all_was_healthy_the_prediction_may_take_an_interval_more(clock):
    start = Startup(DEPLOYMENT, None)
    start.look([row("broker"), row("trainer", healthy=False)])
    clock.s += 61
    assert start.stands_still(60)
    start.look([row("broker"), row("trainer")])
    clock.s += 3_659
    start.look([row("broker"), row("trainer", healthy=False)])  # one late heartbeat
    assert not start.stands_still(60)
    clock.s += 2
    assert start.stands_still(60)


def test_an_event_of_the_first_run_moves(clock):
    first = SimpleNamespace(events=0, look=list)
    start = Startup(DEPLOYMENT, first)
    start.look([row("broker")])
    clock.s += 50
    start.look([row("broker")])
    assert start.still_s == 50
    first.events += 1
    start.look([row("broker")])
    assert start.still_s == 0


def test_the_part_that_stands_still_is_the_first_that_is_not_done(clock):
    start = Startup(DEPLOYMENT, None)
    parts = start.look([row("broker"), row("trainer", healthy=False, note="no heartbeat yet"), row("lander")])
    assert parts == [
        Part("foundation", "done", "1 of 1"),
        Part("services", "running", "1 of 2"),
    ]
    assert parts[1].line == "1 of 2; trainer no heartbeat yet"
    assert still_part(parts).name == "services"
    assert still_part(start.look([row("broker"), row("trainer")])) == Part("prediction", "waiting")
    assert table_of(parts).row_count == 2
