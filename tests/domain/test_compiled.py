"""What an installation compiles is all that the stream calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USED = """
import numpy as np
from tests.domain.samples import MINUTE, RLS, cut, tape_of, walk
from domain.bars import BarState, add_candles, add_trades
from domain.fleet import Line
from tests.domain.samples import market

state = BarState.empty(MINUTE, 2 * MINUTE)
add_trades(state, market(1, 2_000), MINUTE, 2 * MINUTE)
line, tape = Line("a:B", (RLS,)), tape_of(walk(5, 400))
line.advance(cut(tape, 0, 300), 300)
"""


@pytest.mark.process
def test_what_was_compiled_once_is_compiled_by_no_process_again(tmp_path):
    def run(*args):
        env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *args], env=env, cwd=ROOT, check=True)
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb[ic]")}

    built = run("-m", "domain.compiled")
    assert built
    assert run("-c", USED) == built
