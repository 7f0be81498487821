"""The least lag for so many polls: what no policy can beat, for durations of a known law."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .durations import Law
from .hazards import Grid
from .optimum import Outlook, best_plan, outlook
from .schedules import Tiers

FINER = 4
"""Moments of the frontier for each one of the law's grid."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the frontier: nobody has less lag with these polls."""

    price: float  # s of lag that one poll is worth there
    polls: float  # a response, on average
    lag: float  # s, on average


def frontier(law: Law, polls: Sequence[float] = (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16)) -> tuple[Point, ...]:
    """Return the least mean lag for each of these mean polls, which are above 1 and rise."""
    grid = _refined(law.grid())

    def point(wanted: float) -> Point:
        return _at(grid, lambda look: look.polls - wanted)

    return tuple(point(wanted) for wanted in polls)


def optimum_at(law: Law, price: float) -> Outlook:
    """Return polls and lag of the best looks when a poll is worth `price` seconds of lag."""
    grid = law.grid()
    return outlook(best_plan(*grid, price).next_look, *grid)


def tier_price(law: Law, tiers: Tiers) -> float:
    """Return the price of a poll, s, at which the optimum lags as much as the tiers do by elapsed time."""
    grid = law.grid()
    allowed = outlook(lambda elapsed: elapsed + tiers.pause(elapsed), *grid).lag
    return _at(grid, lambda look: allowed - look.lag).price


def _refined(grid: Grid) -> Grid:
    """The same law with `FINER` times as many moments, so that many looks can be placed as well as few."""
    times, alive = grid
    shares = [step / FINER for step in range(FINER)]

    def between(values: Sequence[float]) -> tuple[float, ...]:
        return (
            *(left + share * (right - left) for left, right in pairwise(values) for share in shares),
            values[-1],
        )

    return between(times), between(alive)


def _at(grid: Grid, excess: Callable[[Outlook], float]) -> Point:
    """The point of the frontier where `excess`, which falls as the price rises, is 0; by bisection."""
    low, high = math.log(1e-6 * grid[0][-1]), math.log(10.0 * grid[0][-1])
    for _ in range(30):
        price = math.exp(0.5 * (low + high))
        look = outlook(best_plan(*grid, price).next_look, *grid)
        if excess(look) >= 0:
            low = math.log(price)
        else:
            high = math.log(price)
    return Point(price, look.polls, look.lag)
