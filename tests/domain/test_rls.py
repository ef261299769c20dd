import numpy as np
import pytest

from domain import rls
from domain.features import FEATURES, TARGETS
from domain.rls import WARM_UP, RlsState
from domain.tape import Tape
from tests.domain.samples import pieces, tape_of, walk

D = len(FEATURES)
ALL = np.ones(3, np.bool_)
EDGE = 0.01


def answers(x, y):
    return Tape(np.zeros(len(x), np.bool_), np.arange(len(x)), np.ascontiguousarray(x), np.ascontiguousarray(y))


def random_problem(seed, n, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) * rng.lognormal(0, 2, D) + rng.normal(size=D)
    slopes = rng.normal(size=(D, 3)) / x.std(axis=0)[:, None]
    y = x @ slopes + noise * rng.normal(size=(n, 3))
    y[:, 1] = y[:, 1] > np.median(y[:, 1])
    y[rng.random(n) < 0.1, 1] = np.nan
    return x, y


def textbook(tape, forgetting, clip):
    """Plain numpy recursive least squares, one target at a time, with moments taken anew from all rows so far."""
    first = RlsState.empty()
    cap = first.covariance[0, 0, 0] * (D + 1)
    p = [first.covariance[k].copy() for k in range(3)]
    w, labels, seen, out = [np.zeros(D + 1) for _ in range(3)], [[], [], []], [], []

    def scaled(x):
        rows = np.array(seen) if seen else np.zeros((1, D))
        spread = rows.std(axis=0) if seen else np.zeros(D)
        middle = rows.mean(axis=0)
        return np.concatenate([[1.0], np.clip((x - middle) / (spread + 1e-9), -clip, clip)])

    for asks, x, y in zip(tape.asks, tape.x, tape.y, strict=True):
        if not asks:
            seen.append(x)
        a = scaled(x)
        if asks:
            row = [w[k] @ a if len(seen) > WARM_UP else np.mean(labels[k] or [0.0]) for k in range(3)]
            row[1] = min(max(row[1], EDGE), 1 - EDGE) if labels[1] else 0.5
            out.append(row)
            continue
        for k in np.flatnonzero(~np.isnan(y)):
            label = y[k]
            labels[k].append(label)
            if len(seen) <= WARM_UP:
                continue
            forget = forgetting if np.trace(p[k]) < cap else 1.0
            gain = p[k] @ a / (forget + a @ p[k] @ a)
            w[k] = w[k] + gain * (label - w[k] @ a)
            p[k] = (p[k] - np.outer(gain, a @ p[k])) / forget
    return np.array(out), np.array(w)


@pytest.mark.parametrize(("forgetting", "clip"), [(1.0, 8.0), (0.9999, 8.0), (0.98, 1.5)])
def test_it_is_the_textbook_s_recursion(forgetting, clip):
    tape = tape_of(walk(11, 700))
    tape.y[~tape.asks, 0] += 500.0 * (np.arange((~tape.asks).sum()) % 97 == 0)
    expected, weights = textbook(tape, forgetting, clip)
    state = RlsState.empty()
    got = rls.advance(state, tape, ALL, forgetting, clip)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-7, atol=1e-9)


def test_without_forgetting_it_is_the_ridge_regression_of_the_prior():
    # The scales are settled by a first long pass, then held still by starting the weights afresh from there.
    x, y = random_problem(5, 4_000)
    state = RlsState.empty()
    rls.advance(state, answers(x, y), ALL, 1.0, 50.0)
    state.moments[:] *= 1e9  # so much history that further rows do not move mean or deviation
    state.moments[0, 1:] /= 1e9
    fresh = RlsState.empty()
    prior = fresh.covariance[0].copy()
    state.weights[:], state.covariance[:], state.labels[:] = 0.0, fresh.covariance, 0.0
    x2, y2 = random_problem(6, 500)
    x2 = x[:500] + 0.1 * x2
    rls.advance(state, answers(x2, y2), ALL, 1.0, 50.0)
    z = np.column_stack([np.ones(500), (x2 - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)])
    for k in range(3):
        rows = ~np.isnan(y2[:, k])
        a, b = z[rows], y2[rows, k]
        ridge = np.linalg.solve(a.T @ a + np.linalg.inv(prior), a.T @ b)
        np.testing.assert_allclose(state.weights[k], ridge, rtol=1e-5, atol=1e-6)


def test_it_finds_a_linear_law():
    x, y = random_problem(9, 5_000, noise=0.01)
    state = RlsState.empty()
    rls.advance(state, answers(x[:4_000], y[:4_000]), ALL, 1.0, 50.0)
    error = rls.predict(state, x[4_000:], 50.0)[:, 0] - y[4_000:, 0]
    assert np.mean(error**2) < 1e-2 * np.var(y[:, 0])


