"""Whom a change affects: settings as far as a service reads them, sources as far as it imports them."""

import inspect
import os
import shutil
import socket
import subprocess
import sys

import pytest

from assets.partitions import history_of
from assets.training import train_initial
from domain.config import Places
from domain.fields import Frozen
from domain.services import FLOW, SERVICES
from markets.drawn import draw_candles
from orchestration import fingerprints
from orchestration.bootstrap import stage_of
from orchestration.fingerprints import PACKAGES, code_version, config_digest, sources_of
from orchestration.settings import read_project
from streaming.app import Context
from streaming.memory import Memory
from tests.mills import ROOT, mill_at
from warehouse.control import Control
from warehouse.lake import Lake
from warehouse.roles import Roles

EVERYTHING = set(SERVICES)
TRAINERS = {"trainer", "challenger"}
CHALLENGER = "simulated:BTC-USD@2"


@pytest.fixture
def project(tmp_path):
    return mill_at(tmp_path / "home").project


def changed(project, **fields):
    """Return the project with other values; a nested field is written ``market__speed``."""
    values = project.model_dump()
    for name, value in fields.items():
        outer, _, inner = name.partition("__")
        if inner:
            values[outer][inner] = value
        else:
            values[outer] = value
    return type(project)(**values)


@pytest.mark.parametrize(
    ("change", "affected"),
    [
        ({"publish__every_s": 5.0}, TRAINERS),
        ({"publish__examples": 7}, TRAINERS),
        ({"market__speed": 1.0}, {"ingest"}),
        ({"market__seed": 8}, {"ingest", "featurizer"}),
        ({"lateness": "3s"}, {"featurizer"}),
        ({"horizon": "10m"}, EVERYTHING - {"ingest"}),
        ({"instruments": ("simulated:BTC-USD",)}, EVERYTHING),
        ({}, set()),
    ],
)
def test_a_changed_setting_affects_those_who_read_it(project, change, affected):
    other = changed(project, **change)
    assert {name for name in SERVICES if config_digest(project, name) != config_digest(other, name)} == affected


def test_the_fleet_affects_no_service_that_runs_for_a_version_carries_its_own(project):
    (model,) = project.fleet
    other = project.model_copy(update={"fleet": (model.model_copy(update={"forgetting": 0.99}),)})
    assert all(config_digest(project, name) == config_digest(other, name) for name in SERVICES)


class Reading:
    """A part of a project that notes which of its fields are read; whatever would copy it whole fails."""

    def __init__(self, value, seen, path=""):
        self._value, self._seen, self._path = value, seen, path

    def __getattr__(self, name):
        kind = type(self._value)
        if name in kind.model_fields:
            value, path = getattr(self._value, name), f"{self._path}{name}"
            if isinstance(value, Frozen):
                return Reading(value, self._seen, f"{path}.")
            self._seen.add(path)
            return value
        found = getattr(kind, name)
        if isinstance(found, property):
            return found.fget(self)
        assert inspect.isfunction(found), f"{name} of {kind.__name__} reads who knows what; use its fields"
        return found.__get__(self)


