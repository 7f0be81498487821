"""When to look at an unfinished response: the question, the documented tiers, the jitter.

Pure: seconds in, seconds out; no clock, no randomness, no I/O.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

FLOOR = 0.5
"""Shortest pause between two looks, s."""

CEILING = 86_400.0
"""Longest pause between two looks, s: a response is kept for a day."""

MAX_STRETCH = 1_000.0
"""Largest factor by which a binding budget may raise the price of a poll."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is known about an unfinished response at a look."""

    elapsed: float  # s since submit, by one clock
    remaining: float  # s to the deadline
    polls: int = 0  # looks made so far; 0: just submitted, choosing the first look
    expected: float | None = None  # the caller's estimate of the whole duration, s
    started: float | None = None  # s since it began to run, when the service says so
    progress: float | None = None  # share done, 0..1, when the service says so


class Schedule(Protocol):
    """Chooses the pause before the next look."""

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Return seconds until the next look, before jitter.

        `stretch` (1 and up) is how many times dearer than usual a poll is, because the request budget
        binds. The answer is finite for every input, at least `FLOOR`, and passes the deadline by no more
        than that.
        """
        ...


@dataclass(frozen=True, slots=True)
class Tiers:
    """The service's own advice: three pauses, by the length of the job.

    The length is the caller's estimate, or the time already gone by where that is longer. The defaults
    are the middles of the documented bands: 2-3 s for jobs under 30 s, 5-10 s under 5 min, 30-60 s above.
    """

    short: float = 2.5  # s
    medium: float = 7.5  # s
    long: float = 45.0  # s
    short_until: float = 30.0  # s of job length
    medium_until: float = 300.0  # s of job length

    def pause(self, length: float) -> float:
        """Return the documented pause, in seconds, for a job of this length."""
        if length < self.short_until:
            return self.short
        return self.medium if length < self.medium_until else self.long

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Return the pause of the job's band, wider by the root of `stretch`.

        The root is how the best schedule answers a dearer poll: density of looks ~ 1/sqrt(price).
        """
        length = max(wait.elapsed, wait.expected or 0.0)
        return bounded(self.pause(length) * math.sqrt(sane_stretch(stretch)), wait.remaining)


def bounded(delay: float, remaining: float) -> float:
    """Return `delay` made finite, at least `FLOOR`, and else no longer than the `remaining` seconds."""
    wanted = CEILING if math.isnan(delay) else min(delay, CEILING)
    allowed = CEILING if math.isnan(remaining) else remaining
    return max(FLOOR, min(wanted, allowed))


def sane_stretch(stretch: float) -> float:
    """Return `stretch` within 1 and `MAX_STRETCH`; 1 for what is not a number."""
    return 1.0 if math.isnan(stretch) else min(max(stretch, 1.0), MAX_STRETCH)


def jittered(delay: float, random: float, share: float = 0.05) -> float:
    """Return `delay` moved by up to `share` of itself either way, so that a batch does not poll in step.

    `random` is uniform in 0..1; 0.5 changes nothing.
    """
    return delay * (1.0 + share * (2.0 * random - 1.0))
