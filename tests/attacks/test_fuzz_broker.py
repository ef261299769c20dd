"""What the fuzz of the dev broker has found to be telling, and a little of it again, in this process."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.fuzz_broker import Victim, mutated, unpacked

CORPUS = json.loads((Path(__file__).parent / "corpus" / "broker.json").read_text())
STALL_S = 5.0
"""Processor time; on a busy machine too, what is an error is far from what is usual."""


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    broker = Victim(STALL_S)
    yield broker
    broker.remove()


def test_every_input_of_the_corpus_is_answered_or_malformed(victim: Victim) -> None:
    for data in CORPUS.values():
        victim.run(unpacked(base64.b64decode(data)))
    assert victim.outcomes["bytes"] > victim.outcomes["MalformedFrame"] > 0


def test_what_differs_a_little_from_the_corpus_is_too(victim: Victim) -> None:
    rng, pool = random.Random(5), [unpacked(base64.b64decode(data)) for data in CORPUS.values()]
    for _ in range(400):
        victim.run(mutated(rng.choice(pool), rng))
