"""The law that durations follow, as they tell it: a log-t, and where they changed from one to another.

A log-t is the shape of a log-normal, with a tail that does not rule out the unlucky response.
"""

from __future__ import annotations

import math
from functools import lru_cache
from operator import mul

from .hazards import LogT

FREEDOM = 6.0
"""Degrees of freedom where the tail is not asked for: near the log-normal in its body, far heavier beyond."""

FREEDOMS = {3.0: 0.25, FREEDOM: 0.5, 24.0: 0.25}
"""Degrees of freedom a class may have, from a heavy tail to nearly the log-normal's, and the chance of each
before anything is known."""

PRIOR_SPREAD = 0.4
"""Spread of a class before anything is known; weighs as much as one duration."""

SPREADS = (0.05, 3.0)
"""Least and greatest spread believed."""

JUMP = 16.0
"""Log-likelihood ratio, doubled, from which a class has changed and its older durations are forgotten."""


def changed_at(durations: tuple[float, ...], least: int = 4) -> int:
    """Return the index from which the durations belong to another level than before it; 0 where they do not.

    The likelihood ratio of two means against one, of the logarithms, at the best split with at least
    `least` durations on either side.
    """
    count = len(durations)
    if count < 2 * least:
        return 0
    law = fit(durations)
    low, high = math.log(law.median) - 4.0 * law.spread, math.log(law.median) + 4.0 * law.spread
    logs = [min(max(math.log(_visible(duration)), low), high) for duration in durations]
    total, squares = sum(logs), sum(log * log for log in logs)
    around_one = squares - total * total / count
    noise = SPREADS[0] ** 2 * count
    before = sum(logs[: least - 1])
    split, strongest = 0, JUMP
    for index in range(least, count - least + 1):
        before += logs[index - 1]
        after = total - before
        around_two = squares - before * before / index - after * after / (count - index)
        evidence = count * math.log((around_one + noise) / (max(around_two, 0.0) + noise))
        if evidence > strongest:
            split, strongest = index, evidence
    return split


def _visible(duration: float) -> float:
    """A duration of whole seconds may be 0, whose logarithm is not."""
    return max(duration, 0.5)


@lru_cache(maxsize=1024)
def likeliest(durations: tuple[float, ...]) -> LogT:
    """Return the most probable law of these durations (one or more): the best fit of one of `FREEDOMS`."""

    def evidence(law: LogT) -> float:
        told = sum(math.log(law.pdf(_visible(duration))) for duration in durations)
        return told + math.log(FREEDOMS[law.freedom])

    return max((fit(durations, freedom) for freedom in FREEDOMS), key=evidence)


@lru_cache(maxsize=1024)
def fit(durations: tuple[float, ...], freedom: float = FREEDOM) -> LogT:
    """Return the likeliest log-t of this `freedom` for these durations (one or more).

    Iteratively reweighted (expectation-maximisation for the t, Lange, Little and Taylor, JASA 84:881, 1989),
    its spread drawn to `PRIOR_SPREAD`. Where all are whole seconds, each end was cut to its second: that
    variance, 1/6 s^2, is taken off (Sheppard's correction).
    """
    logs = [math.log(_visible(duration)) for duration in durations]
    middle = sorted(logs)[len(logs) // 2]
    prior = PRIOR_SPREAD**2
    variance = prior
    for _ in range(20):
        weights = [(freedom + 1.0) / (freedom + (log - middle) ** 2 / variance) for log in logs]
        middle = sum(map(mul, weights, logs)) / sum(weights)
        scatter = sum(weight * (log - middle) ** 2 for weight, log in zip(weights, logs, strict=True))
        before, variance = variance, max((prior + scatter) / len(logs), SPREADS[0] ** 2)
        if abs(variance - before) < 0.01 * before:
            break
    median = math.exp(middle)
    if all(duration == round(duration) for duration in durations):
        variance = max(variance - 1.0 / (6.0 * median * median), SPREADS[0] ** 2)
    return LogT(median, min(math.sqrt(variance), SPREADS[1]), freedom)
