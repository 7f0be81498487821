"""From what is remembered of a class to when its next response is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from .fitting import SPREADS, likeliest
from .hazards import Grid, LogT
from .history import LONGEST, History
from .optimum import Plan, best_plan, keller_plan, late_share, outlook
from .schedules import Schedule, Tiers, Wait, bounded, sane_stretch

WARM = 3
"""Durations from which a class has a law of its own."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The best looks at responses of a known law."""

    law: LogT  # from submitted to finished, s
    price: float  # s of lag that one poll is worth
    run: LogT | None = None  # from started to finished, s

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Return seconds until the best next look; see `Schedule.delay`."""
        law, elapsed = self._law_of(wait)
        plan = planned(_rounded(law.spread), law.freedom, self._price(law, stretch))
        then = plan.next_look(elapsed / law.median) * law.median
        return bounded(then - elapsed, wait.remaining)

    def _price(self, law: LogT, stretch: float) -> float:
        """In medians, and no higher than `DEAREST`."""
        return _rounded(
            min(self.price * sane_stretch(stretch) / law.median, max(DEAREST, self.price / law.median))
        )

    def _law_of(self, wait: Wait) -> tuple[LogT, float]:
        """The law that applies to this response now, and the seconds gone by of it."""
        law, elapsed = self.law, wait.elapsed
        if self.run is not None and wait.started is not None and 0 <= wait.started <= wait.elapsed:
            law, elapsed = self.run, wait.started
        elapsed = elapsed if 0 <= elapsed < LONGEST else 0.0
        if wait.progress is not None and LEAST_PROGRESS <= wait.progress < 1:
            gone = elapsed if wait.started is None else min(max(wait.started, 0.0), elapsed)
            law = sharpened(law, elapsed - gone + gone / wait.progress, wait.progress)
        return law, elapsed


LEAST_PROGRESS = 0.05
"""Share done below which progress says nothing about the end."""

DEAREST = 1.0
"""Price of a poll, in medians, beyond which no stretch goes: a response takes little more than one there."""


def sharpened(law: LogT, forecast: float, progress: float) -> LogT:
    """Return the law after a forecast of the whole duration from the share done.

    The forecast's error, on the log scale, is taken as the share still to do, and never under a tenth; the
    two are weighed by their variances.
    """
    if not 0 < forecast < LONGEST:
        return law
    doubt = max(1.0 - progress, 0.1) ** 2
    own = law.spread**2
    middle = (math.log(law.median) * doubt + math.log(forecast) * own) / (doubt + own)
    return replace(
        law, median=math.exp(middle), spread=max(math.sqrt(own * doubt / (own + doubt)), SPREADS[0])
    )


def schedule_for(
    history: History, tiers: Tiers, *, lag_per_poll: float | None = None, lag_p95: float | None = None
) -> Schedule:
    """Return the schedule of a class: the tiers while it is new, then the best looks for its durations.

    `lag_p95` asks that 95 of 100 responses be noticed within so many seconds; `lag_per_poll` says how many
    seconds of lag one poll is worth; with neither, the class is noticed as soon as the tiers would have,
    on average, with fewer polls. `lag_p95` goes before `lag_per_poll`.
    """
    cold: Schedule = tiers if lag_p95 is None else Capped(tiers, lag_p95)
    settled, runs = history.settled, history.runs
    schedule = cold
    if len(settled) >= WARM:
        law = likeliest(settled)
        run = likeliest(runs) if len(runs) >= WARM else None
        near = replace(law, spread=_rounded(law.spread), median=_rounded(law.median))
        if lag_p95 is not None:
            price = price_for_p95(near, lag_p95)
        else:
            price = lag_per_poll or price_of_tiers(near, tiers)
        schedule = Within(Learned(law, price, run), history.span, cold)
    return Young(schedule, history.longest, tiers) if history.is_young else schedule


@dataclass(frozen=True, slots=True)
class Within:
    """A schedule for responses that the sample it was learned from could have shown, another for older ones.

    What a law says beyond its sample is a guess. So the first batch of a class, submitted at once, is polled
    by the tiers to its last response: each is older than all that had finished when the law was learned.
    """

    schedule: Schedule
    span: float  # s
    beyond: Schedule

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Return the pause of the schedule that applies; see `Schedule.delay`."""
        return (self.schedule if wait.elapsed < self.span else self.beyond).delay(wait, stretch)


