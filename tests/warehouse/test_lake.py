import shutil

import duckdb
import pytest
from pydantic import ValidationError

from domain.config import Places
from domain.errors import BadState, Unavailable
from warehouse import tables
from warehouse.connection import connect, patiently
from warehouse.lake import Lake

pytestmark = pytest.mark.slow


def test_four_processes_that_come_first_at_once_make_one_lake_and_one_control_database(processes, control):
    children = processes("open")
    assert [child["said"] for child in children] == [[{"tables": 1}]] * 4
    assert control.dead_letters() == {("test", "opened"): 4}


def test_every_table_has_the_columns_that_arrow_knows(lake):
    arrow = {"VARCHAR": "string", "BIGINT": "int64", "INTEGER": "int32", "DOUBLE": "double", "DATE": "date32[day]"}
    for table, schema in tables.SCHEMAS.items():
        described = lake.query(f"DESCRIBE {table}").to_pylist()
        found = [(c["column_name"], arrow[c["column_type"]], c["null"] == "YES") for c in described]
        assert found == [(f.name, str(f.type), f.nullable) for f in schema]


def test_a_write_that_raises_leaves_nothing(lake):
    def work(connection):
        connection.execute("INSERT INTO consumer_offsets VALUES ('t', 0, 1, 1, '', now())")
        raise KeyError

    with pytest.raises(KeyError):
        lake.write(work)
    assert lake.query("FROM consumer_offsets").num_rows == 0
    assert lake.write(lambda _connection: 7) == 7


def test_a_write_that_lost_a_race_is_repeated_from_what_the_winner_left(lake):
    """The rival commits without the lease, as a process of another release might."""
    rival = connect(lake.root / "catalog.sqlite", lake.data, "write")
    seen = []

    def work(connection):
        seen.append(connection.execute("SELECT count(*) FROM consumer_offsets").fetchone()[0])
        connection.execute("INSERT INTO consumer_offsets VALUES ('mine', 0, 1, 1, '', now())")
        if len(seen) == 1:
            rival.execute("INSERT INTO consumer_offsets VALUES ('rival', 0, 1, 1, '', now())")

    lake.write(work)
    rival.close()
    assert seen == [0, 1]
    assert sorted(lake.query("SELECT topic FROM consumer_offsets")["topic"].to_pylist()) == ["mine", "rival"]


def test_a_commit_carries_its_message(lake):
    lake.write(lambda c: c.execute("INSERT INTO consumer_offsets VALUES ('t', 0, 1, 1, '', now())"), message="run-7")
    last = lake.query("SELECT commit_message FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT 1")
    assert last["commit_message"].to_pylist() == ["run-7"]


def test_a_reader_sees_each_commit_at_once_and_cannot_write(lake, places):
    with Lake.open(places, read_only=True) as reader:
        before = reader.snapshot()
        lake.write(lambda c: c.execute("INSERT INTO consumer_offsets VALUES ('t', 0, 1, 1, '', now())"))
        assert reader.snapshot() == before + 1
        assert reader.query("FROM consumer_offsets").num_rows == 1
        with pytest.raises(BadState, match="read-only"):
            reader.write(lambda c: c.execute("DELETE FROM consumer_offsets"))


def test_a_reader_does_not_make_a_lake(places):
    with pytest.raises(Unavailable, match="there is no lake"):
        Lake.open(places, read_only=True)
    assert not places.lake.exists()


def test_a_half_made_lake_is_made_afresh(places):
    places.lake.mkdir(parents=True)
    (places.lake / "founding.sqlite").write_bytes(b"half")
    with Lake.open(places) as lake:
        assert lake.query("FROM bars").num_rows == 0
    assert not list(places.lake.glob("founding*"))


def test_a_lake_that_was_moved_reads_and_writes_its_own_files(lake, places, tmp_path):
    insert = "INSERT INTO consumer_offsets VALUES ('t', 0, 1, 1, '', now())"
    lake.write(lambda c: c.execute(insert))
    lake.close()
    shutil.move(places.home, tmp_path / "elsewhere")
    with Lake.open(Places(home=tmp_path / "elsewhere")) as moved:
        moved.write(lambda c: c.execute(insert))
        assert moved.query("FROM consumer_offsets").num_rows == 2
    assert not places.home.exists()


def test_a_connection_gone_stale_is_renewed_once(lake, places):
    lake.write(lambda c: c.execute("INSERT INTO consumer_offsets VALUES ('t', 0, 1, 1, '', now())"))
    file = next((lake.data / "main" / "consumer_offsets").glob("*.parquet"))
    hidden = file.rename(lake.root / "hidden")
    with Lake.open(places, read_only=True) as reader:
        first = reader._connection
        with pytest.raises(Unavailable, match="start this process again"):
            reader.query("SELECT sum(next_offset) FROM consumer_offsets")
        assert reader._connection is not first
        hidden.rename(file)
        assert reader.query("FROM consumer_offsets").num_rows == 1


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("IO Error: could not write: No space left on device", BadState, "full"),
        ("Failed to commit: database or disk is full", BadState, "full"),
        ("database is locked", Unavailable, "busy"),
        ("Invalid Input Error: No snapshot found at version 3", BadState, "expired"),
        ("Catalog Error: no such table", BadState, "refused"),
    ],
)
def test_what_duckdb_says_becomes_an_error_that_says_what_to_do(said, kind, told, tmp_path):
    def attempt():
        raise duckdb.Error(said)

    with pytest.raises(kind, match=told):
        patiently(attempt, tmp_path, 0.0)


def test_another_catalog_is_refused_with_the_variable_that_names_it(tmp_path):
    with pytest.raises(ValidationError, match=r"lake_catalog\n.*only the SQLite catalog below TIDEMILL_HOME"):
        Places(home=tmp_path, lake_catalog="postgres:dbname=lake")
