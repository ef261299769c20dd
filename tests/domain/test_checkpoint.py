import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from domain import checkpoint
from domain.checkpoint import FORMAT, Checkpoint, read_manifest
from domain.config import Model
from domain.errors import ArtifactRefused, BadState
from domain.fleet import Line
from tests.domain.samples import LINEAR, LOGISTIC, MINUTE, RLS, cut, tape_of, walk

TAPE = tape_of(walk(51, 600))
SEAM = 400
FLEET = (RLS, LINEAR, LOGISTIC)


def line_at(steps, fleet=FLEET):
    line = Line("a:B", fleet)
    first = cut(TAPE, 0, min(steps, SEAM))
    line.advance(first, int(first.ts[-1]))
    if steps > SEAM:
        line.freeze()
        rest = cut(TAPE, SEAM, steps)
        line.advance(rest, int(rest.ts[-1]))
    return line


def at(steps, **changes):
    fields = {"offsets": {"features/0": 17, "features_with_target/0": 9}, "parent": 4, "snapshot": 12}
    return Checkpoint(line_at(steps), MINUTE, 5 * MINUTE, probes=TAPE.x[:16], **(fields | changes))


GOOD = at(550)
DATA = GOOD.to_bytes()


def meaning(this):
    """All that a checkpoint says and does."""
    rest = cut(TAPE, 550, len(TAPE))
    again = Checkpoint.from_bytes(this.to_bytes()).line
    said = again.advance(rest, int(rest.ts[-1]))
    fields = {k: v for k, v in vars(this).items() if k not in {"line", "probes"}}
    return fields, this.probes.tobytes(), this.line.digest(), this.line.fleet, said.tobytes(), again.digest()


@pytest.mark.parametrize("steps", [1, 150, SEAM, 550])
def test_a_line_comes_back_as_it_was_and_goes_on_as_if_it_had_not_been_saved(steps):
    line = line_at(steps)
    back = Checkpoint.from_bytes(Checkpoint(line, MINUTE, 5 * MINUTE, probes=TAPE.x[:16]).to_bytes()).line
    assert back.digest() == line.digest()
    assert back.predict(TAPE.x[:50]).tobytes() == line.predict(TAPE.x[:50]).tobytes()
    assert (back.scores(), back.watermark, back.n_learned, back.since) == (
        line.scores(), line.watermark, line.n_learned, line.since,
    )  # fmt: skip
    rest = cut(TAPE, steps, len(TAPE))
    assert back.advance(rest, 1).tobytes() == line.advance(rest, 1).tobytes()
    assert back.digest() == line.digest()
    assert back.scores() == line.scores()


def test_where_it_stands_comes_back_with_it():
    back = Checkpoint.from_bytes(DATA)
    for name in ("interval", "horizon", "offsets", "kind", "parent", "snapshot"):
        assert getattr(back, name) == getattr(GOOD, name), name
    assert back.probes.tobytes() == GOOD.probes.tobytes()
    initial = Checkpoint.from_bytes(at(100, offsets={}, parent=None, snapshot=None, kind="initial").to_bytes())
    assert (initial.offsets, initial.parent, initial.snapshot, initial.kind) == ({}, None, None, "initial")


def test_saving_changes_nothing_and_equal_checkpoints_say_the_same():
    again = at(550)
    assert again.to_bytes() == again.to_bytes()
    assert meaning(again) == meaning(GOOD)
    assert read_manifest(again.to_bytes()) == read_manifest(DATA)


def test_the_manifest_names_what_it_was_made_for_from_and_with():
    manifest = read_manifest(DATA)
    assert manifest["format"] == FORMAT
    assert manifest["digest"] == GOOD.line.digest()
    assert manifest["champions"] == {"price_change": "rls", "direction": "rls", "volatility": "rls"}
    assert manifest["offsets"] == GOOD.offsets
    assert {"numpy", "numba", "river", "safetensors"} == set(manifest["libraries"])


def test_a_flipped_byte_is_refused_or_changes_nothing_that_matters():
    header = 8 + int.from_bytes(DATA[:8], "little")
    rng = np.random.default_rng(1)
    positions = [*range(8), *range(8, header, 11), *(header + rng.integers(0, len(DATA) - header, 250)).tolist()]
    expected, refused = meaning(GOOD), 0
    for position in positions:
        broken = bytearray(DATA)
        broken[position] ^= int(rng.choice([1, 2, 16, 32, 128, 255]))
        try:
            back = Checkpoint.from_bytes(bytes(broken))
        except ArtifactRefused:
            refused += 1
            continue
        assert meaning(back) == expected, position
    assert refused > 0.9 * len(positions)


