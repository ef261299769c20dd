"""The jobs on lines as a person runs them, on a filled lake; that running services obey them is told in tests/walk."""

import time

import dagster as dg
import pytest

from domain.health import Beat
from orchestration import arrivals
from orchestration.definitions import definitions
from tests.mills import TOML, days, mill_at
from warehouse.control_tables import versions
from warehouse.heartbeats import Heartbeats
from warehouse.keys import model_key
from warehouse.registry import Registry
from warehouse.roles import Roles

LINE = "simulated:BTC-USD"
OPS = {
    "retrain": "retrain_line",
    "promote": "choose_champion",
    "rollback": "hold_version",
    "rebuild_version": "make_again",
    "unlearn": "leave_out",
}


@pytest.fixture(scope="module")
def mill(tmp_path_factory):
    """A mill of one instrument, its two days of history filled and its first model trained."""
    mill = mill_at(tmp_path_factory.mktemp("mill"), TOML.replace(', "simulated:ETH-USD"', ""))
    defs = definitions(mill.places, mill.project)
    with dg.DagsterInstance.ephemeral() as instance:
        for name in ("backfill", "train"):
            assert defs.resolve_job_def(name).execute_in_process(instance=instance, tags=days()).success
    return mill


@pytest.fixture
def control(mill):
    with mill.control() as control:
        yield control


@pytest.fixture
def registry(mill, control):
    return Registry(control, mill.places.models, model_key(mill.places))


@pytest.fixture
def run(mill, monkeypatch):
    """Run a job with a form; return what its step said, or the one line with which it failed."""
    monkeypatch.setattr(arrivals, "SERVING_S", 0.5)

    def execute(job, **form):
        definition = definitions(mill.places, mill.project).resolve_job_def(job)
        with dg.DagsterInstance.ephemeral() as instance:
            config = {"ops": {OPS[job]: {"config": form}}}
            result = definition.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
            if result.success:
                entries = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.STEP_OUTPUT)
                return {k: v.value for e in entries for k, v in e.dagster_event.event_specific_data.metadata.items()}
            [failure] = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
            return failure.dagster_event.event_specific_data.error.message

    return execute


def beat(control, service, **detail):
    now = time.time()
    mine = Beat(service, "test", 1, "running", 0, {}, 1, now, 0, ready=True, beat_at=now, started_at=now, detail=detail)
    assert Heartbeats(control).beat(mine)


def test_a_version_is_proved_from_history_and_a_damaged_file_put_in_place(run, registry):
    first = registry.newest(LINE)
    said = run("rebuild_version", version=first.number)
    assert (said["same_state"], said["same_file"], said["restored"]) == (True, True, False)
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-1])
    said = run("rebuild_version", version=first.number)
    assert said["restored"]
    assert first.path.read_bytes() == whole


def test_retrained_a_challenger_appears_is_promoted_and_can_be_rolled_back(run, control, registry):
    roles, first = Roles(control), registry.newest(LINE)
    beat(control, "challenger", line={LINE: f"{LINE}@2"}, version={LINE: 2})
    said = run("retrain", days=1, reason="new fleet")
    assert said[f"{LINE} challenger"] == f"{LINE}@2"
    cast = roles.of(LINE)
    assert (cast.champion, cast.challenger, cast.reason) == (LINE, f"{LINE}@2", "new fleet")
    second = registry.newest(cast.challenger)
    assert second.kind == "initial"
    assert second.n_learned < first.n_learned, "one day of the two"
    assert second.digest != first.digest

    beat(control, "predictor", line={LINE: cast.challenger}, version={LINE: second.number})
    said = run("promote", reason="try it")
    assert said["serves"] == second.number
    assert roles.of(LINE).champion == f"{LINE}@2"

    beat(control, "predictor", line={LINE: LINE}, version={LINE: first.number})
    assert run("rollback", version=first.number, reason="worse")["serves"] == first.number
    assert roles.of(LINE).held == first.number
    assert "does not serve it after" in run("promote", what="NEWEST"), "the predictor has not said so"
    assert roles.of(LINE).held is None, "the decision stands"


def test_a_challenger_that_is_not_better_can_be_refused(run, control):
    beat(control, "predictor", line={LINE: LINE}, version={LINE: 1})
    assert run("promote", only_if_better=True)["recent_losses"], "trained on both days it is the better one"
    before = Roles(control).of(LINE)
    assert before.champion == LINE
    assert "not better by its recent loss; nothing was changed" in run("promote", only_if_better=True)
    assert Roles(control).of(LINE) == before


def test_of_a_challenger_with_few_answers_none_says_that_it_is_better(run, control, registry):
    challenger = registry.newest(Roles(control).of(LINE).challenger)
    few = {"volatility": {"rls": {"n": 139, "recent_loss": 0.001}}}
    same = versions.c.id == challenger.id
    control.write(lambda c: c.execute(versions.update().where(same).values(metrics=few)))
    assert "has 139 scored answers, fewer than 1,000" in run("promote", only_if_better=True)


def test_unlearned_the_line_lacks_the_window(run, control, registry):
    assert run("unlearn", since="2025-01-01 12:00", until="2025-01-01 18:00", wait_s=0) == {}
    version = registry.newest(Roles(control).of(LINE).challenger)
    assert version.kind == "unlearned"
    assert [end - start for start, end in version.without] == [6 * 3600 * 10**9]


def test_a_mistake_in_a_form_gets_one_line_that_says_what_to_do(run):
    assert "'x:Y' is not an instrument here; set 'instrument' to one of simulated:BTC-USD" in run(
        "rollback", instrument="x:Y", version=1
    )
    assert "has no version 99" in run("rollback", version=99)
    assert "has no version 99" in run("rebuild_version", version=99)
    assert "'noon' is not a time; write one such as" in run("unlearn", since="noon", until="2025-01-01 18:00")
    assert "holds nothing that was learned" in run("unlearn", since="2026-01-01", until="2026-01-02")
    assert "serves the newest version already" in run("promote", what="NEWEST")
