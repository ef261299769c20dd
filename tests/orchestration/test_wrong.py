"""What a person gets wrong is one clear line with the setting, the cause and what to do, before anything is made."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pytest

from domain.config import Places
from markets.drawn import draw_candles
from orchestration.settings import INTERNAL
from tests.orchestration.wrong import environment, files, flags, homes, settings
from tests.orchestration.wrong.trial import Outcome, Trial, toml_of

ROOT = Path(__file__).parents[2]

READING = ("up --wait 0", "status", "status --json", "run ingest", "run trainer --rehearse", "replay --data DATA")
"""What reads settings: each wrong one is tried in the next of these."""

TRYING = ("up --wait 0", "run trainer", "run challenger --rehearse")
BUILDING = (*TRYING, "replay --data DATA")


class Case(NamedTuple):
    """What is wrong, where it is tried, and words that the one line must hold."""

    kind: str
    text: str
    words: tuple[str, ...]
    call: str
    content: object = None
    code: int = 2

    def __str__(self) -> str:
        return f"{self.kind}: {self.text[:70]!r} in {self.call[:40]}"


def _tried(calls, tables):
    rows = ((kind, text, words) for kind, cases in tables.items() for text, *words in cases)
    return [Case(kind, text, tuple(words), call) for (kind, text, words), call in zip(rows, cycle(calls), strict=False)]


def _written(calls, kind, table):
    return [Case(kind, name, tuple(words), call, content)
            for (name, content, *words), call in zip(table, cycle(calls), strict=False)]  # fmt: skip


SETTINGS = _tried(READING, settings.STATIC)
FLEETS = _tried(BUILDING, {"estimators": settings.BUILT})
VARIABLES = _tried(READING, environment.STATIC)
TRIED_VARIABLES = _tried(TRYING, {"tried variables": environment.TRIED})
TOML = _written(READING, "tidemill.toml", files.TOML)
COMMANDS = [Case(kind, call, tuple(words), call) for kind, calls in flags.ALL.items() for call, *words in calls]
FILES = _written(["replay"], "data files", files.DATA)
NAMES = [Case("names of data files", name, tuple(words), "replay") for name, *words in files.NAMES]
HOMES = [Case("homes", name, tuple(words), call, damage, code) for name, damage, call, code, *words in homes.HOMES]

CONFIGURATIONS = [*SETTINGS, *FLEETS, *VARIABLES, *TRIED_VARIABLES, *TOML]
ALL = [*CONFIGURATIONS, *COMMANDS, *FILES, *NAMES, *HOMES]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "candles.parquet"
    draw_candles(path, ("AAA-USD",), 300, seed=5)
    return str(path)


@pytest.fixture
def trial(tmp_path, capfd) -> Trial:
    return Trial(tmp_path, capfd)


def arranged(case: Case, trial: Trial, data: str) -> tuple[str | list[str], dict[str, str]]:
    """Put what is wrong in its place; return the arguments of the call, and its variables."""
    call = case.call.replace("DATA", data)
    if case in SETTINGS or case in FLEETS:
        trial.config.write_text(toml_of(case.text))
    elif case in VARIABLES or case in TRIED_VARIABLES:
        return call, dict(part.split("=", 1) for part in re.split(r";(?=TIDEMILL_)", case.text))
    elif case in TOML:
        files.make(trial.at / case.text, case.content)
        return call, {"TIDEMILL_CONFIG": str(trial.at / case.text)}
    elif case in FILES or case in NAMES:
        if case.content is not None:
            files.make(trial.at / case.text, case.content)
        return ["replay", "--data", case.text], {}
    elif case in HOMES:
        case.content(trial.home)
    return call, {}


def demand_refused(outcome: Outcome, case: Case) -> None:
    """Assert that a call was refused in one line that says all this, and that nothing was made."""
    assert outcome.trouble == ""
    assert len(outcome.told) == 1, outcome.told
    [line] = outcome.told
    assert line.startswith("tidemill")
    for word in case.words:
        assert word in line
    assert re.search(r"; | \(try '", line), f"no remedy in: {line}"
    assert "s3cret" not in line
    assert len(line) < 1_200
    assert outcome.code == case.code
    assert outcome.shown == ""
    assert outcome.made == []


@pytest.mark.parametrize("case", [case for case in ALL if case.call != "doctor"], ids=str)
def test_it_is_one_line_with_what_to_do_and_nothing_is_made(case, trial, data):
    call, variables = arranged(case, trial, data)
    outcome = trial(call, **variables)
    demand_refused(outcome, case)
    if case in SETTINGS or case in FLEETS:
        assert str(trial.config) in outcome.told[0]


LISTED = [*SETTINGS[::10], *FLEETS[::10], *VARIABLES[::10], *TRIED_VARIABLES[::5], *HOMES[:6]]


@pytest.mark.parametrize("case", LISTED, ids=str)
def test_the_doctor_lists_it(case, trial, data):
    _, variables = arranged(case, trial, data)
    outcome = trial("doctor", **variables)
    assert (outcome.trouble, outcome.code, outcome.told, outcome.made) == ("", 1, [], [])
    assert "no " in outcome.shown
    assert case.words[0].split()[0] in outcome.shown


SAMPLE = [*SETTINGS[5::64], *VARIABLES[7::60], *TRIED_VARIABLES[3::20], *COMMANDS[2::60], FILES[9], *HOMES[3::14]]


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_real_processes_say_the_same(case, trial, data):
    call, variables = arranged(case, trial, data)
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", *(call.split() if isinstance(call, str) else call)],
        cwd=trial.at, env={**trial.environment(variables), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (case.code, "")
    [line] = done.stderr.splitlines()
    assert all(word in line for word in case.words)


def test_there_are_at_least_four_hundred_of_them(capsys):
    kinds = Counter(case.kind for case in ALL)
    with capsys.disabled():
        print("\n" + "".join(f"{n:5} {kind}\n" for kind, n in kinds.items()) + f"{len(ALL):5} in all")  # noqa: T201
    assert len(CONFIGURATIONS) >= 200
    assert len(ALL) >= 400
    assert len(set(map(repr, ALL))) == len(ALL)


def test_every_variable_that_the_house_reads_is_known():
    sources = [path for folder in ("domain", "markets", "warehouse", "assets", "streaming", "orchestration", "deploy")
               for path in (ROOT / folder).rglob("*.py")]  # fmt: skip
    named = {name for path in sources for name in re.findall(r"\bTIDEMILL_[A-Z_]*[A-Z]\b", path.read_text())}
    known = INTERNAL | {f"TIDEMILL_{field.upper()}" for field in Places.model_fields}
    assert named - known == set()
