"""Committed offsets on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.devbroker.offsets import COMPACT_BYTES, Committed, CommittedOffsets


def opened(path: Path) -> CommittedOffsets:
    return CommittedOffsets(path / "offsets.log", "never")


def test_the_newest_commit_counts_even_after_a_restart(tmp_path: Path) -> None:
    offsets = opened(tmp_path)
    offsets.commit("g", {("t", 0): Committed(5, 0, "first"), ("t", 1): Committed(7, -1, "")})
    offsets.commit("g", {("t", 0): Committed(6, 0, "später")})
    offsets.commit("h", {("t", 0): Committed(1, 0, "")})
    for known in (offsets, opened(tmp_path)):
        assert known.of("g") == {("t", 0): (6, 0, "später"), ("t", 1): (7, -1, "")}
        assert known.of("h") == {("t", 0): (1, 0, "")}
        assert known.of("nobody") == {}


@pytest.mark.parametrize("torn", [b"\0", b"\0\0\0\5garbage", b"\0\0\0\2\0\0\0\0[]"])
def test_a_torn_tail_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    offsets = opened(tmp_path)
    offsets.commit("g", {("t", 0): Committed(5, 0, "")})
    path = tmp_path / "offsets.log"
    with path.open("ab") as tail:
        tail.write(torn)
    again = opened(tmp_path)
    again.commit("g", {("t", 0): Committed(6, 0, "")})
    assert opened(tmp_path).of("g") == {("t", 0): (6, 0, "")}


def test_half_a_commit_is_none(tmp_path: Path) -> None:
    offsets = opened(tmp_path)
    offsets.commit("g", {("t", 0): Committed(5, 0, ""), ("t", 1): Committed(5, 0, "")})
    offsets.commit("g", {("t", 0): Committed(6, 0, ""), ("t", 1): Committed(6, 0, "")})
    path = tmp_path / "offsets.log"
    path.write_bytes(path.read_bytes()[:-1])
    assert opened(tmp_path).of("g") == {("t", 0): (5, 0, ""), ("t", 1): (5, 0, "")}


def test_what_is_forgotten_stays_forgotten(tmp_path: Path) -> None:
    offsets = opened(tmp_path)
    for group in ("g", "h"):
        offsets.commit(group, {("t", 0): Committed(5, 0, ""), ("u", 0): Committed(6, 0, "")})
    offsets.forget("g")
    offsets.forget_topics_but(["u"])
    for known in (offsets, opened(tmp_path)):
        assert known.groups == ["h"]
        assert known.of("h") == {("u", 0): (6, 0, "")}


def test_the_log_stays_small_however_often_one_commits(tmp_path: Path) -> None:
    offsets = opened(tmp_path)
    words = "x" * 4000
    for number in range(600):
        offsets.commit("g", {("t", 0): Committed(number, 0, words)})
    assert (tmp_path / "offsets.log").stat().st_size <= COMPACT_BYTES
    assert opened(tmp_path).of("g")["t", 0].offset == 599
