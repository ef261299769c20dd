"""A store is founded once in its home; what is lost, emptied or exchanged is refused, never begun again in silence."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from domain.config import Places
from domain.errors import BadState
from warehouse.beginning import begin
from warehouse.control import Control
from warehouse.control_tables import counters, versions
from warehouse.identity import identity_of, path_of
from warehouse.keys import model_key
from warehouse.lake import Lake

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROW = {
    "id": 1, "line": "a:B", "number": 7, "kind": "initial", "watermark": 1, "n_learned": 1, "begins": 0, "since": 0,
    "offsets": {}, "logs": {}, "without": [], "champions": {}, "digest": "d", "metrics": {}, "created_at": 0.0,
    "sha256": "s", "path": "a__B/7-1.safetensors", "size": 1,
}  # fmt: skip


def founded(home):
    """Return the places of a home with every store at rest founded, and a version."""
    places = Places(home=home)
    begin(places)
    Lake.open(places).close()
    model_key(places)
    with Control.of(places) as control:
        control.write(lambda c: c.execute(sa.insert(versions).values(**ROW)))
    artifact = places.models / ROW["path"]
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"v")
    return places


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return two homes, to be copied."""
    root = tmp_path_factory.mktemp("homes")
    founded(root / "other")
    return founded(root / "one").home.parent


@pytest.fixture
def places(made, tmp_path):
    return Places(home=shutil.copytree(made / "one", tmp_path / "home"))


def opened(places):
    """Open every store at rest."""
    Control.of(places).close()
    Lake.open(places).close()
    model_key(places)


def test_a_home_that_was_moved_or_copied_is_the_same_home(places):
    opened(places)
    begin(places)
    assert set(identity_of(places.home).stores) == {"control", "lake", "key", "models"}


LOSSES = {
    "control deleted": ("control.sqlite", None, "control database .* is missing"),
    "control emptied": ("control.sqlite", "", "control database .* is empty"),
    "control exchanged": ("control.sqlite", "other", "control database .* is of another home"),
    "catalog deleted": ("lake/catalog.sqlite", None, "lake's catalog .* is missing"),
    "catalog emptied": ("lake/catalog.sqlite", "", "lake's catalog .* is empty"),
    "catalog exchanged": ("lake/catalog.sqlite", "other", "lake's catalog .* is of another home"),
    "data deleted": ("lake/data", None, "lake's data .* is missing"),
    "data exchanged": ("lake/data", "other", "lake's data .* is of another home"),
    "key deleted": ("model.key", None, r"model\.key is missing"),
    "key exchanged": ("model.key", "other", r"model\.key is not the key"),
}


def lose(places, made, what, how):
    """Delete, empty or exchange a file or directory of a home."""
    path = places.home / what
    for leftover in path.parent.glob(f"{path.name}-*"):
        leftover.unlink()
    if path.is_dir():
        shutil.rmtree(path)
        if how is not None:
            shutil.copytree(made / how / what, path)
        return
    mode = path.stat().st_mode
    path.unlink()
    if how is not None:
        path.write_bytes((made / how / what).read_bytes() if how else b"")
        path.chmod(mode)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_store_that_was_lost_is_refused_and_nothing_is_made_in_its_place(places, made, loss):
    what, how, words = LOSSES[loss]
    lose(places, made, what, how)
    before = sorted(path for path in places.home.rglob("*") if path.is_file())
    for _ in range(2):  # the second time as the first: nothing was begun by looking
        begin(places)
        with pytest.raises(BadState, match=words):
            opened(places)
    left = [p for p in places.home.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm"))]
    assert sorted(left) == [p for p in before if not p.name.endswith(("-wal", "-shm"))]


def test_a_configured_key_that_is_not_the_home_s_is_refused(places):
    with pytest.raises(BadState, match="TIDEMILL_MODEL_KEY is not the key"):
        model_key(places.model_copy(update={"model_key": "0123456789" * 4}))


def unmarked(places):
    """Make of a home one of a release that knew no identity."""
    path_of(places.home).unlink()
    (places.lake / "data" / "identity.json").unlink()
    (places.models / "identity.json").unlink()
    for url in (places.control, f"sqlite:///{places.lake / 'catalog.sqlite'}"):
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE tidemill_identity")
        engine.dispose()


def test_a_home_of_an_earlier_release_is_adopted_whole(places):
    unmarked(places)
    identity = begin(places)
    assert set(identity.stores) == {"control", "lake", "key", "models"}
    opened(places)
    (places.home / "control.sqlite").unlink()
    with pytest.raises(BadState, match="is missing"):
        Control.of(places)


@pytest.mark.parametrize("what", ["control.sqlite", "lake", "model.key", "models"])
def test_a_home_of_an_earlier_release_that_has_lost_something_is_not_adopted(places, what):
    unmarked(places)
    path = places.home / what
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BadState, match=r"is missing.*restore"):
        begin(places)
    assert identity_of(places.home) is None
    assert not path.exists()


def test_a_lost_record_is_made_again_only_from_stores_that_are_all_there(places, made):
    identity = identity_of(places.home)
    path_of(places.home).unlink()
    assert begin(places).id == identity.id
    opened(places)
    path_of(places.home).unlink()
    lose(places, made, "lake/catalog.sqlite", None)
    with pytest.raises(BadState, match=r"lake's catalog .* is missing"):
        begin(places)


@pytest.mark.parametrize("store", ["control", "lake", "key", "models"])
def test_a_store_whose_founder_died_before_it_was_recorded_is_recorded(places, store):
    identity = identity_of(places.home)
    path_of(places.home).write_text(identity.without(store).model_dump_json())
    assert begin(places).stores[store].id == identity.stores[store].id
    opened(places)


def test_a_store_without_a_home_can_be_made_and_tried_by_itself(tmp_path):
    places = Places(home=tmp_path)
    opened_alone = Control.open(places.control)
    assert opened_alone.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(counters)).scalar_one())
    opened_alone.close()
    Lake.open(places).close()
    model_key(places)
    assert identity_of(tmp_path) is None


STARVED = """
import resource, sys
from domain.config import Places
from domain.errors import Unavailable
from warehouse.stores import looks

places = Places(home=sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    print(looks(places, "control"))
except Unavailable as error:
    print("unavailable", error)
"""


@pytest.mark.process
def test_a_disk_that_refuses_to_write_is_no_lost_store(places):
    command = [sys.executable, "-c", STARVED, str(places.home)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.startswith("unavailable "), found
    assert "disk I/O error" in found
