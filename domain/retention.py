"""Which versions of a line may go: all stay for an hour, then one an hour for a day, one a day for a month."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HOUR_S, DAY_S, MONTH_S = 3_600.0, 86_400.0, 30 * 86_400.0


@dataclass(frozen=True)
class Age:
    """A version and when it was made.

    Attributes
    ----------
    number : on its line
    created_at : unix seconds
    """

    number: int
    created_at: float


def expired(ages: Iterable[Age], protected: Iterable[int], now: float) -> set[int]:
    """Return the numbers of the versions that may be removed.

    Parameters
    ----------
    ages : of one line's versions, all of them or at least all that are older than an hour
    protected : numbers that stay whatever their age
    now : unix seconds, by the clock of ``created_at``

    Notes
    -----
    Of each hour and day of the clock the *first* version stays, which no later one can replace: so what may go today
    may go tomorrow, and pruning often or seldom leaves the same.
    """
    found = sorted(ages, key=lambda age: (age.created_at, age.number))
    first_of_hour: dict[int, int] = {}
    first_of_day: dict[int, int] = {}
    for age in found:
        first_of_hour.setdefault(int(age.created_at // HOUR_S), age.number)
        first_of_day.setdefault(int(age.created_at // DAY_S), age.number)
    hourly, daily = set(first_of_hour.values()), set(first_of_day.values())
    old = set()
    for age in found:
        passed = now - age.created_at
        kept = passed <= HOUR_S or (passed <= DAY_S and age.number in hourly)
        if not kept and not (passed <= MONTH_S and age.number in daily):
            old.add(age.number)
    return old - set(protected)
