import numpy as np

from domain.tape import merge, ready_until
from tests.domain.samples import MINUTE, cut, rows_of, same, walk

ASKED, ANSWERED = rows_of(walk(3, 300))


def test_an_answer_comes_before_the_question_of_the_same_time():
    tape = merge(ASKED, ANSWERED)
    when = tape.ts + np.where(tape.asks, 0, 5 * MINUTE)
    assert (np.diff(when) >= 0).all()
    ties = np.flatnonzero(np.diff(when) == 0)
    assert len(ties) == len(ANSWERED)
    assert not tape.asks[ties].any()
    assert tape.asks[ties + 1].all()


def test_every_row_is_on_the_tape_once_with_its_own_values():
    tape = merge(ASKED, ANSWERED)
    assert len(tape) == len(ASKED) + len(ANSWERED)
    assert tape.x[tape.asks].tobytes() == ASKED.values.tobytes()
    assert tape.x[~tape.asks].tobytes() == ANSWERED.values.tobytes()
    assert tape.y[~tape.asks].tobytes() == ANSWERED.targets.tobytes()
    assert np.isnan(tape.y[tape.asks]).all()


def test_a_tape_of_only_questions_or_only_answers_or_nothing_is_a_tape():
    assert merge(ASKED, cut(ANSWERED, 0, 0)).asks.all()
    assert not merge(cut(ASKED, 0, 0), ANSWERED).asks.any()
    assert len(merge(cut(ASKED, 0, 0), cut(ANSWERED, 0, 0))) == 0


def test_what_has_arrived_of_two_streams_is_complete_up_to_the_older_of_their_ends():
    assert ready_until(cut(ASKED, 0, 0), ANSWERED) is None
    assert ready_until(ASKED, cut(ANSWERED, 0, 0)) is None
    for q, a in ((10, 30), (30, 10), (60, 55)):
        asked, answered = cut(ASKED, 0, q), cut(ANSWERED, 0, a)
        until = ready_until(asked, answered)
        assert until == min(asked.ts[-1], answered.available[-1])
        whole = merge(cut(ASKED, until >= ASKED.ts), cut(ANSWERED, ANSWERED.available <= until))
        assert same(merge(cut(asked, asked.ts <= until), cut(answered, answered.available <= until)), whole)