def test_every_cut_and_every_addition_is_refused():
    for n in [0, 1, 7, 8, 9, 100, 1_000, len(DATA) // 2, len(DATA) - 1]:
        with pytest.raises(ArtifactRefused):
            Checkpoint.from_bytes(DATA[:n])
    with pytest.raises(ArtifactRefused):
        Checkpoint.from_bytes(DATA + b"\0")


def forged(change=None, arrays=None, seal=False):
    """The good file with another manifest or other arrays, every part of it well formed."""
    manifest = read_manifest(DATA)
    manifest.update(change or {})
    held = load(DATA) | (arrays or {})
    if seal:
        del manifest["seal"]
        manifest["seal"] = checkpoint._seal(manifest, held)
    return bytes(save(held, metadata={"manifest": json.dumps(manifest, sort_keys=True)}))


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": {"features/0": 18, "features_with_target/0": 9}},
        {"offsets": {}},
        {"parent": 5},
        {"parent": None},
        {"snapshot": 13},
        {"kind": "initial"},
        {"interval": 1},
        {"horizon": 1},
        {"champions": {}},
        {"watermark": 1},
        {"n_learned": 1},
        {"since": 1},
        {"instrument": "a:C"},
        {"targets": []},
        {"libraries": {}},
        {"fleet": [m.model_dump(mode="json") | ({"forgetting": 0.95} if m is RLS else {}) for m in FLEET]},
        {"fleet": [m.model_dump(mode="json") | ({"clip": 3.0} if m is RLS else {}) for m in FLEET]},
        {"digest": "0" * 64},
        {"seal": "0" * 64},
        {"extra": 1},
    ],
    ids=str,
)
def test_no_field_of_the_manifest_can_be_changed_alone(change):
    Checkpoint.from_bytes(forged())
    with pytest.raises(ArtifactRefused):
        Checkpoint.from_bytes(forged(change))


@pytest.mark.parametrize(
    "name", ["model/rls/weights", "baselines/labels", "scores/asked", "frozen/rls/moments", "probes/x"]
)
def test_no_number_of_the_state_can_be_changed_alone(name):
    changed = load(DATA)[name].copy()
    changed.flat[0] = np.nextafter(changed.flat[0], np.inf)
    with pytest.raises(ArtifactRefused):
        Checkpoint.from_bytes(forged(arrays={name: changed}))


def test_a_version_that_predicts_something_else_here_is_refused():
    other = load(DATA)["probes/predicted"] + 1e-9
    with pytest.raises(ArtifactRefused, match="probe vectors"):
        Checkpoint.from_bytes(forged(arrays={"probes/predicted": other}, seal=True))


@pytest.mark.parametrize("change", [{"format": FORMAT + 1}, {"format": 1}, {"features": ["other"]}])
def test_a_version_of_another_format_or_feature_set_is_refused_with_what_to_do(change):
    with pytest.raises(ArtifactRefused, match="train a new initial model"):
        Checkpoint.from_bytes(forged(change, seal=True))


@pytest.mark.parametrize("change", [{"fleet": [{"name": "x"}]}, {"fleet": 5}, {"instrument": None}, {"watermark": "x"}])
def test_a_manifest_that_makes_no_sense_is_refused_even_when_sealed(change):
    with pytest.raises(ArtifactRefused):
        Checkpoint.from_bytes(forged(change, seal=True))


def test_a_state_that_lacks_a_part_is_refused():
    held = load(DATA)
    for name in ("model/rls/weights", "model/river_linear/volatility", "scores/asked", "probes/x"):
        partial = {k: v for k, v in held.items() if k != name}
        with pytest.raises(ArtifactRefused):
            Checkpoint.from_bytes(bytes(save(partial, metadata={"manifest": json.dumps(read_manifest(DATA))})))


def test_a_champion_that_is_not_finite_is_never_written():
    line = line_at(200)
    line._learners[0]._state.weights[2, 3] = np.nan
    with pytest.raises(BadState, match="not finite"):
        Checkpoint(line, MINUTE, 5 * MINUTE).to_bytes()
    wild = Model(
        name="wild", kind="river", targets=("volatility",), estimator="linear_model.LinearRegression(optim.SGD(1e300))"
    )
    line = Line("a:B", (wild, RLS))
    answers = cut(TAPE, ~TAPE.asks)
    line.advance(answers, int(answers.ts[-1]))  # nothing is asked, so nothing is noticed yet
    with pytest.raises(BadState, match="not finite"):
        Checkpoint(line, MINUTE, 5 * MINUTE, probes=TAPE.x[:4]).to_bytes()


def test_a_challenger_that_blew_up_does_not_stop_the_line():
    wild = Model(
        name="wild", kind="river", targets=("volatility",), estimator="linear_model.LinearRegression(optim.SGD(1e300))"
    )
    line = line_at(550, (RLS, wild))
    back = Checkpoint.from_bytes(replace(GOOD, line=line).to_bytes())
    assert back.line.digest() == line.digest()
    assert "rls" in line.scores()["volatility"]
    assert "wild" not in line.scores()["volatility"]
