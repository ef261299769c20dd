import pytest

from domain.errors import BadState, Unavailable
from warehouse import schema
from warehouse.lake import Lake

pytestmark = pytest.mark.slow


def test_opening_again_applies_nothing_twice(places):
    for _ in range(2):
        with Lake.open(places) as lake:
            applied = lake.query("SELECT version, sha256 FROM schema_migrations ORDER BY version").to_pylist()
            assert applied == [{"version": m.version, "sha256": m.sha256} for m in schema.migrations()]


@pytest.mark.usefixtures("lake")
def test_a_migration_changed_after_it_was_applied_is_refused(places, monkeypatch):
    first = schema.migrations()[0]
    changed = schema.Migration(first.version, first.name, first.sql + "-- harmless?")
    monkeypatch.setattr(schema, "migrations", lambda: [changed])
    with pytest.raises(BadState, match=r"0001_tables\.sql was changed"):
        Lake.open(places)


def test_a_lake_of_a_newer_release_is_refused(lake, places):
    lake.write(lambda c: c.execute("INSERT INTO schema_migrations VALUES (99, 'x', now())"))
    with pytest.raises(BadState, match="run a newer tidemill"):
        Lake.open(places, read_only=True)


@pytest.mark.usefixtures("lake")
def test_a_new_migration_is_applied_by_the_first_writer_and_awaited_by_readers(places, monkeypatch):
    more = [*schema.migrations(), schema.Migration(2, "0002_notes.sql", "CREATE TABLE notes (note VARCHAR);")]
    monkeypatch.setattr(schema, "migrations", lambda: more)
    with pytest.raises(Unavailable, match=r"lacks 0002_notes\.sql"):
        Lake.open(places, read_only=True)
    with Lake.open(places) as writer:
        assert writer.query("FROM notes").num_rows == 0
    with Lake.open(places, read_only=True) as reader:
        assert reader.query("FROM notes").num_rows == 0


def test_a_migration_that_fails_leaves_the_lake_as_it_was(lake, places, monkeypatch):
    more = [*schema.migrations(), schema.Migration(2, "0002_bad.sql", "CREATE TABLE notes (n INT); SELECT nonsense;")]
    monkeypatch.setattr(schema, "migrations", lambda: more)
    with pytest.raises(BadState, match="refused"):
        Lake.open(places)
    assert lake.query("FROM schema_migrations").num_rows == 1
    with pytest.raises(BadState, match="notes"):
        lake.query("FROM notes")
