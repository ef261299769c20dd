"""The weather of the simulated market: volatility, seasons, order flow and how their laws drift, by day and minute.

Only additions, multiplications, divisions, square roots and comparisons are used, which IEEE 754 fixes to the bit, so
that every machine simulates the same market; ``exp`` and ``sin``, which it leaves open, are replaced by close kin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate

import numpy as np

from domain.tables import Floats

DAYS = 1 << 16
"""Days since 1970 that have a simulated market: until 2149."""

MINUTES = 1_440

# Persistence of the slow and the fast part of log volatility, half-lives of 2 hours and 10 minutes, of order flow
# and of the size of trades.
_SLOW, _FAST, _FLOW, _APPETITE = 0.9942, 0.933, 0.9, 0.85
_LEAD = 5
# Persistence of the random part of the laws' drift, a half-life of 8 days. Together with waves of 2 to 4 weeks it makes
# a model that was trained on last week a little wrong today.
_DRIFT = 0.92
# The price is pulled back to its profile by 3 % a day, so that it stays realistic for ever.
_PULL = 0.97


@dataclass(frozen=True)
class Profile:
    """What tells one instrument from another.

    Attributes
    ----------
    price : quote currency, about which the price wanders
    ticks, lots : how many price steps a quote unit, and size steps a base unit, has
    a_day : trades a day, exactly
    volatility : of a usual minute, as a fraction
    spread : half the usual distance between bid and ask, as a fraction
    size : of a usual trade, base units
    silence : usual share of minutes without a trade
    """

    price: float
    ticks: int
    lots: int
    a_day: int
    volatility: float
    spread: float
    size: float
    silence: float


_PROFILES = {
    "BTC": Profile(60_000.0, 10, 100_000, 57_600, 6e-4, 0.6e-4, 0.01, 0.01),
    "ETH": Profile(3_000.0, 100, 10_000, 43_200, 8e-4, 0.8e-4, 0.15, 0.03),
}


def profile_of(instrument: str) -> Profile:
    """Return the profile of an instrument: of its base asset, or one told by its name.

    >>> profile_of("simulated:BTC-USD").price
    60000.0
    """
    base = instrument.partition(":")[2].partition("-")[0]
    if base in _PROFILES:
        return _PROFILES[base]
    size = 1 + key_of(instrument) % 997
    return Profile(size / 5, 10_000, 100, 28_800 + 1_440 * (size % 12), 9e-4, 1e-4, 1_500 / size, 0.04)


def key_of(instrument: str) -> int:
    """Return the number that stands for an instrument in seeds."""
    return int.from_bytes(sha256(instrument.encode()).digest()[:8], "big")


def grow(x: Floats) -> Floats:
    """Return a positive, growing function of ``x`` much like ``exp(x)``: ``(1 + x/1024) ** 1024``, by ten squarings.

    >>> bool(abs(grow(np.array([0.1]))[0] / np.exp(0.1) - 1) < 1e-5)
    True
    """
    y = 1.0 + x / 1024.0
    for _ in range(10):
        y = y * y
    return y


def squash(x: Floats) -> Floats:
    """Return ``x`` brought into (-1, 1)."""
    return x / (1.0 + np.abs(x))


@dataclass(frozen=True)
class Weather:
    """One day, by the minute.

    Attributes
    ----------
    start, end : float
        Log price against the profile at the day's two midnights.
    volatility : float64[1440]
        Standard deviation of the minute's return, as a fraction.
    drift : float64[1440]
        Expected return of the minute, from the order flow of this and of the last minute.
    buyers : float64[1440]
        Probability that a taker buys.
    activity : float64[1440]
        Weight of the minute in the day's trades; 0 where none happen.
    appetite : float64[1440]
        How large trades are against the usual.
    spread : float64[1440]
        Half the distance between bid and ask, as a fraction.
    """

    start: float
    end: float
    volatility: Floats
    drift: Floats
    buyers: Floats
    activity: Floats
    appetite: Floats
    spread: Floats


class Climate:
    """An instrument's weather on any day, told from the seed alone, without simulating the days before.

    Parameters
    ----------
    seed : int, >= 0
    instrument : ``venue:SYMBOL``
    """

    def __init__(self, seed: int, instrument: str) -> None:
        self._seed = seed
        self._key = key_of(instrument)
        self.profile = profile_of(instrument)

    def random(self, *what: int) -> np.random.Generator:
        """Return the random numbers that belong to a purpose and a day."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, self._key, *what])))

    def on(self, day: int) -> Weather:
        """Return a day's weather.

        Parameters
        ----------
        day : int
            Days since 1970, from 0 to ``DAYS - 2``.
        """
        level, mix, season, phase, flow, silence, spread, herd = (_between(law, day) for law in self._laws)
        slow, fast, order, appetite = self._minutes(day)
        pressure = squash(order[_LEAD - 1 :])
        tilt = 1.2 * squash(mix)  # whether volatility remembers minutes or hours
        log_volatility = (
            0.3 * level
            + 0.4 * (1.0 - tilt) * slow[_LEAD:]
            + 0.4 * (1.0 + tilt) * fast[_LEAD:]
            + 0.45 * (1.0 + 1.2 * squash(season)) * _wave(_SHARE - 0.625 + 0.6 * squash(phase))
            # Some days large trades foretell a storm five minutes ahead, on others they absorb it.
            + 0.6 * squash(herd) * appetite[:-_LEAD]
        )
        volatility = self.profile.volatility * grow(log_volatility)
        # What flow tells of the next minute is weak and changes sign: what last month taught may be wrong today.
        lean = 0.05 + 0.35 * squash(flow)
        uneven, silent = self.random(2, day).standard_normal(MINUTES), self.random(3, day).random(MINUTES)
        activity = grow(0.7 * (log_volatility - 0.3 * level) + 0.3 * uneven)
        activity[silent < self.profile.silence * (1.0 + 0.9 * squash(silence))] = 0.0
        return Weather(
            start=float(self._prices[day]),
            end=float(self._prices[day + 1]),
            volatility=volatility,
            drift=(0.3 * pressure[1:] + lean * pressure[:-1]) * volatility,
            buyers=0.5 + 0.3 * pressure[1:],
            activity=activity,
            appetite=grow(0.6 * appetite[_LEAD:]),
            spread=self.profile.spread * (1.0 + 0.8 * squash(spread)),
        )

    @cached_property
    def _laws(self) -> list[Floats]:
        """Eight drifting laws of about unit variance, one value a midnight: each a slow wave and a random walk."""
        random = self.random(0)
        days, phases = np.arange(DAYS), random.random(8)
        return [
            1.2 * _wave(days / (14.0 + 2.0 * k) + phases[k]) + 0.5 * _remembering(_DRIFT, random.standard_normal(DAYS))
            for k in range(8)
        ]

    @cached_property
    def _prices(self) -> Floats:
        """Log prices at each midnight, moving about as far in a day as the day's minutes do."""
        step = self.profile.volatility * 1.2 * float(np.sqrt(MINUTES)) * grow(0.3 * self._laws[0])
        shocks = (step * self.random(1).standard_normal(DAYS)).tolist()
        return np.array(list(accumulate(shocks, lambda price, shock: _PULL * price + shock)), np.float64)

    def _minutes(self, day: int) -> list[Floats]:
        """Return slow and fast volatility, order flow and appetite: the last minutes of the day before, and this day's.

        Each starts from nothing a day early: by midnight the start is forgotten, so that days join seamlessly.
        """
        before = (self.random(4, day - 1) if day else self.random(5)).standard_normal((4, MINUTES))
        today = self.random(4, day).standard_normal((4, MINUTES))
        memories = (_SLOW, _FAST, _FLOW, _APPETITE)
        return [
            _remembering(memory, np.concatenate(shocks))[MINUTES - _LEAD :]
            for memory, *shocks in zip(memories, before, today, strict=True)
        ]


_SHARE = np.arange(MINUTES) / MINUTES


def _between(law: Floats, day: int) -> Floats:
    """Return a law by the minute: it changes steadily from midnight to midnight."""
    return np.asarray(law[day] + (law[day + 1] - law[day]) * _SHARE, np.float64)


def _remembering(memory: float, shocks: Floats) -> Floats:
    """Return the process ``x' = memory * x + shock``, scaled to unit variance."""
    scale = np.sqrt(1.0 - memory * memory)
    path = accumulate((scale * shocks).tolist(), lambda x, shock: memory * x + shock)
    return np.array(list(path), np.float64)


def _wave(x: Floats) -> Floats:
    """Return a smooth wave of period 1 between -1 and 1, highest at 0: two parabolas for one cosine."""
    away = np.abs(x - np.floor(x) - 0.5) * 4.0 - 1.0  # 1 at whole numbers, -1 at halves
    return np.asarray(away * (2.0 - np.abs(away)), np.float64)
