import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from domain import checkpoint
from domain.checkpoint import FORMAT, PROBES, Checkpoint, read_manifest
from domain.config import Model
from domain.errors import ArtifactRefused, BadState
from domain.fleet import Line
from tests.domain.samples import KEY, LINEAR, LOGISTIC, MINUTE, RLS, cut, tape_of, walk

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
    return Checkpoint(line_at(steps), MINUTE, 5 * MINUTE, probes=TAPE.x[:PROBES], **(fields | changes))


GOOD = at(550)
DATA = GOOD.to_bytes(KEY)


def meaning(this):
    """All that a checkpoint says and does."""
    rest = cut(TAPE, 550, len(TAPE))
    again = Checkpoint.from_bytes(this.to_bytes(KEY), KEY).line
    said = again.advance(rest, int(rest.ts[-1]))
    fields = {k: v for k, v in vars(this).items() if k not in {"line", "probes"}}
    return fields, this.probes.tobytes(), this.line.digest(), this.line.fleet, said.tobytes(), again.digest()


@pytest.mark.parametrize("steps", [1, 150, SEAM, 550])
def test_a_line_comes_back_as_it_was_and_goes_on_as_if_it_had_not_been_saved(steps):
    line = line_at(steps)
    back = Checkpoint.from_bytes(Checkpoint(line, MINUTE, 5 * MINUTE, probes=TAPE.x[:64]).to_bytes(KEY), KEY).line
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
    back = Checkpoint.from_bytes(DATA, KEY)
    for name in ("interval", "horizon", "offsets", "kind", "parent", "snapshot"):
        assert getattr(back, name) == getattr(GOOD, name), name
    assert back.probes.tobytes() == GOOD.probes.tobytes()
    initial = Checkpoint.from_bytes(at(100, offsets={}, parent=None, snapshot=None, kind="initial").to_bytes(KEY), KEY)
    assert (initial.offsets, initial.parent, initial.snapshot, initial.kind) == ({}, None, None, "initial")


def test_saving_changes_nothing_and_equal_checkpoints_say_the_same():
    again = at(550)
    assert again.to_bytes(KEY) == again.to_bytes(KEY)
    assert meaning(again) == meaning(GOOD)
    assert again.to_bytes(KEY) == DATA


def test_the_manifest_names_what_it_was_made_for_from_and_with():
    manifest = read_manifest(DATA, KEY)
    assert manifest["format"] == FORMAT
    assert manifest["digest"] == GOOD.line.digest()
    assert manifest["champions"] == {"price_change": "rls", "direction": "rls", "volatility": "rls"}
    assert manifest["offsets"] == GOOD.offsets
    assert {"numpy", "numba", "river", "safetensors"} == set(manifest["libraries"])


def forged(change=None, arrays=None, sign=b"", spelled=checkpoint._canonical):
    """The good file with another manifest or other arrays, every part of it well formed; signed anew if asked."""
    held = load(DATA) | (arrays or {})
    header = json.loads(DATA[8 : 8 + int.from_bytes(DATA[:8], "little")])
    manifest = json.loads(header["__metadata__"]["manifest"]) | (change or {})
    if sign:
        manifest["members"] = {name: checkpoint._digest(name, array) for name, array in held.items()}
        del manifest["hmac"]
        manifest["hmac"] = checkpoint._sign(manifest, sign)
    return bytes(save(held, metadata={"manifest": spelled(manifest)}))


def refused(data, key=KEY):
    """Whether a file is refused; it must never fail in another way."""
    try:
        Checkpoint.from_bytes(data, key)
    except ArtifactRefused:
        return True
    return False


def flipped(data, bit):
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


@pytest.mark.slow
def test_every_single_bit_flip_of_header_and_manifest_is_refused():
    small = replace(GOOD, line=line_at(550, (RLS, LINEAR))).to_bytes(KEY)
    header = 8 + int.from_bytes(small[:8], "little")
    loaded = [bit for bit in range(8 * header) if not refused(flipped(small, bit))]
    assert loaded == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [int(os.environ.get("TIDEMILL_SEED", "1"))])
