"""The server behind a URL, and the control database made by many at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from domain.errors import Unavailable
from warehouse.control import Control
from warehouse.engines import probe
from warehouse.leases import Leases

pytestmark = pytest.mark.postgres


def test_a_server_is_told_by_its_version(postgres):
    assert probe(postgres.database(), "TIDEMILL_DAGSTER_URL").startswith("PostgreSQL 1")


def test_a_wrong_password_is_said_in_one_line_that_does_not_hold_it(postgres):
    wrong = postgres.database().replace("secret", "guess")
    for open_it in (lambda: probe(wrong, "TIDEMILL_DAGSTER_URL"), lambda: Control.open(wrong)):
        with pytest.raises(Unavailable, match="password authentication failed") as caught:
            open_it()
        assert "\n" not in str(caught.value)
        assert "guess" not in str(caught.value)


def test_processes_that_race_to_make_the_tables_all_find_them_made(postgres):
    url = postgres.database()

    def enter(n):
        with Control.open(url) as control:
            return Leases(control).acquire(f"simulated:{n}", "test", 60.0).epoch

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(enter, range(8))) == [1] * 8
