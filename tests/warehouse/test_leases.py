import time

import pytest

from domain.errors import LeaseLost, Unavailable
from warehouse.control import Control
from warehouse.leases import Leases

DATABASES = ("sqlite", "postgresql")
LINE = "simulated:BTC-USD"


@pytest.fixture
def leases(control):
    return Leases(control)


def test_a_held_lease_is_refused_to_others_by_name(leases):
    leases.acquire(LINE, "a", 60)
    with pytest.raises(Unavailable, match="held by a for another"):
        leases.acquire(LINE, "b", 60)


def test_each_acquisition_has_a_new_epoch_also_by_the_same_owner(leases):
    first = leases.acquire(LINE, "a", 60)
    again = leases.acquire(LINE, "a", 60)
    assert (first.epoch, again.epoch) == (1, 2)
    with pytest.raises(LeaseLost, match="epoch 1"):
        leases.renew(first, 60)
    leases.renew(again, 60)


def test_a_released_lease_is_free_and_its_epoch_goes_on(leases):
    mine = leases.acquire(LINE, "a", 60)
    leases.release(mine)
    assert leases.acquire(LINE, "b", 60).epoch == 2
    with pytest.raises(LeaseLost):
        leases.renew(mine, 60)


def test_an_expired_lease_is_free_and_the_late_holder_learns_of_it(leases):
    mine = leases.acquire(LINE, "a", 0.01)
    time.sleep(0.02)
    other = leases.acquire(LINE, "b", 60)
    with pytest.raises(LeaseLost):
        leases.renew(mine, 60)
    leases.release(mine)  # changes nothing for the new holder
    leases.renew(other, 60)


def test_an_expired_lease_that_nobody_took_can_be_renewed(leases):
    mine = leases.acquire(LINE, "a", 0.01)
    time.sleep(0.02)
    leases.renew(mine, 60)
    with pytest.raises(Unavailable):
        leases.acquire(LINE, "b", 60)


def test_lines_are_leased_apart(leases):
    assert leases.acquire(LINE, "a", 60).epoch == leases.acquire("simulated:ETH-USD", "b", 60).epoch == 1


def test_a_lease_whose_clock_was_set_back_an_hour_lapses_in_its_time_all_the_same(tmp_path):
    now = [10_000.0]
    with Control(f"sqlite:///{tmp_path / 'control.sqlite'}", lambda: now[0]) as control:
        control.prepare()
        leases = Leases(control)
        lost = leases.acquire("a:B", "gone", 15.0)
        now[0] -= 3_600.0
        with pytest.raises(Unavailable):
            leases.acquire("a:B", "heir", 15.0)
        now[0] += 14.0
        with pytest.raises(Unavailable, match=r"another 1\."):
            leases.acquire("a:B", "heir", 15.0)
        now[0] += 2.0
        assert leases.acquire("a:B", "heir", 15.0).epoch == lost.epoch + 1
