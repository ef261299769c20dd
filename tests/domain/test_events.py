import msgspec
import pytest

from domain.bars import BAR_COLUMNS
from domain.errors import ArtifactRefused, BadRecord, BadState, LeaseLost, TidemillError, Unavailable, UsageError
from domain.events import Announcement, Bar, DeadLetter, Prediction, Trade
from tests.domain.samples import SECOND, START

TRADE = Trade("a:B", START, 7, 100.5, 0.25, -1)
PREDICTION = Prediction("a:B/1/300", "a:B", START, 300, 1.0, 0.5, 2.0, 3, 4, START - 60 * SECOND, START)


@pytest.mark.parametrize(
    "event",
    [
        TRADE,
        Bar("a:B", START, 1.0, 2.0, 0.5, 1.5, 10.0),
        PREDICTION,
        Announcement("a:B", 1, START, 10),
        DeadLetter("featurizer", "late", "too late", "trades", 0, 5, "{}"),
    ],
)
def test_an_event_is_a_flat_record_and_comes_back_as_it_was(event):
    encoded = msgspec.json.encode(event)
    assert msgspec.json.decode(encoded, type=type(event)) == event
    assert not any(isinstance(value, dict | list) for value in msgspec.json.decode(encoded).values())


def test_a_value_of_an_event_cannot_be_changed():
    with pytest.raises(AttributeError):
        TRADE.price = 1.0


def test_a_bar_s_fields_are_the_bar_columns_in_order():
    assert Bar.__struct_fields__ == ("instrument", "ts_event", *BAR_COLUMNS)


def test_a_model_s_age_is_the_event_time_since_its_newest_label():
    assert PREDICTION.model_age_s == 60.0


def test_every_error_has_its_place_in_the_tree():
    assert {UsageError, BadState} <= set(TidemillError.__subclasses__())
    assert set(BadState.__subclasses__()) == {ArtifactRefused, LeaseLost, Unavailable}
    bad = BadRecord("late", "the bar is closed")
    assert isinstance(bad, TidemillError)
    assert not isinstance(bad, BadState)
    assert (bad.reason, str(bad)) == ("late", "late: the bar is closed")
