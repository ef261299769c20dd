"""What may go of things that come often: the older they are, the fewer of them stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HOUR_S, DAY_S, MONTH_S = 3_600.0, 86_400.0, 30 * 86_400.0


@dataclass(frozen=True)
class Tier:
    """Up to an age, the first of every so many seconds stays.

    Attributes
    ----------
    every_s : seconds of the clock of which one stays; 0 keeps all
    until_s : the age, seconds
    """

    every_s: float
    until_s: float


Rule = tuple[Tier, ...]
"""Coarser and coarser: the periods of each tier are whole periods of the one before."""

VERSIONS: Rule = (Tier(0.0, HOUR_S), Tier(HOUR_S, DAY_S), Tier(DAY_S, MONTH_S))
"""Of a line's versions all stay for an hour, then one an hour for a day, one a day for a month."""

EVENTS: Rule = (Tier(0.0, DAY_S), Tier(HOUR_S, 7 * DAY_S), Tier(DAY_S, 365 * DAY_S))
"""Of what is reported of an asset all stays for a day, then one an hour for a week, one a day for a year."""


@dataclass(frozen=True)
class Age:
    """A version or event, and when it was made.

    Attributes
    ----------
    number : of its kind: greater than those of older ones
    created_at : unix seconds
    """

    number: int
    created_at: float


def expired(ages: Iterable[Age], protected: Iterable[int], now: float, rule: Rule = VERSIONS) -> set[int]:
    """Return the numbers of those that may be removed.

    Parameters
    ----------
    ages : of one line or series, all of them or at least all that the first tier does not keep
    protected : numbers that stay whatever their age
    now : unix seconds, by the clock of ``created_at``

    Notes
    -----
    Of each hour and day of the clock the *first* one stays, which no later one can replace: so what may go today
    may go tomorrow, and pruning often or seldom leaves the same.
    """
    found = sorted(ages, key=lambda age: (age.created_at, age.number))
    kept = set(protected)
    for tier in rule:
        last: float | None = None
        for age in found:
            period = age.created_at // tier.every_s if tier.every_s else age.number
            if period != last and now - age.created_at <= tier.until_s:
                kept.add(age.number)
            last = period
    return {age.number for age in found} - kept
