"""Every kind of bad input has one effect, told here: which letter it gets, and that nothing else notices."""

import json

import pytest

from domain import features
from domain.bars import CONFIRM, MAX_FILL
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS, TRADES
from tests.domain.samples import SECOND, START
from tests.streaming.mill import NAMES, Mill, trades_of

pytestmark = pytest.mark.slow

N = 420
CUT = 400
FAR = 4 * 10**18 // SECOND * SECOND
"""In the year 2096, on the grid."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What comes out when nothing is wrong."""
    return told(tmp_path_factory.mktemp("calm"), [])[0]


def told(home, bad, *, restart=False):
    """Put bad records (topic, value) between two honest parts; return digests, letters by record, and the mill."""
    mill, where = Mill(home), {}
    honest = [trades_of(p, N) for p in range(len(NAMES))]
    for p, values in enumerate(honest):
        mill.memory.append((TRADES, p), values[:CUT])
    mill.turn()
    for i, (topic, value) in enumerate(bad):
        where[topic, 0, mill.memory.end((topic, 0))] = i
        mill.memory.append((topic, 0), [value])
    mill.turn()
    if restart:
        mill.close(clean=False)
        mill.open()
    for p, values in enumerate(honest):
        mill.memory.append((TRADES, p), values[CUT:])
    mill.turn()
    mill.close()
    letters = [(where[f.record], f.letter.service, f.letter.reason) for f in mill.letters()]
    return mill.digests(), sorted(letters), mill


def newest(n=CUT):
    return json.loads(trades_of(0, N)[n - 1])


def trade(**changes):
    return json.dumps(newest() | changes).encode()


def deep(value):
    return b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"," + value[1:]


FRESH = {"trade_id": 10**9}
BAD = {
    "a price that is negative": (trade(price=-1.0, **FRESH), "price"),
    "a price of nought": (trade(price=0.0, **FRESH), "price"),
    "a size of nought": (trade(size=0.0, **FRESH), "price"),
    "NaN": (trade(**FRESH).replace(b'"size": ', b'"size": NaN, "was": '), "schema"),
    "inf": (trade(**FRESH).replace(b'"size": ', b'"size": 1e999, "was": '), "schema"),
    "a clock far ahead": (trade(ts_event=FAR, **FRESH), "ahead"),
    "a clock far behind": (trade(ts_event=START, **FRESH), "late"),
    "a time before the epoch": (trade(ts_event=-5, **FRESH), "schema"),
    "a trade that comes twice": (trades_of(0, N)[CUT - 1], "duplicate"),
    "a trade that comes again at another price": (trade(price=1e6), "duplicate"),
    "a late trade beyond lateness": (trade(ts_event=newest()["ts_event"] - 60 * SECOND, **FRESH), "late"),
    "a symbol nobody configured": (trade(instrument="a:Z", **FRESH), "instrument"),
    "a symbol in another's partition": (trade(instrument=NAMES[1], **FRESH), "instrument"),
    "JSON cut short": (trade()[:-10], "schema"),
    "a missing key": (b'{"instrument":"a:B"}', "schema"),
    "null": (trade(price=None), "schema"),
    "a text for a number": (trade(price="12"), "schema"),
    "a fraction for a whole number": (trade(trade_id=1.5), "schema"),
    "a list": (b"[1,2]", "schema"),
    "a name that no table holds": (trade(instrument="a:\u2603\u0000", **FRESH), "instrument"),
    "bytes that are no text": (b"\xff\xfe\x00", "schema"),
    "a number that no machine holds": (trade(trade_id=10**30), "schema"),
    "a side that is none": (trade(side=200, **FRESH), "schema"),
    "a time whose horizon would overflow": (trade(ts_event=2**63 - 1, **FRESH), "schema"),
    "brackets nested a hundred thousand deep": (deep(trade(**FRESH)), "schema"),
    "an empty value (a tombstone)": (b"", "schema"),
    "keys that nobody knows are left aside": (trade(extra={"a": [1]}), "duplicate"),
    "two records in one": (trade() + trade(), "schema"),
}


def test_every_bad_trade_gets_its_letter_and_changes_nothing(tmp_path, calm):
    digests, letters, _ = told(tmp_path, [(TRADES, value) for value, _ in BAD.values()])
    assert dict(zip(BAD, [(service, reason) for _, service, reason in letters], strict=True)) == {
        what: ("featurizer", reason) for what, (_, reason) in BAD.items()
    }
    assert digests == calm


