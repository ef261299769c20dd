"""How sure a figure is: means, skills and slopes of rows that resemble their neighbours, with confidence intervals.

Rows that follow one another are not independent: targets over a horizon overlap, and calm and wild hours cluster. So
each figure is written as a mean of *influences* (what each row adds to its error), and the variance of that mean is
taken with the covariances of rows up to a bandwidth apart, weighted down with distance (Bartlett's kernel). The
bandwidth grows with the sample, and the critical value with the bandwidth, which keeps the promised coverage where
the plain normal value falls short of it.

References
----------
Newey and West, A Simple, Positive Semi-Definite, Heteroskedasticity and Autocorrelation Consistent Covariance Matrix,
Econometrica 55(3), 1987, doi:10.2307/1913610. Kiefer and Vogelsang, A New Asymptotic Theory for Heteroskedasticity-
Autocorrelation Robust Tests, Econometric Theory 21(6), 2005, doi:10.1017/S0266466605050565 (critical values). Lazarus,
Lewis, Stock and Watson, HAR Inference: Recommendations for Practice, JBES 36(4), 2018,
doi:10.1080/07350015.2018.1506926 (bandwidth). Datta and Du, Nonparametric HAC Estimation for Time Series Data with
Missing Observations, Federal Reserve IFDP 1060, 2012 (absent rows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from domain.tables import Flags, Floats

ENOUGH = 30
"""Rows below which there is no interval, and so no figure: a handful of neighbours is one observation."""

_BANDWIDTH = 1.3  # times the root of the number of rows: Lazarus et al.
_CRITICAL = (-0.5324, 0.4160, 2.9694, 1.9600)  # of two-sided 95 %, by powers of bandwidth / rows: Kiefer and Vogelsang


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval.

    Attributes
    ----------
    value, low, high : the figure and its bounds
    n : rows that it was made from
    """

    value: float
    low: float
    high: float
    n: int


def mean(values: Floats, lag: int) -> Estimate | None:
    """Return the mean of a series with its interval, None for fewer than ``ENOUGH`` values.

    Parameters
    ----------
    values : float64[t]
        One value a place on an even grid of time, NaN where there is none: so that neighbours are known as such.
    lag : int
        Places over which values surely depend on one another, such as the horizon in bars.

    Notes
    -----
    The coverage is that of a stationary series; a figure that drifts within the window has no one mean to cover.
    """
    known = np.isfinite(values)
    value = float(values[known].mean()) if known.any() else math.nan
    return _estimate(value, np.where(known, values - value, 0.0), known, lag)


def skill(losses: Floats, baseline: Floats, lag: int) -> Estimate | None:
    """Return ``1 - mean loss / mean baseline loss`` with its interval, over the places where both are known.

    Parameters
    ----------
    losses, baseline : float64[t]
        As ``values`` of :func:`mean`, of the same questions.

    Returns
    -------
    Estimate or None
        None for fewer than ``ENOUGH`` common places, and where the baseline was never wrong.
    """
    known = np.isfinite(losses) & np.isfinite(baseline)
    if not known.any() or not (divisor := float(baseline[known].mean())) > 0.0:
        return None
    ratio = float(losses[known].mean()) / divisor
    return _estimate(1.0 - ratio, np.where(known, (ratio * baseline - losses) / divisor, 0.0), known, lag)


def slope(x: Floats, y: Floats, lag: int) -> Estimate | None:
    """Return the slope of the straight line of ``y`` over ``x`` with its interval: 1 for calibrated forecasts ``x``.

    Parameters
    ----------
    x, y : float64[t]
        As ``values`` of :func:`mean`.

    Returns
    -------
    Estimate or None
        None for fewer than ``ENOUGH`` common places, and where ``x`` is always the same.

    References
    ----------
    Mincer and Zarnowitz, The Evaluation of Economic Forecasts, NBER, 1969.
    """
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return None
    dx, dy = x - x[known].mean(), y - y[known].mean()
    variance = float((dx[known] ** 2).mean())
    if not variance > 0.0:
        return None
    value = float((dx[known] * dy[known]).mean()) / variance
    return _estimate(value, np.where(known, dx * (dy - value * dx) / variance, 0.0), known, lag)


def _estimate(value: float, influence: Floats, known: Flags, lag: int) -> Estimate | None:
    n = int(known.sum())
    if n < ENOUGH:
        return None
    first, last = int(known.argmax()), len(known) - int(known[::-1].argmax())
    width = half_width(influence[first:last], n, lag)
    return Estimate(value, value - width, value + width, n)


def half_width(influence: Floats, n: int, lag: int) -> float:
    """Return half the 95 % interval of a figure whose error is the mean of ``n`` influences.

    Parameters
    ----------
    influence : float64[t]
        On an even grid of time, 0 where there is no row; sums to 0.
    """
    t = len(influence)
    bandwidth = min(t, max(lag + 1, math.ceil(_BANDWIDTH * math.sqrt(t))))
    covariance = [float(influence[: t - j] @ influence[j:]) for j in range(bandwidth)]
    weighted = covariance[0] + 2.0 * sum((1.0 - j / bandwidth) * covariance[j] for j in range(1, bandwidth))
    critical = float(np.polyval(_CRITICAL, bandwidth / t))
    return critical * math.sqrt(max(0.0, weighted)) / n
