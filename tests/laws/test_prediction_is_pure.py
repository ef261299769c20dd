"""Law 7: predicting never changes what is learned."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.checkpoint import Checkpoint
from domain.config import Model
from domain.fleet import Line
from tests.domain.samples import KEY, LINEAR, MINUTE, RLS, cut, pieces, tape_of, walk


def river(name, target, text):
    return Model(name=name, kind="river", targets=(target,), estimator=text)


# Champions of every kind: compiled, plain River, and two of River that keep notes while they predict.
FLEETS = {
    "rls": (RLS,),
    "river": (LINEAR, river("naive", "direction", "naive_bayes.GaussianNB()")),
    "with notes": (
        RLS.model_copy(update={"targets": ("price_change",)}),
        river("forest", "direction", "forest.ARFClassifier(n_models=2, seed=1)"),
        river("bayes", "volatility", "preprocessing.StandardScaler() | linear_model.BayesianLinearRegression()"),
    ),
}


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    fleet=st.sampled_from(sorted(FLEETS)),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    asks=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    freeze_at=st.integers(0, 8),
)
def test_any_number_of_predictions_anywhere_changes_nothing(seed, fleet, sizes, asks, freeze_at):
    rng = np.random.default_rng(seed)
    tape = tape_of(walk(seed % 7, 400))
    quiet, asked = Line("a:B", FLEETS[fleet]), Line("a:B", FLEETS[fleet])
    for i, piece in enumerate(pieces(tape, [*sizes, 50])):
        for _ in range(asks[i % len(asks)]):
            strange = tape.x[rng.integers(0, len(tape), 3)] * rng.choice([-1.0, 0.0, 1.0, 1e3])
            before = asked.digest()
            first = asked.predict(strange)
            Checkpoint(asked, MINUTE, 5 * MINUTE, probes=tape.x[:2]).to_bytes(KEY)  # its probes are predictions too
            assert asked.predict(strange).tobytes() == first.tobytes()
            assert asked.digest() == before
        until = int(piece.ts.max())
        assert asked.advance(piece, until).tobytes() == quiet.advance(piece, until).tobytes()
        if i == freeze_at:
            quiet.freeze()
            asked.freeze()
    assert asked.digest() == quiet.digest()
    assert asked.scores() == quiet.scores()


def test_questions_on_the_tape_teach_nothing_either():
    tape = tape_of(walk(3, 600))
    answers = cut(tape, ~tape.asks)
    whole, told = Line("a:B", (RLS, LINEAR)), Line("a:B", (RLS, LINEAR))
    whole.advance(tape, int(tape.ts[-1]))
    told.advance(answers, int(tape.ts[-1]))
    probes = tape.x[:50]
    assert whole.predict(probes).tobytes() == told.predict(probes).tobytes()
    for mine, its in zip(whole._learners, told._learners, strict=True):
        assert mine.digests() == its.digests()
