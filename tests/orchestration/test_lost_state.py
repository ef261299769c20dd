"""Lost state is refused: by ``up``, by a service's start and by ``doctor``, with one line that says what to do."""

import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.config import Places
from domain.errors import BadState, UsageError
from domain.stores import STORES
from orchestration import cli, daemon
from orchestration.deployment import supervisor_of
from orchestration.instance import prepare_instance
from orchestration.renewal import begin_again
from orchestration.wholeness import losses
from tests.homes import another, copy_of, lose, make_home, train, without_identity
from tests.mills import mill_at
from warehouse.beginning import begin
from warehouse.control import Control
from warehouse.identity import identity_of, path_of
from warehouse.keys import model_key
from warehouse.lake import Lake
from warehouse.registry import Registry

OTHER = object()
LOSSES = {
    "control deleted": ("control", "control.sqlite", None, "is missing", "the books of 1 versions"),
    "control emptied": ("control", "control.sqlite", b"", "is empty", "the books of 1 versions"),
    "control exchanged": ("control", "control.sqlite", OTHER, "is of another home", "the books of 1 versions"),
    "catalog deleted": ("lake", "lake/catalog.sqlite", None, "is missing", r"the rows of \d+ files"),
    "catalog emptied": ("lake", "lake/catalog.sqlite", b"", "is empty", r"the rows of \d+ files"),
    "catalog exchanged": ("lake", "lake/catalog.sqlite", OTHER, "is of another home", "the market until 2025-01-03"),
    "data deleted": ("lake", "lake/data", None, "is missing", "1,440 bars"),
    "data emptied": ("lake", "lake/data", b"", "is empty", "1,440 bars"),
    "data exchanged": ("lake", "lake/data", OTHER, "is of another home", "1,440 bars"),
    "key deleted": ("key", "model.key", None, "is missing", "the signature of 1 versions"),
    "key emptied": ("key", "model.key", b"", "is empty", "the signature of 1 versions"),
    "key exchanged": ("key", "model.key", OTHER, "is another key", "the signature of 1 versions"),
    "topics deleted": ("topics", "broker", None, "are missing", "the records on their way"),
    "topics' logs deleted": ("topics", "broker/topics", None, "are missing", "the records on their way"),
    "topics exchanged": ("topics", "broker", OTHER, "are of another home", "the records on their way"),
    "Dagster's storage deleted": ("dagster", "dagster", None, "is missing", "the history of runs"),
    "Dagster's runs emptied": ("dagster", "dagster/history/runs.db", b"", "is empty", "the history of runs"),
    "Dagster's storage exchanged": ("dagster", "dagster", OTHER, "is of another home", "the history of runs"),
    "models deleted": ("models", "models", None, "is missing", "1 versions, the newest v1"),
    "models emptied": ("models", "models", b"", "is empty", "1 versions, the newest v1"),
    "models exchanged": ("models", "models", OTHER, "is of another home", "1 versions, the newest v1"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("homes")
    make_home(root / "one")
    another(root / "one", root / "other")
    return root


@pytest.fixture
def home(made, tmp_path) -> Iterator[Path]:
    """Return a home of our own, in which nothing is left running."""
    home = copy_of(made / "one", tmp_path / "home")
    yield home
    stopped = supervisor_of(Places(home=home)).stop_all()
    assert not stopped, "nothing was to be started"


@pytest.fixture
def tidemill(home, monkeypatch, capsys):
    """Run the command in this process; return its exit code and all that it printed."""
    for name in [name for name in os.environ if name.startswith("TIDEMILL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIDEMILL_HOME", str(home))
    monkeypatch.setenv("TIDEMILL_CONFIG", str(home / "tidemill.toml"))
    monkeypatch.setattr("orchestration.up._refuse_taken_ports", lambda *_: None)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["tidemill", *args])
        try:
            code = cli._exit_code()
        finally:
            gc.enable()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def files(home):
    return {p.relative_to(home) for p in home.rglob("*") if p.is_file() and not re.search(r"(-wal|-shm|lock)$", p.name)}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_store_stops_up_services_and_doctor_with_one_line(home, made, tidemill, loss):
    store, what, instead, fault, held = LOSSES[loss]
    lose(home / what, made / "other" / what if instead is OTHER else instead)
    before = files(home)
    for args in (["up", "--wait", "0"], ["run", "trainer"]):
        if args[0] == "run" and store == "dagster":  # no service stands on it but its daemon
            with pytest.raises(SystemExit, match=f"storage of Dagster .* {fault}"):
                daemon.main()
            continue
        code, said = tidemill(*args)
        (line,) = [line for line in said.splitlines() if line.startswith("tidemill: ")]
        assert code == 1, said
        assert fault in line
        assert re.search(f"held .*{held}", line), line
        assert "tidemill restore DIR" in line
        assert f"tidemill up --begin-again {store}" in line
        assert "which loses" in line
    (lost,) = losses(Places(home=home))
    assert (lost.store, fault in lost.fault) == (store, True)
    assert files(home) == before, "nothing was begun again"


@pytest.mark.parametrize("loss", ["control emptied", "catalog deleted", "Dagster's storage deleted"])
def test_doctor_and_status_are_red_for_a_lost_store(home, made, tidemill, loss):
    store, what, instead, fault, _ = LOSSES[loss]
    lose(home / what, instead)
    before = files(home)
    code, said = tidemill("doctor")
    assert code == 1
    assert f"--begin-again {store}" in " ".join(said.split())
    code, said = tidemill("status")
    assert code == 1
    assert fault in " ".join(said.split())
    assert files(home) == before


def test_a_whole_home_is_told_so(home, tidemill):
    assert losses(Places(home=home)) == []
    _, said = tidemill("doctor")
    assert "its stores are there, and its own" in said


def opened(home):
    """Open all that services open, as they do."""
    places = Places(home=home)
    begin(places)
    prepare_instance(home)
    begin(places)
    Lake.open(places).close()
    model_key(places)
    Control.of(places).close()


@pytest.mark.parametrize(
    "loss",
    [
        "control emptied",
        "catalog deleted",
        "data exchanged",
        "key deleted",
        "topics exchanged",
        "models emptied",
        "Dagster's storage exchanged",
    ],
)
def test_what_begins_again_on_purpose_says_what_that_loses_and_is_whole_afterwards(home, made, loss, capsys):
    store, what, instead, _, _ = LOSSES[loss]
    lose(home / what, made / "other" / what if instead is OTHER else instead)
    before = identity_of(home)
    begin_again(Places(home=home), [store])
    assert "loses=" in capsys.readouterr().out
    opened(home)
    after = identity_of(home)
    assert after.id == before.id
    assert after.beginning == ()
    assert losses(Places(home=home)) == []
    assert ("topics" in after.stores) == (store != "topics"), "the first service founds them"


@pytest.mark.parametrize("store", ["control", "models", "key"])
def test_versions_of_a_control_database_that_began_again_have_new_numbers(home, made, store):
    what = {"control": "control.sqlite", "models": "models", "key": "model.key"}[store]
    lose(home / what, None)
    begin_again(Places(home=home), [store])
    mill = mill_at(home, (home / "tidemill.toml").read_text())
    begin(mill.places)
    version = train(mill)
    assert version.number == 2
    (aside,) = (home / "retired").iterdir()
    assert (aside / "models").exists() == (store != "models")
    with Control.of(mill.places) as control:
        registry = Registry(control, mill.places.models, model_key(mill.places))
        assert registry.load(version)


@pytest.mark.parametrize("done", [0, 1])
def test_a_beginning_again_that_was_cut_short_is_refused_until_up_finishes_it(home, tidemill, done):
    identity = identity_of(home)
    asked = identity.model_copy(update={"beginning": ("control", "models"), "numbered": 1})
    path_of(home).write_text(asked.model_dump_json())
    if done:
        (home / "control.sqlite").unlink()
    for args in (["run", "trainer"], ["doctor"], ["status"]):
        code, said = tidemill(*args)
        assert code == 1
        assert "beginning again of control, models is not through" in " ".join(said.split())
    with pytest.raises(BadState, match="is not through"):
        Control.of(Places(home=home))
    begin_again(Places(home=home), [])
    opened(home)
    assert identity_of(home).beginning == ()
    assert identity_of(home).stores["control"].id != identity.stores["control"].id
    assert losses(Places(home=home)) == []


def test_nothing_begins_again_in_a_home_that_never_began(tmp_path):
    with pytest.raises(UsageError, match="has never begun"):
        begin_again(Places(home=tmp_path), ["lake"])


def test_a_store_that_nobody_knows_is_a_mistake(tidemill):
    code, said = tidemill("up", "--begin-again", "wine")
    assert code == 2
    assert all(store in said for store in STORES)


def test_a_home_of_an_earlier_release_is_adopted_by_the_first_start(home):
    without_identity(home)
    begin(Places(home=home))
    assert set(identity_of(home).stores) == set(STORES) - {"topics"}
    assert losses(Places(home=home)) == []
    assert json.loads(path_of(home).read_text())["id"]
    shutil.rmtree(home / "models")
    assert [loss.store for loss in losses(Places(home=home))] == ["models"]
