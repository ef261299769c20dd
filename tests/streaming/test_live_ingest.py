"""A live exchange into topic trades: whole, once and in order, whatever it sends; the unreadable becomes a letter."""

from __future__ import annotations

import time

import pytest

from assets.training import train_initial
from domain.config import Places, Project
from domain.topics import TRADES
from markets.catalog import simulated_of, source_of
from streaming import codec
from streaming.app import Context
from streaming.clock import SystemClock
from streaming.dead_letters import read_letters
from streaming.ingest import Ingest
from streaming.memory import Memory
from tests.domain.samples import RLS
from tests.markets.box import box_of
from warehouse.control import Control
from warehouse.lake import Lake

pytestmark = pytest.mark.process

BTC = "simulated:BTC-USDT"


@pytest.fixture
def project():
    return Project(instruments=("BTC-USDT",), market={"source": "box", "speed": 600.0}, fleet=(RLS,))


@pytest.fixture
def ingest(project, tmp_path):
    """Start an ingest of a box on one log; each begins where the one before it stopped."""
    memory, started = Memory(), []
    with box_of(simulated_of(project), 600.0) as box:
        places = Places(home=tmp_path, exchange_port=int(box.url.rpartition(":")[2]))
        with Control.open(places.control) as control:
            context = Context(project, places, control, memory, SystemClock(), instance="test")
            with Lake.open(places) as lake:
                train_initial(lake, control, context.registry, project, BTC, 0, project.market.opens_ns)

            def start():
                stage = Ingest(context, source_of(project, places))
                stage.open()
                started.append(stage)
                return stage

            yield start, memory, box
            started[-1].close(clean=True)


def work_until(stage, holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        stage.work(0.1)
        stage.save()


def ids(memory):
    return [codec.trade(value).trade_id for value in memory.logs.get((TRADES, 0), [])]


def letters(memory):
    return [filed.letter for filed in read_letters(memory, SystemClock(), lambda _: True)]


def test_a_frame_in_another_format_is_kept_whole_and_its_trades_come_all_the_same(project, ingest):
    start, memory, box = ingest
    stage = start()
    work_until(stage, lambda: len(ids(memory)) > 100)
    box.fault("schema")
    work_until(stage, lambda: letters(memory))
    count = len(ids(memory))
    work_until(stage, lambda: len(ids(memory)) > count + 100)
    letter, *_ = letters(memory)
    assert (letter.service, letter.reason, letter.topic, letter.partition) == ("ingest", "schema", TRADES, -1)
    assert "stream" in letter.payload
    assert stage.pulse().detail["feed"]["bad_frames"] >= 1
    market, got = simulated_of(project), ids(memory)
    [*tables] = market.history(BTC, project.market.opens_ns, project.market.opens_ns + 86_400 * 10**9)
    assert got == tables[0].trade_id[: len(got)].tolist(), "from the opening on, each once and in order"


def test_a_feed_that_stays_down_is_told_and_counts_as_not_ready(ingest, monkeypatch):
    monkeypatch.setattr("streaming.ingest.TROUBLED_S", 0.5)
    start, memory, box = ingest
    stage = start()
    work_until(stage, lambda: len(ids(memory)) > 10)
    assert stage.pulse().ready
    box.stop()
    work_until(stage, lambda: not stage.pulse().ready)
    assert stage.pulse().detail["feed"]["problem"]


def test_started_again_it_goes_on_after_its_newest_trade(ingest):
    start, memory, _ = ingest
    first = start()
    work_until(first, lambda: len(ids(memory)) > 100)
    first.close(clean=False)
    time.sleep(0.5)  # five minutes of the market
    count = len(ids(memory))
    work_until(start(), lambda: len(ids(memory)) > count + 300)
    got = ids(memory)
    assert got == list(range(got[0], got[0] + len(got)))
