"""How long responses take, as a law of chance: survival, density, hazard, quantiles.

One family, the log-t: the logarithm of the duration is a Student t around the logarithm of the median.
With infinite `freedom` it is the log-normal. Every function is finite and never raises on a finite time,
however far in the tail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

INSTANT = 1e-9
"""Times under this, s, are 0: nothing has finished by then."""

LARGEST_LOG = 700.0
"""Largest exponent taken, so that no time overflows a float."""


Grid = tuple[tuple[float, ...], tuple[float, ...]]
"""Times in seconds, rising from 0, and the share of responses unfinished at each."""


@dataclass(frozen=True, slots=True)
class LogT:
    """Durations whose logarithm is a Student t: `spread` is its scale, `freedom` its degrees of freedom."""

    median: float  # s, above 0
    spread: float  # of the natural logarithm, above 0
    freedom: float = math.inf  # 1 and up; the smaller, the heavier the tail

    def position(self, t: float) -> float:
        """Return how many spreads the logarithm of `t` seconds lies above that of the median."""
        return math.log(t / self.median) / self.spread if t > INSTANT else -math.inf

    def moment(self, z: float) -> float:
        """Return the time in seconds that lies `z` spreads above the median."""
        return self.median * math.exp(min(max(self.spread * z, -LARGEST_LOG), LARGEST_LOG))

    def sf(self, t: float) -> float:
        """Return the chance that a response takes longer than `t` seconds."""
        return upper_tail(self.position(t), self.freedom)

    def pdf(self, t: float) -> float:
        """Return the density at `t` seconds, per second."""
        return density(self.position(t), self.freedom) / (self.spread * t) if t > INSTANT else 0.0

    def hazard(self, t: float) -> float:
        """Return the rate, per second, at which a response unfinished after `t` seconds finishes."""
        return hazard(self.position(t), self.freedom) / (self.spread * t) if t > INSTANT else 0.0

    def quantile(self, share: float) -> float:
        """Return the seconds within which this share (above 0, below 1) of responses finishes."""
        return self.moment(-upper_quantile(share, self.freedom))

    def quantile_after(self, share: float, elapsed: float) -> float:
        """Return the seconds since submit by which this share of those unfinished at `elapsed` finishes."""
        alive = self.sf(elapsed)
        if alive < TINY:  # nothing left to divide: the far tail is nearly exponential
            return elapsed - math.log1p(-share) / self.hazard(elapsed)
        return max(elapsed, self.moment(upper_quantile(alive * (1.0 - share), self.freedom)))

    def sample(self, random: Random) -> float:
        """Return one duration in seconds."""
        z = random.gauss(0.0, 1.0)
        if math.isfinite(self.freedom):
            z /= math.sqrt(random.gammavariate(self.freedom / 2.0, 2.0) / self.freedom)
        return self.moment(z)

    def grid(self, cell: float = 1.0 / 24.0, medians: float = 100.0) -> Grid:
        """Return times from 0 to so many medians, and the share unfinished at each.

        The times are `cell` spreads apart in the body of the law, and ever farther in its tail.
        """
        places = [cell * step for step in range(round(-6.0 / cell), round(4.0 / cell) + 1)]
        step, end = cell, math.log(medians) / self.spread
        while places[-1] < end:
            step *= 1.0 + 0.5 * cell
            places.append(places[-1] + step)
        times = (0.0, *(self.moment(place) for place in places if place <= end))
        return times, tuple(self.sf(time) for time in times)


TINY = 1e-280
"""Chances below this have lost their digits."""


def density(z: float, freedom: float) -> float:
    """Return the Student density at `z`; the normal one for infinite `freedom`."""
    if math.isinf(z):
        return 0.0
    if math.isinf(freedom):
        return math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    scale = math.lgamma((freedom + 1.0) / 2.0) - math.lgamma(freedom / 2.0)
    body = -0.5 * (freedom + 1.0) * math.log1p(z * z / freedom)
    return math.exp(scale + body) / math.sqrt(freedom * math.pi)


def upper_tail(z: float, freedom: float) -> float:
    """Return the chance of a Student t above `z`, with its digits kept in the far tail."""
    if math.isinf(freedom):
        return 0.5 * math.erfc(z / math.sqrt(2.0))
    if z < 0:
        return 1.0 - upper_tail(-z, freedom)
    if math.isinf(z):
        return 0.0
    share = freedom / (freedom + z * z)
    return 0.5 * incomplete_beta(share, freedom / 2.0, 0.5, rest=z * z / (freedom + z * z))


def hazard(z: float, freedom: float) -> float:
    """Return density over upper tail at `z`."""
    if math.isinf(freedom) and z > 20.0:
        return z + 1.0 / (z + 2.0 / (z + 3.0 / z))  # Laplace's fraction: both parts underflow past 38
    tail = upper_tail(z, freedom)
    if tail < TINY:
        return freedom / z  # the limit of a power law
    return density(z, freedom) / tail


def upper_quantile(tail: float, freedom: float) -> float:
    """Return the `z` above which this chance lies, by bisection; `tail` is above 0 and below 1."""
    if tail > 0.5:
        return -upper_quantile(1.0 - tail, freedom)
    low, high = 0.0, 1.0
    while upper_tail(high, freedom) > tail:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        if upper_tail(middle, freedom) > tail:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def incomplete_beta(x: float, a: float, b: float, *, rest: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b); `rest` is 1 - x, given to keep its digits.

    Lentz's method for its continued fraction (NIST DLMF 8.17.22).
    """
    if x <= 0.0:
        return 0.0
    if rest <= 0.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(rest, b, a, rest=x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, 300):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / (1.0 + even * d)
        c = 1.0 + even / c
        fraction *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / (1.0 + odd * d)
        c = 1.0 + odd / c
        fraction *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return math.exp(front) * fraction / a
