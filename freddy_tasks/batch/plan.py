"""What the plan still allows, and how long a number of requests takes under it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from freddy_tasks.budget import Budget

SLOT, SLOTS, DAY = 900, 96, 86_400  # seconds, slots, seconds: as in lua/budget.lua


@dataclass(frozen=True, slots=True)
class Room:
    """What one key may still ask of the API. `math.inf` stands for no limit."""

    at_once: float  # requests that may leave now
    per_second: float
    today: float  # requests left of the last 24 hours' allowance
    per_day: float

    @property
    def is_limited(self) -> bool:
        """False when the plan sets no limit at all."""
        return self.per_second < math.inf or self.per_day < math.inf

    def seconds_for(self, requests: float) -> float:
        """The least time that `requests` take, by the rate of the minute and by that of the day.

        With n requests, b at once, r a second: (n - b) / r. Beyond today's rest each further day's allowance
        takes a day, the last one as much of it as its share at rate r.
        """
        by_minute = max(0.0, requests - self.at_once) / self.per_second
        beyond = requests - self.today
        if beyond <= 0:
            return by_minute
        whole_days = math.ceil(beyond / self.per_day)
        rest = beyond - (whole_days - 1) * self.per_day
        return max(by_minute, whole_days * DAY + rest / self.per_second)


FREE = Room(math.inf, math.inf, math.inf, math.inf)


def untouched(budget: Budget) -> Room:
    """The room of a key that has made no request yet."""
    per_second, at_once, per_day = budget.limits
    return Room(
        at_once=at_once if per_second else math.inf,
        per_second=per_second or math.inf,
        today=per_day or math.inf,
        per_day=per_day or math.inf,
    )


def room(redis: Any, budget: Budget) -> Room:
    """The room of a key at this moment, as the shared budget has it.

    Raises `redis.exceptions.RedisError` when the state server cannot be reached.
    """
    with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hmget(budget.keys[0], "tokens", "updated", "paused_until", "rate")
        pipe.hgetall(budget.keys[1])
        (seconds, micros), (tokens, updated, paused_until, rate), slots = pipe.execute()
    now = seconds + micros / 1e6
    full = untouched(budget)
    per_second = min(full.per_second, float(rate)) if rate else full.per_second
    at_once = full.at_once
    if tokens is not None and per_second < math.inf:
        at_once = min(full.at_once, float(tokens) + max(0.0, now - float(updated)) * per_second)
    if paused_until and float(paused_until) > now:
        at_once = 0.0
    spent = sum(int(count) for slot, count in slots.items() if int(slot) >= now // SLOT - SLOTS)
    today = max(0.0, full.per_day - spent)
    return Room(max(0.0, min(at_once, today)), per_second, today, full.per_day)
