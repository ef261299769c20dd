"""Binance's and Kraken's connectors against an exchange in a box with faults: every trade of the market, once each."""

from __future__ import annotations

import time

import numpy as np
import pytest

from domain.bars import BAR_COLUMNS
from domain.errors import Unavailable
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from markets.binance import Binance
from markets.box.faults import KINDS, Faults
from markets.kraken import Kraken
from markets.live import Live
from markets.recorded import Recorded
from markets.recordings import files
from markets.rest import RestClient
from markets.simulated import Simulated
from markets.tempo import Tempo
from tests.markets.box import BTC, ETH, OPENS, box_of
from tests.markets.samples import drained

pytestmark = pytest.mark.process

SPEED = 300.0
TEMPO = Tempo(grace_s=0.02, settle_s=0.1, audit_s=1.0, audit_each_s=0.0, retry_s=0.05, retry_most_s=0.5, backoff_s=0.1,
              backoff_most_s=0.5, overlap_s=0.2)  # fmt: skip


@pytest.fixture(scope="module")
def market():
    return Simulated(7, [BTC, ETH], OPENS, 1)


def source_of(venue, box, **options):
    venue.silence_s, venue.lifetime_s = 0.6, 1.5
    return Live(venue, lambda: RestClient(box.address.rest, venue.weight_a_minute), (BTC, ETH), OPENS, NANOS_PER_DAY,
                address=box.address, simulated=True, tempo=TEMPO, **options)  # fmt: skip


def trades_of(market, name, last_id):
    """What a market holds of an instrument, from the opening up to an id, as columns."""
    tables = market.history(name, OPENS, OPENS + NANOS_PER_DAY)
    columns = [
        np.concatenate(some)
        for some in zip(*((t.trade_id, t.ts, t.price, t.size, t.side) for t in tables), strict=True)
    ]
    return [column[columns[0] <= last_id].tolist() for column in columns]


def columns_of(trades):
    rows = [(t.trade_id, t.ts_event, t.price, t.size, t.side) for t in trades]
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("kind", [Binance, Kraken])
def test_a_market_with_every_fault_is_handed_out_whole(market, tmp_path, kind):
    faults = Faults([name for name in KINDS if name not in {"418", "checksum"}], every_s=0.15, seed=5)
    with box_of(market, speed=SPEED, opens=OPENS, faults=faults, ping_s=0.1) as box:
        source = source_of(kind("simulated"), box, record=tmp_path)
        feed = source.open({}, 1.0)
        got, deadline = [], time.monotonic() + 8
        while time.monotonic() < deadline:
            got += feed.poll(1_000, 0.1)
        health = feed.health
        feed.close()
    for name in (BTC, ETH):
        mine = [trade for trade in got if trade.instrument == name]
        assert len(mine) > 200  # Kraken allows one request a second
        assert columns_of(mine) == trades_of(market, name, mine[-1].trade_id)
    assert health["repaired"] > 0
    assert health["reconnects"] > 0
    [session] = tmp_path.iterdir()
    again = drained(Recorded(files(session, "trades")).open({}, 0))
    for name in (BTC, ETH):
        assert [t for t in again if t.instrument == name] == [t for t in got if t.instrument == name]


def test_a_candle_that_has_just_ended_is_waited_for(market):
    with box_of(market, speed=1.0, opens=OPENS) as box:
        source = source_of(Binance("simulated"), box)
        tables = list(source.history(BTC, OPENS - 5 * NANOS_PER_MINUTE, OPENS))
    ts = np.concatenate([table.ts for table in tables])
    assert ts.tolist() == list(range(OPENS - 4 * NANOS_PER_MINUTE, OPENS + 1, NANOS_PER_MINUTE))
    *_, last = market.history(BTC, OPENS - NANOS_PER_MINUTE, OPENS)
    assert tables[-1].values[-1, BAR_COLUMNS.index("close")] == last.price[-1]


def test_candles_of_tomorrow_are_refused_in_one_line(market):
    with box_of(market, speed=1.0, opens=OPENS) as box:
        source = source_of(Binance("simulated"), box)
        with pytest.raises(Unavailable, match="s ahead of the exchange's clock; choose earlier days, or wait"):
            list(source.history(BTC, OPENS, OPENS + NANOS_PER_DAY))


def test_candles_that_an_exchange_tells_no_longer_are_refused_not_taken_for_minutes_without_trades(market):
    with box_of(market, speed=1.0, opens=OPENS) as box:
        source = source_of(Kraken("simulated"), box)
        told = OPENS - 719 * NANOS_PER_MINUTE
        assert (
            sum(len(table) for table in source.history(BTC, told + NANOS_PER_MINUTE, OPENS - NANOS_PER_MINUTE)) == 717
        )
        with pytest.raises(Unavailable, match=r"the exchange tells none before .*; choose later days"):
            list(source.history(BTC, told - NANOS_PER_MINUTE, OPENS - NANOS_PER_MINUTE))
