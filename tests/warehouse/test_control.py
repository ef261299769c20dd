import math
import sqlite3

import numpy as np
import pytest
import sqlalchemy as sa

from domain.errors import BadState, Unavailable, UsageError
from warehouse.control import Control
from warehouse.control_tables import metadata, schema_version
from warehouse.engines import to_json


def test_dead_letters_are_counted_by_service_and_reason(control):
    control.count_dead_letter("trainer", "schema", 3)
    control.count_dead_letter("trainer", "schema")
    control.count_dead_letter("ingest", "late")
    assert control.dead_letters() == {("trainer", "schema"): 4, ("ingest", "late"): 1}


def test_a_write_that_raises_leaves_nothing(control):
    def work(connection):
        connection.execute(sa.insert(metadata.tables["dead_letters"]).values(service="s", reason="r", n=1))
        raise KeyError

    with pytest.raises(KeyError):
        control.write(work)
    assert control.dead_letters() == {}


def test_a_reader_is_not_held_up_by_a_writer(control, places):
    with Control.open(places.control) as other:
        control.count_dead_letter("s", "r")

        def work(connection):
            connection.execute(sa.update(metadata.tables["dead_letters"]).values(n=99))
            return other.dead_letters()

        assert control.write(work) == {("s", "r"): 1}
    assert control.dead_letters() == {("s", "r"): 99}


def test_records_are_synced_and_the_log_is_written_ahead(control):
    pragma = lambda name: control.read(lambda c: c.exec_driver_sql(f"PRAGMA {name}").scalar_one())  # noqa: E731
    assert (pragma("journal_mode"), pragma("synchronous")) == ("wal", 2)


def test_a_database_of_another_release_is_refused(control, places):
    control.write(lambda c: c.execute(sa.update(schema_version).values(version=99)))
    with pytest.raises(BadState, match="has schema 99"):
        Control.open(places.control)


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "control.sqlite"
    path.write_bytes(b"nothing like a database, and long enough to be looked at" * 20)
    with pytest.raises((Unavailable, BadState), match=r"control\.sqlite"):
        Control.open(f"sqlite:///{path}")


def test_a_lock_that_never_ends_is_unavailability(control, places):
    holder = sqlite3.connect(places.home / "control.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    control._durable = control._brisk  # waits 250 ms rather than 10 s
    try:
        with pytest.raises(Unavailable, match="locked"):
            control.write(lambda _connection: None)
    finally:
        holder.close()


@pytest.mark.parametrize("url", ["mysql://host/db", "postgresql+pg8000://host/db"])
def test_a_database_that_cannot_be_used_is_the_users_to_change(url):
    with pytest.raises(UsageError, match="TIDEMILL_CONTROL_URL"):
        Control.open(url)


def test_every_statement_exists_in_postgresql_too():
    from sqlalchemy.dialects import postgresql

    from warehouse.control import database_now

    for table in metadata.sorted_tables:
        assert str(sa.schema.CreateTable(table).compile(dialect=postgresql.dialect()))
    now = str(sa.select(database_now() + 5.0).compile(dialect=postgresql.dialect()))
    assert "clock_timestamp()" in now


def test_json_knows_numpy_and_calls_what_is_not_finite_unknown():
    assert to_json({"b": np.float64(1.5), "a": math.nan, "n": np.int64(3), "c": np.float64("inf")}) == (
        '{"a":null,"b":1.5,"c":null,"n":3}'
    )
