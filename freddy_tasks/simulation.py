"""A day of polling in a second: policies, durations and a plan's limit, in virtual time.

Requests leave as they do in production: submits and looks take turns, a token bucket and the day's count let
them go, and what is due without a token waits. The service answers at once, and its times are whole seconds.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from .durations import Law, Trace
from .frontier import optimum_at, tier_price
from .policies import Policy
from .schedules import Tiers, Wait, next_delay, next_stretch

SLOT = 900.0
"""Seconds over which the day's requests are counted together, as the budget does."""

DAY_SLOTS = 96


@dataclass(frozen=True, slots=True)
class Limit:
    """What a plan allows, over all requests; 0 stands for no limit."""

    per_minute: float = 0.0
    per_day: int = 0
    at_once: int = 20

    @property
    def rate(self) -> float:
        """Requests a second, the day's limit aside; infinite without limit."""
        return self.per_minute / 60.0 if self.per_minute else math.inf


@dataclass(frozen=True, slots=True)
class Result:
    """What a policy did; seconds, and means over responses, unless said otherwise."""

    responses: int  # noticed as finished
    expired: int  # not finished at the deadline
    seconds: float  # from the first request to the last
    polls: float
    lag: float  # from finished to noticed
    lag_p50: float
    lag_p95: float
    requests: float  # submit and polls
    per_hour: float  # responses
    per_day: float
    limit_used: float | None  # share of the limit, from the first submit to the last; None without one
    busiest_minute: int  # most requests in any 60 s
    busiest_day: int  # most requests in any 24 h
    cost: float  # lag and polls at the price below
    price: float  # s of lag that one poll is worth
    best_cost: float  # of the optimum, without a limit
    stretch: float  # highest

    @property
    def over_optimum(self) -> float:
        """Return cost over the least cost possible."""
        return self.cost / self.best_cost

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; None for what no response told."""
        told = asdict(self) | {"over_optimum": self.over_optimum}
        return {
            name: None if value is not None and math.isnan(value) else value for name, value in told.items()
        }


def simulate(
    policy: Policy,
    durations: Sequence[float],
    *,
    limit: Limit | None = None,
    per_hour: float = math.inf,
    arrivals: Sequence[float] | None = None,
    timeout: float = 1_860.0,
    expected: float | None = None,
    law: Law | None = None,
    price: float | None = None,
    seed: int = 0,
) -> Result:
    """Return what comes of submitting responses of these durations (one or more), in virtual time.

    `per_hour` responses arrive at random moments; infinite: all at once. `arrivals` are their moments
    instead, one for each of `durations`, in seconds and rising. `timeout` is the wait after which a
    response is given up, `expected` what the caller says of its length, in seconds. `law` is what the optimum
    knows, else the durations' own. `price` is what `Result.cost` counts a poll as; the default is the price
    at which the optimum is as quick as the tiers.
    """
    random = Random(seed)  # noqa: S311  # no secret
    moments = _arrivals(len(durations), per_hour, random) if arrivals is None else arrivals
    run = _Run(policy, durations, limit or Limit(), moments, timeout, expected, random)
    while run.step():
        pass
    known = law or Trace(tuple(durations))
    worth = price or tier_price(known, Tiers())
    return run.result(worth, optimum_at(known, worth).cost(worth))


class _Bucket:
    """The plan's tokens and the day's count, as the shared budget keeps them."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.tokens = float(limit.at_once)
        self.updated = 0.0
        self.slots: deque[list[float]] = deque()
        self.spent = 0

    def ready_at(self, now: float) -> float:
        """Return the first moment from `now` on at which a request may leave; nothing is set aside for it."""
        self._refill(now)
        moment = now
        if self.tokens < 1.0:
            moment += (1.0 - self.tokens) / self.limit.rate
        if self.limit.per_day and self.spent >= self.limit.per_day:
            moment = max(moment, (self.slots[0][0] + DAY_SLOTS + 1) * SLOT)
        return moment

    def take(self, now: float) -> None:
        """Count one request."""
        self._refill(now)
        if self.limit.per_minute:
            self.tokens -= 1.0
        if not self.slots or self.slots[-1][0] != now // SLOT:
            self.slots.append([now // SLOT, 0])
        self.slots[-1][1] += 1
        self.spent += 1

    def may_submit(self, in_flight: int) -> bool:
        """Return False where the day's last requests are needed to look at what is in flight."""
        per_day = self.limit.per_day
        return not per_day or not in_flight or per_day - self.spent > in_flight + 1

    def left_today(self) -> float:
        """Return the share of the day's requests that is left."""
        return 1.0 - self.spent / self.limit.per_day if self.limit.per_day else 1.0

    def _refill(self, now: float) -> None:
        if self.limit.per_minute:
            grown = self.tokens + (now - self.updated) * self.limit.rate
            self.tokens = min(float(self.limit.at_once), grown + 1e-9)
        self.updated = now
        while self.slots and self.slots[0][0] < now // SLOT - DAY_SLOTS:
            self.spent -= int(self.slots.popleft()[1])


class _Run:
    """One simulation under way."""

    def __init__(
        self,
        policy: Policy,
        durations: Sequence[float],
        limit: Limit,
        arrivals: Iterable[float],
        timeout: float,
        expected: float | None,
        random: Random,
    ) -> None:
        self.policy, self.durations, self.random = policy, durations, random
        self.timeout, self.expected = timeout, expected
        self.bucket = _Bucket(limit)
        self.arrivals = deque(enumerate(arrivals))
        self.parked: list[tuple[float, int]] = []  # due, response
        self.due: deque[int] = deque()
        self.submitted = [0.0] * len(durations)
        self.polls = [0] * len(durations)
        self.lags: list[float] = []
        self.expired = 0
        self.now, self.stretch, self.highest, self.adjusted = 0.0, 1.0, 1.0, 0.0
        self.submits_turn = True
        self.sent: list[float] = []
        self.last_submit = 0.0

    def step(self) -> bool:
        """Send the next request; False when none is left."""
        free = self.bucket.may_submit(len(self.parked) + len(self.due))
        moments = [self.arrivals[0][1]] if self.arrivals and free else []
        moments += [self.now] if self.due else [self.parked[0][0]] if self.parked else []
        if not moments:
            return False
        self._advance(max(self.now, min(moments)))
        self._adjust()
        self._advance(self.bucket.ready_at(self.now))
        self.bucket.take(self.now)
        self.sent.append(self.now)
        may_submit = free and bool(self.arrivals) and self.arrivals[0][1] <= self.now
        if may_submit and (self.submits_turn or not self.due):
            self._submit(self.arrivals.popleft()[0])
        else:
            self._look(self.due.popleft())
        self.submits_turn = not self.submits_turn
        return True

    def _advance(self, now: float) -> None:
        self.now = now
        while self.parked and self.parked[0][0] <= now:
            self.due.append(heapq.heappop(self.parked)[1])

    def _adjust(self) -> None:
        """Once a second, as the dispatcher does."""
        interval = self.now - self.adjusted
        if interval < 1.0:
            return
        arrived = bisect_right(self.arrivals, self.now, key=lambda arrival: arrival[1])
        waiting = len(self.due) + arrived
        clear = self.bucket.ready_at(self.now) - self.now
        backlog = clear + max(0, waiting - 1) / self.bucket.limit.rate
        self.stretch = next_stretch(
            self.stretch, backlog_seconds=backlog, day_left=self.bucket.left_today(), interval=interval
        )
        self.highest = max(self.highest, self.stretch)
        self.adjusted = self.now

    def _submit(self, response: int) -> None:
        self.submitted[response] = self.last_submit = self.now
        self._park(response)

    def _look(self, response: int) -> None:
        self.polls[response] += 1
        began, duration = self.submitted[response], self.durations[response]
        lag = self.now - began - duration
        if lag >= 0:
            self.lags.append(lag)
            self.policy.learn(float(int(began + duration) - int(began)), float(int(began)))
        elif self.now - began >= self.timeout:
            self.expired += 1
        else:
            self._park(response)

    def _park(self, response: int) -> None:
        elapsed = self.now - self.submitted[response]
        wait = Wait(elapsed, self.timeout - elapsed, self.polls[response], self.expected)
        delay = next_delay(self.policy.schedule, wait, random=self.random.random, stretch=self.stretch)
        heapq.heappush(self.parked, (self.now + delay, response))

    def result(self, price: float, best_cost: float) -> Result:
        """Return the account of the whole run."""
        done, span = len(self.lags), max(self.now, 1e-9)
        lags = sorted(self.lags) or [math.nan]
        polls, lag = sum(self.polls) / len(self.polls), sum(lags) / len(lags)
        return Result(
            responses=done,
            expired=self.expired,
            seconds=self.now,
            polls=polls,
            lag=lag,
            lag_p50=lags[len(lags) // 2],
            lag_p95=lags[int(0.95 * len(lags))],
            requests=1.0 + polls,
            per_hour=done / span * 3600.0,
            per_day=done / span * 86_400.0,
            limit_used=self._limit_used(),
            busiest_minute=_most_within(self.sent, 60.0),
            busiest_day=_most_within(self.sent, 86_400.0),
            cost=lag + price * polls,
            price=price,
            best_cost=best_cost,
            stretch=self.highest,
        )

    def _limit_used(self) -> float | None:
        """Of what might have left up to the last submit; in whole days, where the run has any."""
        limit, span = self.bucket.limit, self.last_submit
        days = math.floor(span / 86_400.0) if limit.per_day else 0
        if days:
            return bisect_right(self.sent, days * 86_400.0) / (days * limit.per_day)
        allowed = min(limit.at_once + span * limit.rate, limit.per_day or math.inf)
        return bisect_right(self.sent, span) / allowed if span > 0 and allowed < math.inf else None


def _arrivals(count: int, per_hour: float, random: Random) -> Iterable[float]:
    now = 0.0
    for _ in range(count):
        yield now
        now += random.expovariate(per_hour / 3600.0) if math.isfinite(per_hour) else 0.0


def _most_within(moments: Sequence[float], window: float) -> int:
    first = most = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - window:
            first += 1
        most = max(most, last - first + 1)
    return most
