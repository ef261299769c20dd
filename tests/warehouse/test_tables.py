import numpy as np
import pytest

from domain.errors import BadState
from domain.events import NANOS_PER_DAY, Bar
from warehouse import tables


def same(one, other):
    return all(np.array_equal(getattr(one, f), getattr(other, f), equal_nan=True) for f in one.__dataclass_fields__)


def test_what_goes_into_rows_comes_back_bit_for_bit(history):
    past = history(50)
    assert same(tables.rows_to_bars(tables.bars_to_rows(past.instrument, past.bars, "backfill")), past.bars)
    assert same(tables.rows_to_vectors(tables.vectors_to_rows(past.instrument, past.vectors, "live")), past.vectors)
    rows = tables.examples_to_rows(past.instrument, past.examples, 300, "backfill")
    assert same(tables.rows_to_examples(rows), past.examples)
    assert set(rows["horizon_s"].to_pylist()) == {300}


def test_a_move_of_zero_is_a_null_direction_in_sql_and_nan_in_arrays(history):
    past = history(50)
    rows = tables.examples_to_rows(past.instrument, past.examples, 300, "backfill")
    none = np.isnan(past.examples.targets[:, 1])
    assert rows["direction"].is_null().to_pylist() == none.tolist()
    assert none.any()
    assert not none.all()


def test_records_and_arrays_make_the_same_rows(history):
    past = history(5)
    records = [Bar(past.instrument, int(t), *v) for t, v in zip(past.bars.ts, past.bars.values.tolist(), strict=True)]
    landed = tables.records_to_rows("bars", records, range(5), "live")
    assert landed["off"].to_pylist() == [0, 1, 2, 3, 4]
    assert landed.drop_columns(["off"]).equals(tables.bars_to_rows(past.instrument, past.bars, "live"))


def test_no_rows_are_rows_too(history):
    past = history(5)
    empty = tables.rows_to_examples(tables.SCHEMAS["examples"].empty_table())
    assert len(tables.examples_to_rows(past.instrument, empty, 300, "live")) == 0
    assert empty.values.shape == (0, 16)
    tables.check("bars", tables.records_to_rows("bars", [], []).drop_columns(["off"]))


def test_midnight_belongs_to_the_day_that_ends():
    assert [tables.day_of(k * NANOS_PER_DAY + d) for k, d in ((1, 0), (1, 1), (0, 0))] == [0, 1, -1]


def test_rows_with_a_null_or_of_another_table_are_refused(history):
    past = history(5)
    rows = tables.bars_to_rows(past.instrument, past.bars, "live")
    with pytest.raises(BadState, match="no table trades"):
        tables.check("trades", rows)
    with pytest.raises(BadState, match="have columns"):
        tables.check("features", rows)
    k = rows.schema.get_field_index("close")
    nulls = rows.set_column(k, rows.schema.field("close"), [[1.0, None, 1.0, 1.0, 1.0]])
    with pytest.raises(BadState, match="column close"):
        tables.check("bars", nulls)