@dataclass(frozen=True, slots=True)
class Young:
    """Another schedule, for a class of which perhaps only the quick responses have been seen.

    While a poll is dear, the longest duration known counts as the caller's estimate does for the tiers: the
    class takes at least that long. At the usual price the other schedule applies as it is, and no pause
    outgrows it faster than the price does.
    """

    schedule: Schedule
    longest: float  # s
    tiers: Tiers

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Return the other schedule's pause, or a longer one; see `Schedule.delay`."""
        price = sane_stretch(stretch)
        told = replace(wait, expected=max(self.longest, wait.expected or 0.0))
        patient = min(price * self.schedule.delay(wait), self.tiers.delay(told, price))
        return bounded(max(self.schedule.delay(wait, price), patient), wait.remaining)


@dataclass(frozen=True, slots=True)
class Capped:
    """Another schedule, with no pause longer than `most` seconds unless the budget binds."""

    schedule: Schedule
    most: float

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Return the other schedule's pause, or `most`; see `Schedule.delay`."""
        most = self.most * math.sqrt(sane_stretch(stretch))
        return bounded(min(self.schedule.delay(wait, stretch), most), wait.remaining)


SOONER = 0.95
"""Share of the tiers' mean lag aimed at, so that a law not quite known is not noticed later than by them."""


@lru_cache(maxsize=1024)
def price_of_tiers(law: LogT, tiers: Tiers) -> float:
    """Return the price of a poll, s, at which the best plan lags as much as the tiers do by elapsed time."""
    grid = _body(law)

    def tier(elapsed: float) -> float:
        return elapsed + tiers.pause(elapsed * law.median) / law.median

    allowed = SOONER * outlook(tier, *grid).lag
    return _dearest(law, lambda plan: outlook(plan.next_look, *grid).lag <= allowed)


@lru_cache(maxsize=1024)
def price_for_p95(law: LogT, lag: float) -> float:
    """Return the price of a poll, s, at which 95 of 100 responses are noticed within `lag` seconds."""
    grid, limit = _body(law), lag / law.median
    return _dearest(law, lambda plan: late_share(plan.next_look, limit, *grid) <= 0.05)


def _dearest(law: LogT, is_soon_enough: Callable[[Plan], bool]) -> float:
    """The highest price, s, whose plan is soon enough; by bisection of its logarithm."""
    low, high = math.log(1e-10), math.log(10.0)
    for _ in range(16):
        middle = 0.5 * (low + high)
        if is_soon_enough(planned(law.spread, law.freedom, math.exp(middle))):
            low = middle
        else:
            high = middle
    return law.median * math.exp(low)


def _body(law: LogT) -> Grid:
    """The grid of the law with median 1, without the last thousandth of responses."""
    times, alive = unit_grid(law.spread, law.freedom)
    count = next((place for place, share in enumerate(alive) if share < 1e-3), len(alive))
    return times[:count], alive[:count]


STEP = 0.05
"""Prices and laws are told apart down to this ratio, so that few plans serve many classes."""


def _rounded(value: float) -> float:
    return math.exp(round(math.log(value) / STEP) * STEP)


@lru_cache(maxsize=256)
def planned(spread: float, freedom: float, price: float) -> Plan:
    """Return the best looks for a law of median 1; `price` is counted in medians."""
    times, alive = unit_grid(spread, freedom)
    plan = keller_plan(times, alive, price)
    # Where looks are nearly as dense as the grid, it cannot place them, and Keller's rule is exact.
    return plan if plan.next_look(1.0) < 1.0 + FINE * spread * CELL else best_plan(times, alive, price)


CELL = 1.0 / 24.0
"""Spreads from one point of the grid to the next, in the body of the law."""

FINE = 3.0
"""Cells to a pause below which the grid is too coarse for the exact program."""


@lru_cache(maxsize=128)
def unit_grid(spread: float, freedom: float) -> Grid:
    """Return the grid of a law of median 1."""
    return LogT(1.0, spread, freedom).grid(CELL)
