"""Forms that ask for the environment: Dagster would put a variable's value into logs, ticks and metadata."""

import os
import time

import dagster as dg
import httpx
import pytest

from assets.resources import Mill
from orchestration.definitions import closed
from orchestration.lines import line_jobs
from tests.attacks.test_cross_site import served
from tests.mills import mill_at

pytestmark = pytest.mark.timeout(600)

CANARY = "canary-0f3a91-in-the-environment"
LAUNCH = """mutation($form: RunConfigData!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "orchestration.definitions", repositoryName: "__repository__", jobName: "rollback"}
  runConfigData: $form}) { __typename ... on LaunchRunSuccess { run { runId } }
  ... on RunConfigValidationInvalid { errors { message } } ... on PythonError { message } } }"""
LOOK = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  ... on MessageEvent { message eventType } } } } runOrError(runId: $id) { ... on Run { status } } }"""
LOOKED_AT = """query($form: RunConfigData!) {
  isPipelineConfigValid(pipeline: PIPELINE, mode: "default", runConfigData: $form) { __typename
    ... on RunConfigValidationInvalid { errors { message reason } } ... on PythonError { message stack } }
  executionPlanOrError(pipeline: PIPELINE, mode: "default", runConfigData: $form) { __typename
    ... on ExecutionPlan { steps { key } } ... on RunConfigValidationInvalid { errors { message reason } }
    ... on PythonError { message stack } } }""".replace(
    "PIPELINE",
    '{repositoryLocationName: "orchestration.definitions", repositoryName: "__repository__", pipelineName: "rollback"}',
)
FORMS = {
    "a reason": {"ops": {"hold_version": {"config": {"version": 1, "reason": {"env": "TIDEMILL_KAFKA"}}}}},
    "a number": {"ops": {"hold_version": {"config": {"version": {"env": "TIDEMILL_KAFKA"}}}}},
    "a logger": {
        "ops": {"hold_version": {"config": {"version": 1}}},
        "loggers": {"console": {"config": {"log_level": {"env": "TIDEMILL_KAFKA"}}}},
    },
    "an io manager": {
        "ops": {"hold_version": {"config": {"version": 1}}},
        "resources": {"io_manager": {"config": {"base_dir": {"env": "TIDEMILL_KAFKA"}}}},
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("forms")


@pytest.fixture(scope="module")
def port(home):
    with served(home, TIDEMILL_KAFKA=f'{{"sasl.password": "{CANARY}"}}') as port:
        yield port


def ask(port, query, **variables):
    reply = httpx.post(
        f"http://127.0.0.1:{port}/graphql", json={"query": query, "variables": variables}, timeout=120
    ).json()
    assert "errors" not in reply, reply
    return reply["data"]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_that_asks_for_a_variable_ends_red_and_its_value_is_nowhere(port, home, form):
    launched = ask(port, LAUNCH, form=form)["launchRun"]
    if launched["__typename"] == "LaunchRunSuccess":
        until = time.monotonic() + 120
        while (found := ask(port, LOOK, id=launched["run"]["runId"]))["runOrError"]["status"] != "FAILURE":
            assert time.monotonic() < until, found
            time.sleep(0.2)
        [why] = [e["message"] for e in found["logsForRun"]["events"] if e.get("eventType") == "RUN_FAILURE"]
        assert "a form does not read the environment; write the value itself" in why
        assert "STEP_START" not in {e.get("eventType") for e in found["logsForRun"]["events"]}
    else:
        assert launched["__typename"] in {"RunConfigValidationInvalid", "PythonError"}, launched
    assert CANARY not in str(launched)
    holding = [path for path in home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == []


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_looking_at_a_form_shows_no_value_either(port, form):
    looked = ask(port, LOOKED_AT, form=form)
    assert set(looked) == {"isPipelineConfigValid", "executionPlanOrError"}
    assert CANARY not in str(looked)


def test_a_run_that_was_launched_another_way_is_refused_before_its_first_step(tmp_path):
    mill = mill_at(tmp_path)
    [rollback] = [job for job in line_jobs() if job.name == "rollback"]
    defs = dg.Definitions(jobs=[rollback], resources={"mill": closed(Mill(mill.project, mill.places))})
    form = {"ops": {"hold_version": {"config": {"version": 1, "reason": {"env": "TIDEMILL_CANARY"}}}}}
    os.environ["TIDEMILL_CANARY"] = CANARY
    try:
        with dg.DagsterInstance.ephemeral() as instance:
            done = defs.resolve_job_def("rollback").execute_in_process(form, instance=instance, raise_on_error=False)
    finally:
        del os.environ["TIDEMILL_CANARY"]
    assert not done.success
    said = " ".join(str(event) for event in done.all_events)
    assert "a form does not read the environment" in said
    assert CANARY not in said