def test_bit_flips_anywhere_are_refused(seed):
    bits = np.random.default_rng(seed).integers(0, 8 * len(DATA), 4_000).tolist()
    assert [bit for bit in bits if not refused(flipped(DATA, bit))] == [], f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [int(os.environ.get("TIDEMILL_SEED", "1"))])
def test_every_cut_and_every_addition_is_refused(seed):
    header = 8 + int.from_bytes(DATA[:8], "little")
    sampled = np.random.default_rng(seed).integers(header, len(DATA), 2_000).tolist()
    lengths = [*range(0, header, 7), *range(header - 9, header + 9), *sampled, len(DATA) - 1]
    assert [n for n in lengths if not refused(DATA[:n])] == [], f"seed {seed}"
    assert refused(DATA + b"\0")
    assert refused(DATA + DATA)
    assert refused(b"\0" * len(DATA))
    assert refused((2**63).to_bytes(8, "little") + DATA[8:])
    assert refused((2).to_bytes(8, "little") + b"[" * 100_000)


def test_a_version_signed_with_another_key_or_with_none_is_refused_before_anything_is_unpickled(monkeypatch):
    def unpickle(_data):
        raise AssertionError("unpickled")

    monkeypatch.setattr("domain.pickles.load", unpickle)
    for data, key in [
        (DATA, b"another key"),
        (DATA, b""),
        (forged(sign=b"another key"), KEY),
        (forged({"hmac": ""}), KEY),
        (forged({"hmac": None}), KEY),
        (forged({"hmac": hashlib.sha256(DATA).hexdigest()}), KEY),
        (DATA.replace(b"hmac", b"hmad"), KEY),
        (flipped(DATA, 8 * (len(DATA) - 1)), KEY),
    ]:
        with pytest.raises(ArtifactRefused, match=r"another key|damaged|member"):
            Checkpoint.from_bytes(data, key)
    with pytest.raises(ArtifactRefused, match="unpickled"):
        Checkpoint.from_bytes(DATA, KEY)


def test_two_members_that_changed_places_are_refused():
    held = load(DATA)
    for one, other in [
        ("model/rls/weights", "frozen/rls/weights"),
        ("model/river_linear/volatility", "model/river_linear/price_change"),
        ("model/river_linear/volatility", "frozen/rls/moments"),
    ]:
        swapped = {one: held[other], other: held[one]}
        assert refused(forged(arrays=swapped)), (one, other)


def test_a_member_of_another_shape_or_type_with_the_same_bytes_is_refused():
    weights = load(DATA)["model/rls/weights"]
    assert refused(forged(arrays={"model/rls/weights": weights.reshape(-1)}))
    assert refused(forged(arrays={"model/rls/weights": weights.view(np.int64)}))
    assert refused(forged(arrays={"model/rls/extra": weights}))


def test_a_header_that_means_the_same_but_is_spelled_otherwise_is_refused():
    assert not refused(forged(spelled=checkpoint._canonical))
    assert refused(forged(spelled=json.dumps))
    text = DATA[8 : 8 + int.from_bytes(DATA[:8], "little")]
    for other in (text + b" " * 8, b" " + text[:-1] if text.endswith(b" ") else b" " + text, text.replace(b":", b": ")):
        assert refused(len(other).to_bytes(8, "little") + other + DATA[8 + len(text) :])


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
        {"line": "a:C"},
        {"targets": []},
        {"libraries": {}},
        {"fleet": [m.model_dump(mode="json") | ({"forgetting": 0.95} if m is RLS else {}) for m in FLEET]},
        {"fleet": [m.model_dump(mode="json") | ({"clip": 3.0} if m is RLS else {}) for m in FLEET]},
        {"digest": "0" * 64},
        {"hmac": "0" * 64},
        {"members": {}},
        {"extra": 1},
    ],
    ids=str,
)
def test_no_field_of_the_manifest_can_be_changed_alone(change):
    Checkpoint.from_bytes(forged(), KEY)
    with pytest.raises(ArtifactRefused):
        Checkpoint.from_bytes(forged(change), KEY)


