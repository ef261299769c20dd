"""Law 3: whatever is killed, stopped, doubled or damaged, and whenever, nothing of it can be seen afterwards."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from domain.services import STREAMS
from orchestration import faults
from orchestration.chaos import Disturbance, paced
from orchestration.differences import compare
from orchestration.faults import FAULTS, LAST, Moment, schedule
from tests.chaos.conftest import elsewhere
from warehouse.lake import Lake

ROOT = Path(__file__).parents[2]
SERVICES = ("broker", *STREAMS)


@pytest.mark.parametrize("broker", ["dev broker", "Apache Kafka"])
def test_ten_kills_of_any_service_leave_no_difference(undisturbed, wild, disturbed, broker, request):
    calm, first = undisturbed
    stream, end_broker = first.streamed["examples"], None
    if broker == "Apache Kafka":
        node = request.getfixturevalue("apache")
        wild, end_broker = on(wild, node), lambda: (node.kill(), node.start())
    moments = schedule(11, 10, 1, ["kill"], stream, SERVICES)
    act = Disturbance(moments, first.learned - stream, 11, end_broker=end_broker)
    disturbed(wild, act)
    assert act.kills["broker"] > 0
    verdict = compare(calm.places, wild.places, calm.project)
    assert act.kills.total() == 10
    assert verdict.differences == []
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.learned == first.learned == first.examples
    assert verdict.answers == first.predictions
    assert all(one == other for one, other in verdict.digests.values())


def test_a_service_that_slept_while_a_copy_took_over_wakes_to_no_effect(undisturbed, wild, disturbed):
    act = happening(
        undisturbed, *(Moment(200 + 300 * k, 0.0, "pause", (n,)) for k, n in enumerate(("broker", "lander")))
    )
    disturbed(wild, act)
    assert compare(undisturbed[0].places, wild.places, wild.project).differences == []
    assert len(act.notes) == 2


def test_a_second_copy_refuses_or_changes_nothing(undisturbed, wild, disturbed):
    # Ingest first: it alone comes to an end by itself.
    order = (*STREAMS, "broker")
    act = happening(undisturbed, *(Moment(100 + 50 * k, 0.0, "duplicate", (n,)) for k, n in enumerate(order)))
    disturbed(paced(wild, 30.0), act)
    assert compare(undisturbed[0].places, wild.places, wild.project).differences == []
    refused = {note for note in act.notes if note.endswith("exit code 2")}
    assert len(refused) == 2, "broker and predictor: one directory and one port, the copy cannot even begin"


def test_a_damaged_artifact_is_refused_by_name_and_learned_again(undisturbed, wild, disturbed):
    act = happening(undisturbed, Moment(200, 0.0, "tear", ("trainer",)), Moment(500, 0.0, "tear", ("trainer",)))
    disturbed(wild, act)
    # Where the second moment follows at once, it may damage the same versions again.
    damaged = {note.rpartition(": ")[0] for note in act.notes}
    assert damaged, "no line had a second version to damage"
    verdict = compare(undisturbed[0].places, wild.places, wild.project)
    assert verdict.differences == []
    assert verdict.answers + verdict.unheld == undisturbed[1].predictions
    assert verdict.answers > 0
    log = (wild.places.home / "services" / "trainer" / "log").read_text()
    assert log.count("version refused") >= len(damaged)


def on(planned, node):
    """Return the plan on another broker, with topics of its own."""
    return elsewhere(planned, kafka_bootstrap_servers=node.address, kafka_topic_prefix="chaos.")


def happening(undisturbed, *moments):
    _, first = undisturbed
    return Disturbance(moments, first.learned - first.streamed["examples"], 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_is_told_by_its_seed_and_kills_as_often_as_asked(seed):
    one, again, other = (schedule(s, 200, 2, FAULTS, 10_000, SERVICES) for s in (seed, seed, seed + 1))
    assert one == again != other
    assert sum(len(moment.victims) for moment in one if moment.fault == "kill") == 200
    assert {m.fault for m in one} == set(FAULTS)
    assert {name for moment in one for name in moment.victims} == set(SERVICES)
    assert [m.learned for m in one] == sorted(m.learned for m in one)
    assert one[-1].learned < 10_000 * LAST


def test_every_kind_of_damage_changes_the_file(tmp_path):
    class Version:
        line, number, path = "a:B", 7, tmp_path / "7"

    rng, kinds = random.Random(2), set()
    for _ in range(200):
        data = rng.randbytes(2_000)
        Version.path.write_bytes(data)
        kinds.add(faults.damage(Version, rng).split(": ")[1].split(" at ")[0])
        assert Version.path.read_bytes() != data
    assert kinds == {"bit flipped", "cut", "sector lost"}


def test_an_unknown_fault_is_one_line_and_exit_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "chaos", "--faults", "kill,earthquake"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "tidemill: --faults kill,earthquake: 'earthquake' is not a fault; choose some of kill,pause,duplicate,tear"
    )


def test_a_lost_and_a_doubled_row_are_named(undisturbed, changed):
    calm, _ = undisturbed
    (name, *_) = calm.project.instruments
    ts = calm.until + calm.project.interval
    where = f"WHERE instrument = '{name}' AND ts_event = {ts}"
    verdict = changed(f"DELETE FROM features {where}", f"INSERT INTO bars SELECT * FROM bars {where}")  # noqa: S608
    assert (verdict.lost, verdict.doubled) == (1, 1)
    assert verdict.differences == [
        f"bars: 1 rows doubled, the first of {name} at {ts}",
        f"features: 1 rows lost, the first of {name} at {ts}",
    ]


def test_a_changed_bit_and_a_prediction_that_its_version_does_not_make_are_named(undisturbed, changed):
    calm, _ = undisturbed
    (name, *_) = calm.project.instruments
    ts = calm.until + calm.project.interval
    where = f"WHERE instrument = '{name}' AND ts_event = {ts}"
    verdict = changed(
        f"UPDATE examples SET volatility = volatility * (1 + 1e-15) {where}",  # noqa: S608
        f"UPDATE predictions SET volatility = volatility * (1 + 1e-15) {where}",  # noqa: S608
    )
    first, second = verdict.differences
    assert first.startswith(f"examples: volatility of 1 rows, first {name} at ")
    assert second.startswith(f"{name}: the prediction at {ts} is ")


@pytest.fixture
def changed(undisturbed, tmp_path):
    """Compare the undisturbed home with a copy of it that was changed by statements."""
    calm, _ = undisturbed

    def compared(*statements):
        home = tmp_path / "changed"
        shutil.copytree(calm.places.home, home, ignore=shutil.ignore_patterns("services", "broker"))
        places = calm.places.model_copy(update={"home": home})
        with Lake.open(places) as lake:
            for statement in statements:
                lake.write(lambda c, statement=statement: c.execute(statement))
        return compare(calm.places, places, calm.project)

    return compared