def test_every_service_reads_the_settings_that_it_declares_and_no_others(project, tmp_path):
    """Built as in production and run on a log in memory, from the market to the lake; and built for a recording."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        places = Places(home=tmp_path / "home", serving_port=probe.getsockname()[1])
    seen = {name: set() for name in SERVICES}
    project = changed(project, instruments=("simulated:BTC-USD",), market__speed=0.0, market__history_days=1)
    history, memory = history_of(project), Memory()
    with Control.open(places.control) as control:
        context = Context(project, places, control, memory, instance="test")
        with Lake.open(places) as lake:
            for name in (*project.instruments, CHALLENGER):
                train_initial(lake, control, context.registry, project, name, history.start, history.until)
        Roles(control).challenge(CHALLENGER, "test")
        stages = [
            stage_of(name, Context(Reading(project, seen[name]), places, control, memory, instance="test"))
            for name in SERVICES
        ]
        for stage in stages:
            stage.open()
        trainer = stages[SERVICES.index("trainer")]
        for _ in range(200):
            for stage in stages:
                stage.work(0.0)
                stage.save()
                stage.pulse()
            if trainer.pulse().detail["n_learned"]:
                break
        for stage in reversed(stages):
            stage.close(clean=True)
        draw_candles(tmp_path / "candles.parquet", ("BTC-USD",), 10, seed=1)
        recorded = changed(
            project, instruments=("recorded:BTC-USD",), market__source="recorded",
            market__path=(str(tmp_path / "candles.parquet"),),
        )  # fmt: skip
        box = changed(project, market__source="box")
        for name in SERVICES:
            stage_of(name, Context(Reading(box, seen[name]), places, control, memory, instance="test"))
            stage_of(name, Context(Reading(recorded, seen[name]), places, control, memory, instance="test"))
    assert {name: sorted(fields) for name, fields in seen.items()} == {
        name: sorted(role.settings) for name, role in FLOW.items()
    }


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Let the fingerprints be those of a copy of the sources, which may be changed."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "affected"),
    [
        ("streaming/trainer.py", TRAINERS),
        ("streaming/serving.py", {"predictor"}),
        ("streaming/lander.py", {"lander"}),
        ("streaming/joint.py", EVERYTHING),  # the gate knows it
        ("markets/simulated.py", {"ingest", "featurizer"}),
        ("domain/errors.py", EVERYTHING),
        ("streaming/__init__.py", EVERYTHING),
        ("warehouse/migrations/0001_tables.sql", EVERYTHING),
        ("orchestration/bootstrap.py", EVERYTHING),
        ("domain/services.py", set()),
        ("orchestration/sensors.py", set()),
        ("orchestration/dagster.yaml", set()),
        ("assets/models.py", set()),
        ("streaming/devbroker/log.py", set()),
    ],
)
def test_a_changed_source_affects_those_who_can_import_it(copy, file, affected):
    before = {name: code_version(name) for name in SERVICES}
    assert before == {name: code_version(name) for name in SERVICES}
    with (copy / file).open("a") as source:
        source.write("\n# changed\n")
    assert {name for name in SERVICES if code_version(name) != before[name]} == affected


def test_a_half_written_source_is_a_change_and_no_error(copy):
    before = {name: code_version(name) for name in SERVICES}
    (copy / "streaming/trainer.py").write_text("def trainer(:\n")
    assert {name for name in SERVICES if code_version(name) != before[name]} == TRAINERS


def test_what_is_under_type_checking_is_not_imported_and_what_is_in_a_function_is(copy):
    (copy / "domain/only_typed.py").write_text("")
    (copy / "domain/lazy.py").write_text("")
    with (copy / "streaming/trainer.py").open("a") as source:
        source.write("\nif TYPE_CHECKING:\n    from domain import only_typed\ndef later():\n    import domain.lazy\n")
    names = {path.name for path in sources_of("trainer")}
    assert "lazy.py" in names
    assert "only_typed.py" not in names


def test_all_that_a_start_imports_is_in_the_closure(project, tmp_path):
    """Of Python's own account: every module of ours that a rehearsed service has loaded."""
    code = """
import sys
from orchestration.bootstrap import rehearse_service
from orchestration.settings import read_places, read_project
places = read_places()
rehearse_service(sys.argv[1], places, read_project(places))
files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
print("\\n".join(file for file in files if file))
"""
    home = tmp_path / "home"
    env = os.environ | {"TIDEMILL_HOME": str(home), "TIDEMILL_CONFIG": str(home / "tidemill.toml")}
    assert read_project(Places(home=home, config=home / "tidemill.toml")) == project
    rehearsals = {
        name: subprocess.Popen(
            [sys.executable, "-c", code, name], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for name in SERVICES
    }  # fmt: skip
    said = {name: process.communicate(timeout=120) for name, process in rehearsals.items()}
    for name, (out, err) in said.items():
        assert rehearsals[name].returncode == 0, err
        ours = {line for line in out.splitlines() if any(line.startswith(f"{ROOT / package}/") for package in PACKAGES)}
        assert f"{ROOT}/streaming/{'trainer' if name in TRAINERS else name}.py" in ours
        assert ours <= {str(path) for path in sources_of(name)}
