"""The plan's request limits: a token bucket for the minute, a rolling window for the day."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

DAY = 86_400.0
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to one request: admitted or not, and what the headers say about the plan."""

    admitted: bool
    limit: int
    remaining: int
    reset_after: float
    """Seconds until the whole burst is there again."""
    retry_after: float
    """Seconds until a request will be admitted; 0 when it was."""


class RequestLimit:
    """Admits requests: ``per_minute`` steadily, ``burst`` at once, ``per_day`` in any 24 hours.

    A ``burst`` of None is 120 % of ``per_minute``, a ``per_day`` of None no limit. Not locked: the
    caller holds the emulator's lock.
    """

    def __init__(self, per_minute: int, burst: int | None, per_day: int | None) -> None:
        self.per_minute = per_minute
        self.burst = per_minute * 6 // 5 if burst is None else burst
        self.per_day = per_day
        if self.per_minute < 1 or self.burst < 1 or (per_day is not None and per_day < 1):
            raise ValueError("per_minute, burst and per_day are at least 1; None means no limit")
        self._tokens = float(self.burst)
        self._refilled_at = -math.inf
        self._last_day: deque[float] = deque()

    def admit(self, now: float) -> Admission:
        """Take a token and a place in the day, or say when to come back; a refused request takes neither."""
        self._refill(now)
        wait = max(self._minute_wait(), self._day_wait(now))
        if wait == 0:
            self._take(now)
        return self._answer(wait)

    def _refill(self, now: float) -> None:
        gained = (now - self._refilled_at) * self.per_minute / MINUTE
        self._tokens = min(self.burst, self._tokens + gained)
        self._refilled_at = now

    def _minute_wait(self) -> float:
        # A hair under one token counts as one: sums of refills come out at 0.9999999.
        missing = 1 - 1e-6 - self._tokens
        return max(0.0, missing * MINUTE / self.per_minute)

    def _day_wait(self, now: float) -> float:
        if self.per_day is None:
            return 0.0
        while self._last_day and self._last_day[0] <= now - DAY:
            self._last_day.popleft()
        return self._last_day[0] + DAY - now if len(self._last_day) >= self.per_day else 0.0

    def _take(self, now: float) -> None:
        self._tokens -= 1
        if self.per_day is not None:
            self._last_day.append(now)

    def _answer(self, wait: float) -> Admission:
        left = self._tokens
        if self.per_day is not None:
            left = min(left, self.per_day - len(self._last_day))
        refill = (self.burst - self._tokens) * MINUTE / self.per_minute
        return Admission(wait == 0, self.per_minute, max(0, int(left + 1e-6)), refill, wait)
