from domain.topics import ALL, BY_INSTRUMENT, DEAD_LETTERS, SETTINGS


def test_the_topics_are_the_contract_s_and_each_is_there_once():
    assert set(ALL) == {
        "trades", "bars", "features", "features_with_target", "predictions", "model_versions", "dead_letters",
    }  # fmt: skip
    assert len(set(ALL)) == len(ALL)
    assert DEAD_LETTERS not in BY_INSTRUMENT
    assert all(isinstance(value, str) for value in SETTINGS.values())
