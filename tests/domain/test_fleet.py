import numpy as np
import pytest

from domain import baselines, evaluation, rls
from domain.baselines import BaselineState
from domain.config import Model
from domain.errors import BadState
from domain.evaluation import ScoreState
from domain.features import TARGETS
from domain.fleet import Line
from domain.lines import BASELINES, FROZEN
from tests.domain.samples import LINEAR, LOGISTIC, RLS, cut, pieces, tape_of, walk

TAPE = tape_of(walk(61, 700))
FLEET = (RLS, LINEAR, LOGISTIC)
SEAM = 500


def advanced(line, tape, sizes=(10_000,)):
    return np.concatenate([line.advance(piece, int(piece.ts.max())) for piece in pieces(tape, sizes)])


def test_it_serves_each_target_by_its_champion():
    line = Line("a:B", (LINEAR, LOGISTIC, RLS))
    served = advanced(line, TAPE)
    for k, target in enumerate(TARGETS):
        model = next(m for m in (LINEAR, LOGISTIC, RLS) if target in m.targets)
        alone = Line("a:B", (model, RLS))
        assert served[:, k].tobytes() == advanced(alone, TAPE)[:, k].tobytes()
    assert line.predict(TAPE.x[:3]).shape == (3, 3)


def test_challengers_change_nothing_of_what_is_served():
    assert advanced(Line("a:B", (RLS,)), TAPE).tobytes() == advanced(Line("a:B", FLEET), TAPE).tobytes()


def test_it_is_just_its_members_its_baselines_and_their_scores():
    line = Line("a:B", (RLS,))
    served = advanced(line, TAPE)
    state = rls.RlsState.empty()
    said = rls.advance(state, TAPE, np.ones(3, np.bool_), RLS.forgetting, RLS.clip)
    assert served.tobytes() == said.tobytes()
    members = ("rls", *BASELINES)
    predicted = np.concatenate([said[:, None], baselines.advance(BaselineState.empty(), TAPE)], axis=1)
    scores = ScoreState.empty(len(members))
    evaluation.score(scores, TAPE, np.ascontiguousarray(predicted), 0)
    assert line.scores() == evaluation.summary(scores, members)
    assert line.n_learned == (~TAPE.asks).sum()


def test_any_cut_of_the_tape_gives_the_same_line():
    whole, parts = Line("a:B", FLEET), Line("a:B", FLEET)
    assert advanced(whole, TAPE).tobytes() == advanced(parts, TAPE, (1, 50, 3)).tobytes()
    assert whole.digest() == parts.digest()
    assert whole.scores() == parts.scores()


def test_the_frozen_model_stays_as_it_was_and_is_scored_from_then_on():
    line = Line("a:B", FLEET)
    advanced(line, cut(TAPE, 0, SEAM))
    at_the_seam = line.predict(TAPE.x[:20])
    line.freeze()
    assert line.scores() == {target: {} for target in TARGETS}
    assert line.since == line.watermark
    advanced(line, cut(TAPE, SEAM, len(TAPE)))
    assert line._pick(line._frozen, TAPE.x[:20]).tobytes() == at_the_seam.tobytes()
    assert (line.predict(TAPE.x[:20]) != at_the_seam).any()
    scores = line.scores()["volatility"]
    asked_after = set(TAPE.ts[TAPE.asks & (TAPE.ts > line.since)].tolist())
    answered = [t for t in TAPE.ts[~TAPE.asks].tolist() if t in asked_after]
    assert {member: s["n"] for member, s in scores.items()} == dict.fromkeys(
        ("rls", "river_linear", *BASELINES, FROZEN), len(answered)
    )
    assert scores["rls"]["loss"] != scores[FROZEN]["loss"]


def test_every_part_of_a_line_is_in_its_digest():
    line = Line("a:B", FLEET)
    advanced(line, cut(TAPE, 0, SEAM))
    line.freeze()
    seen = {line.digest()}
    assert Line("a:C", FLEET).digest() != Line("a:B", FLEET).digest()
    for name in ("watermark", "n_learned", "since"):
        setattr(line, name, getattr(line, name) + 1)
        seen.add(line.digest())
    for array in line.arrays().values():
        if array.dtype != np.uint8:
            array.flat[-1] = array.flat[-1] + 1
            seen.add(line.digest())
    for learner in line._learners[1:]:
        learner.advance(cut(TAPE, SEAM, SEAM + 20))
        seen.add(line.digest())
    plain = [a for a in line.arrays().values() if a.dtype != np.uint8]
    assert len(seen) == 1 + 3 + len(plain) + 2


def test_a_restored_line_holds_the_state_and_not_the_arrays():
    line = Line("a:B", FLEET)
    advanced(line, TAPE)
    digest = line.digest()
    again = Line("a:B", FLEET)
    again.restore(line.arrays())
    advanced(again, TAPE)
    assert line.digest() == digest


def test_a_champion_that_is_not_finite_stops_the_line():
    wild = Model(
        name="wild", kind="river", targets=("volatility",), estimator="linear_model.LinearRegression(optim.SGD(1e300))"
    )
    with pytest.raises(BadState, match="a:B"):
        advanced(Line("a:B", (wild, RLS)), TAPE)


def test_an_empty_tape_moves_only_the_watermark():
    line = Line("a:B", FLEET)
    advanced(line, TAPE)
    before = {name: array.tobytes() for name, array in line.arrays().items() if array.dtype != np.uint8}
    assert line.advance(cut(TAPE, 0, 0), 7).shape == (0, 3)
    assert line.watermark == 7
    assert before == {name: array.tobytes() for name, array in line.arrays().items() if array.dtype != np.uint8}
