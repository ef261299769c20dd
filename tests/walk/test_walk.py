"""The walk of one trade through the real processes; what happens when some are killed is told in ``tests/chaos``."""

from orchestration.planned import plan
from orchestration.replay import Replay
from tests.walk.up import gone

WARM_UP = 240
HORIZON = 5


def test_every_bar_of_the_file_becomes_a_vector_an_example_and_one_step_of_learning(planned, candles):
    _, spans = candles
    report = Replay(planned).run(verify=True)
    bars = sum(spans.values())
    assert report.bars == bars
    assert report.vectors == bars - WARM_UP * 2
    assert report.examples == report.learned == bars - (WARM_UP + HORIZON) * 2
    assert report.predictions == report.streamed["features"]
    assert report.dead_letters == 0
    assert all(line["bit_identical"] for line in report.lines.values())
    assert all(line["versions"] > 5 for line in report.lines.values())
    assert gone(planned.places.home)


def test_real_trades_walk_through_the_real_processes(tmp_path, shelf):
    data = shelf("trades_binance_20240809.parquet")
    chosen = ["recorded:BTC-USDT", "recorded:ETH-USDT"]
    with plan([data], "", "1s", "30s", chosen, tmp_path / "home") as made:
        report = Replay(made).run(verify=True)
    assert report.bars == 648 + 648
    assert report.vectors == report.bars - WARM_UP * 2
    assert report.learned == report.examples == report.vectors - 30 * 2
    assert report.predictions == report.streamed["features"] > 600
    assert report.dead_letters == 0
    assert all(line["bit_identical"] for line in report.lines.values())