@pytest.mark.parametrize(
    "name", ["model/rls/weights", "baselines/labels", "scores/asked", "frozen/rls/moments", "probes/x"]
)
def test_no_number_of_the_state_can_be_changed_alone(name):
    changed = load(DATA)[name].copy()
    changed.flat[0] = np.nextafter(changed.flat[0], np.inf)
    with pytest.raises(ArtifactRefused):
        Checkpoint.from_bytes(forged(arrays={name: changed}), KEY)


def test_a_version_that_predicts_something_else_here_is_refused():
    other = load(DATA)["probes/predicted"] + 1e-9
    with pytest.raises(ArtifactRefused, match="probe vectors"):
        Checkpoint.from_bytes(forged(arrays={"probes/predicted": other}, sign=KEY), KEY)


def test_a_state_without_the_recorded_digest_is_refused_even_when_signed():
    with pytest.raises(ArtifactRefused, match="recorded digest"):
        Checkpoint.from_bytes(forged({"digest": "0" * 64}, sign=KEY), KEY)


@pytest.mark.parametrize("change", [{"format": FORMAT + 1}, {"format": 1}, {"features": ["other"]}, {"targets": []}])
def test_a_version_of_another_format_or_feature_set_is_refused_with_what_to_do(change):
    with pytest.raises(ArtifactRefused, match="train a new initial model"):
        Checkpoint.from_bytes(forged(change, sign=KEY), KEY)


@pytest.mark.parametrize("change", [{"fleet": [{"name": "x"}]}, {"fleet": 5}, {"line": None}, {"watermark": "x"}])
def test_a_manifest_that_makes_no_sense_is_refused_even_when_sealed(change):
    with pytest.raises(ArtifactRefused):
        Checkpoint.from_bytes(forged(change, sign=KEY), KEY)


def test_a_state_that_lacks_a_part_is_refused():
    held = load(DATA)
    for name in ("model/rls/weights", "model/river_linear/volatility", "scores/asked", "probes/x"):
        partial = {k: v for k, v in held.items() if k != name}
        manifest = read_manifest(DATA, KEY)
        del manifest["members"][name]
        text = checkpoint._canonical(manifest | {"hmac": checkpoint._sign(manifest, KEY)})
        with pytest.raises(ArtifactRefused, match="cannot be restored here"):
            Checkpoint.from_bytes(bytes(save(partial, metadata={"manifest": text})), KEY)


def test_a_champion_that_is_not_finite_is_never_written():
    line = line_at(200)
    line._learners[0]._state.weights[2, 3] = np.nan
    with pytest.raises(BadState, match="not finite"):
        Checkpoint(line, MINUTE, 5 * MINUTE).to_bytes(KEY)
    wild = Model(
        name="wild", kind="river", targets=("volatility",), estimator="linear_model.LinearRegression(optim.SGD(1e300))"
    )
    line = Line("a:B", (wild, RLS))
    answers = cut(TAPE, ~TAPE.asks)
    line.advance(answers, int(answers.ts[-1]))  # nothing is asked, so nothing is noticed yet
    with pytest.raises(BadState, match="not finite"):
        Checkpoint(line, MINUTE, 5 * MINUTE, probes=TAPE.x[:4]).to_bytes(KEY)


def test_a_challenger_that_blew_up_does_not_stop_the_line():
    wild = Model(
        name="wild", kind="river", targets=("volatility",), estimator="linear_model.LinearRegression(optim.SGD(1e300))"
    )
    line = line_at(550, (RLS, wild))
    back = Checkpoint.from_bytes(replace(GOOD, line=line).to_bytes(KEY), KEY)
    assert back.line.digest() == line.digest()
    assert "rls" in line.scores()["volatility"]
    assert "wild" not in line.scores()["volatility"]