def test_labels_that_stood_still_through_the_warm_up_can_move_afterwards():
    # A reach of no deviations at all would hold every later label at the first one for ever.
    x, y = random_problem(3, 3_000)
    y[:200, 0], y[:200, 1] = 0.0, 1.0
    state = RlsState.empty()
    rls.advance(state, answers(x, y), ALL, 1.0, 8.0)
    assert state.labels[2, 0] > 0
    predicted = rls.predict(state, x[2_000:], 8.0)
    assert np.corrcoef(predicted[:, 0], y[2_000:, 0])[0, 1] > 0.9
    assert predicted[:, 1].min() < 0.5


def test_a_scaled_feature_is_clipped():
    x, y = random_problem(3, 1_000)
    state = RlsState.empty()
    rls.advance(state, answers(x, y), ALL, 1.0, 3.0)
    far = x[:1].repeat(3, axis=0)
    spread = np.sqrt(state.moments[1, 1:] / state.moments[0, 0])
    far[1, 4], far[2, 4] = state.moments[0, 5] + 4.0 * spread[4], 1e300
    at, beyond, much = rls.predict(state, far, 3.0)
    assert (beyond == much).all()
    assert (at != beyond).any()


def test_without_excitation_the_covariance_stays_bounded_and_it_recovers():
    x, y = random_problem(3, 1_000)
    flat = np.zeros((60_000, D))
    flat[:] = x.mean(axis=0)
    state = RlsState.empty()
    rls.advance(state, answers(x, y), ALL, 0.99, 8.0)
    rls.advance(state, answers(flat, np.zeros((60_000, 3))), ALL, 0.99, 8.0)
    cap = RlsState.empty().covariance[0, 0, 0] * (D + 1)
    traces = np.trace(state.covariance, axis1=1, axis2=2)
    assert (traces <= cap / 0.99 + 1e-6).all()
    for p in state.covariance:
        assert (p == p.T).all()
        assert np.linalg.eigvalsh(p).min() > -1e-9 * np.trace(p)
    x, y = random_problem(3, 4_000)
    rls.advance(state, answers(x, y), ALL, 0.999, 8.0)
    error = rls.predict(state, x[3_500:], 8.0)[:, 0] - y[3_500:, 0]
    assert np.mean(error**2) < 0.3 * np.var(y[:, 0])


def test_prediction_is_pure():
    x, y = random_problem(4, 400)
    state = RlsState.empty()
    rls.advance(state, answers(x, y), ALL, 0.9999, 8.0)
    before = [a.tobytes() for a in vars(state).values()]
    first = rls.predict(state, x, 8.0)
    assert rls.predict(state, np.ascontiguousarray(x[::-1]), 8.0)[::-1].tobytes() == first.tobytes()
    assert [a.tobytes() for a in vars(state).values()] == before


def test_before_any_label_it_says_nothing_and_while_it_warms_up_the_running_mean():
    x, y = random_problem(4, WARM_UP + 1)
    state = RlsState.empty()
    assert rls.predict(state, x[:1], 8.0).tolist() == [[0.0, 0.5, 0.0]]
    rls.advance(state, answers(x[:WARM_UP], y[:WARM_UP]), ALL, 1.0, 8.0)
    np.testing.assert_allclose(rls.predict(state, x[:5], 8.0), [np.nanmean(y[:WARM_UP], axis=0)] * 5, rtol=1e-9)
    assert not state.weights.any()
    rls.advance(state, answers(x[WARM_UP:], y[WARM_UP:]), ALL, 1.0, 8.0)
    assert state.weights.any()


def test_a_probability_keeps_off_its_edges():
    x, y = random_problem(4, 3_000, noise=0.0)
    state = RlsState.empty()
    rls.advance(state, answers(x, y), ALL, 1.0, 8.0)
    p = rls.predict(state, 100 * x, 8.0)[:, TARGETS.index("direction")]
    assert p.min() == EDGE
    assert p.max() == 1 - EDGE


def test_a_target_that_is_unknown_or_not_its_own_is_not_learned():
    x, y = random_problem(4, 300)
    state = RlsState.empty()
    rls.advance(state, answers(x, y), np.array([True, False, True]), 1.0, 8.0)
    assert state.labels[0].tolist() == [300.0, 0.0, 300.0]
    assert not state.weights[1].any()
    whole = RlsState.empty()
    rls.advance(whole, answers(x, y), ALL, 1.0, 8.0)
    assert whole.labels[0, 1] == (~np.isnan(y[:, 1])).sum()
    assert whole.weights[[0, 2]].tobytes() == state.weights[[0, 2]].tobytes()


def test_any_cut_of_the_tape_gives_the_same_state_and_a_copy_is_its_own():
    tape = tape_of(walk(2, 600))
    whole, parts = RlsState.empty(), RlsState.empty()
    expected = rls.advance(whole, tape, ALL, 0.9999, 8.0)
    got = np.concatenate([rls.advance(parts, piece, ALL, 0.9999, 8.0) for piece in pieces(tape, [1, 33, 7])])
    assert got.tobytes() == expected.tobytes()
    for a, b in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert a.tobytes() == b.tobytes()
    copy = whole.copy()
    rls.advance(copy, tape, ALL, 0.9999, 8.0)
    assert whole.weights.tobytes() == parts.weights.tobytes() != copy.weights.tobytes()
