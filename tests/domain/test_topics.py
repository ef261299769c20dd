import pytest

from domain.topics import ALL, BY_INSTRUMENT, DEAD_LETTERS, SETTINGS, partition_of


def test_an_instrument_keeps_its_partition_while_others_are_appended():
    names = ["a:A", "a:B", "a:C"]
    assert [partition_of(name, names) for name in names] == [0, 1, 2]
    assert [partition_of(name, (*names, "a:D")) for name in names] == [0, 1, 2]


def test_an_instrument_that_is_not_configured_has_no_partition():
    with pytest.raises(ValueError, match="a:Z"):
        partition_of("a:Z", ["a:A"])


def test_the_topics_are_the_contract_s_and_each_is_there_once():
    assert set(ALL) == {
        "trades", "bars", "features", "features_with_target", "predictions", "model_versions", "dead_letters",
    }  # fmt: skip
    assert len(set(ALL)) == len(ALL)
    assert DEAD_LETTERS not in BY_INSTRUMENT
    assert all(isinstance(value, str) for value in SETTINGS.values())
