"""Space is given back from a real SQLite file, when it is much, and never at the cost of who uses the file."""

import sqlite3
from contextlib import closing

import pytest

from warehouse import vacuum as module
from warehouse.vacuum import vacuum


@pytest.fixture
def emptied(tmp_path, monkeypatch):
    """A file whose rows, some 2 MB, were deleted but for one in ten."""
    monkeypatch.setattr(module, "WORTH_BYTES", 1_000_000)
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, event TEXT)")
        connection.executemany("INSERT INTO events (event) VALUES (?)", [("x" * 2_000,)] * 1_000)
        connection.execute("DELETE FROM events WHERE id % 10")
        connection.commit()
    return path


def test_the_space_of_deleted_rows_is_given_back_and_the_others_stay(emptied):
    before = emptied.stat().st_size
    given = vacuum(emptied)
    assert given == before - emptied.stat().st_size > before / 2
    with closing(sqlite3.connect(emptied)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (100,)
    assert vacuum(emptied) == 0


def test_a_little_space_is_left_to_the_rows_to_come(emptied, monkeypatch):
    monkeypatch.setattr(module, "WORTH_BYTES", 10_000_000)
    assert vacuum(emptied) == 0


def test_a_file_in_use_is_left_as_it_is(emptied, monkeypatch):
    monkeypatch.setattr(module, "_WAIT_S", 0.05)
    with closing(sqlite3.connect(emptied, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert vacuum(emptied) == 0