def test_a_price_spike_is_taken_as_a_price_and_the_model_stays_of_this_world(tmp_path):
    """Nobody can tell a crash from a misprint: the bar shows it, the guards bound what it teaches."""
    digests, letters, mill = told(tmp_path, [(TRADES, trade(price=newest()["price"] * 1e6, **FRESH))])
    assert letters == []
    lines, rows, said = digests
    assert len(lines) == len(NAMES)
    assert len(rows["bars", NAMES[0]][0]) > 8 * 240
    for prediction in said:
        assert abs(prediction["price_change"]) <= 1e4
        assert -2.4 < prediction["volatility"] < 9.3
    assert all(station.line.n_learned > 0 for station in mill.trainer._stations.values())


def test_trades_out_of_order_within_lateness_count_as_if_they_had_come_in_order(tmp_path, calm):
    mill = Mill(tmp_path)
    for p in range(len(NAMES)):
        values = trades_of(p, N)
        # Only neighbours of one bar change places: the market sends them up to two seconds apart anyway.
        values[100], values[101] = values[101], values[100]
        mill.memory.append((TRADES, p), values)
    mill.turn()
    mill.close()
    assert mill.letters() == []
    bars = {key: columns for key, columns in mill.digests()[1].items() if key[0] == "bars"}
    assert {key: columns[0] for key, columns in bars.items()} == {
        key: columns[0] for key, columns in calm[1].items() if key[0] == "bars"
    }


def stranger(topic, ts):
    """A record of a topic that is well formed in all but its place."""
    names = {"instrument": NAMES[0], "ts_event": ts}
    if topic == BARS:
        return json.dumps(names | dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)).encode()
    if topic == PREDICTIONS:
        more = {"prediction_id": f"{NAMES[0]}/{ts}/5", "horizon_s": 5, "model_version": 1, "n_learned": 1}
        said = {"price_change": 0.0, "direction": 0.5, "volatility": 0.0, "model_watermark": 1, "predicted_at": 1}
        return json.dumps(names | more | said).encode()
    vector = names | dict.fromkeys(features.FEATURES, 1.0)
    if topic == FEATURES:
        return json.dumps(vector).encode()
    targets = {"price_change": 1.0, "direction": 1.0, "volatility": 1.0}
    return json.dumps(vector | {"ts_available": ts + 5 * SECOND, "horizon_s": 5} | targets).encode()


READERS = {
    BARS: {"lander"},
    FEATURES: {"trainer", "predictor", "lander"},
    FEATURES_WITH_TARGET: {"trainer", "lander"},
    PREDICTIONS: {"lander"},
}


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_strangers_from_the_far_future_stop_no_reader_and_leave_no_trace(tmp_path, calm, restart):
    bad = [(topic, stranger(topic, FAR + off)) for topic in READERS for off in (0, 1)]
    digests, letters, _ = told(tmp_path, bad, restart=restart)
    expected = [
        (2 * i + off, reader, reason)
        for i, readers in enumerate(READERS.values())
        for off, reason in enumerate(("ahead", "grid"))
        for reader in readers
    ]
    assert letters == sorted(expected)
    assert digests == calm


def test_a_market_that_resumes_after_a_gap_too_long_to_fill_is_learned_again(tmp_path):
    mill = Mill(tmp_path)
    values = trades_of(0, 900)
    gap = (MAX_FILL + 1_000) * SECOND
    later = [json.loads(value) for value in values[450:]]
    later = [json.dumps(row | {"ts_event": row["ts_event"] + gap}).encode() for row in later]
    for part in (values[:450], later[:5], later[5:]):
        mill.memory.append((TRADES, 0), part)
        mill.turn()
        mill.close(clean=True)
        mill.open()
    mill.close()
    refused = [f.letter.reason for f in mill.letters()]
    assert set(refused) <= {"ahead", "late"}
    assert CONFIRM - 1 <= len(refused) <= 2 * CONFIRM
    station = mill.trainer._stations[0]
    assert station.line.watermark > START + gap
    said = [p["ts_event"] for p in mill.digests()[2] if p["instrument"] == NAMES[0]]
    assert max(said) > START + gap
    assert len(said) == len(mill.digests()[1]["features", NAMES[0]][0]) // 8
