"""Pictures stay small however long the history is."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from assets import plots

RNG = np.random.default_rng(3)
YEAR = np.arange(8_760, dtype=np.int64) * 3_600 * 10**9
HOURS = {name: (YEAR, 100.0 + RNG.normal(size=(8_760, 16)).cumsum(axis=0) / 100) for name in ("v:AAA-USD", "v:BBB-USD")}
TARGETS = {name: np.where(RNG.random((2_000, 3)) < 0.1, np.nan, RNG.normal(size=(2_000, 3))) for name in HOURS}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.lines(HOURS, [(3, "close, start = 100"), (9, "missing share")], "SIMULATED market"),
        lambda: plots.heat(HOURS, [f"f{k}" for k in range(16)], "SIMULATED market"),
        lambda: plots.histograms(TARGETS, ("price_change", "direction", "volatility"), "SIMULATED market"),
        lambda: plots.skills({"volatility": {"mean": 0.3, "frozen": -0.1}, "direction": {"mean": 0.0}}, "note"),
    ],
    ids=["lines", "heat", "histograms", "skills"],
)
def test_a_picture_is_a_png_of_at_most_100_kb(draw):
    text = draw()
    assert len(text) <= plots.LIMIT
    data = base64.b64decode(text.removeprefix("![](data:image/png;base64,").removesuffix(")"))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 160


def test_one_row_is_enough_for_a_picture():
    one = {"v:AAA-USD": (YEAR[:1], np.ones((1, 16)))}
    assert plots.heat(one, [f"f{k}" for k in range(16)], "n").startswith("![](data:image/png")
    assert plots.lines(one, [(3, "close, start = 100")], "n").startswith("![](data:image/png")
