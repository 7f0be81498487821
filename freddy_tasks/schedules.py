"""When to look at an unfinished response: the question, the documented tiers, the rules of every pause.

Pure: seconds in, seconds out; no clock and no I/O, and the one random number is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

FLOOR = 0.5
"""Shortest pause between two looks, s."""

CEILING = 86_400.0
"""Longest pause between two looks, s: a response is kept for a day."""

MAX_STRETCH = 1_600.0
"""Largest factor by which a binding budget may raise the price of a poll; pauses grow by its root."""

JITTER = 0.05
"""Share by which a pause is moved either way, so that a batch does not poll in step."""


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


def next_delay(schedule: Schedule, wait: Wait, *, random: Callable[[], float], stretch: float = 1.0) -> float:
    """Return seconds until the next look, moved by up to `JITTER` of itself; `random` is uniform in 0..1.

    At least `FLOOR`, and past the deadline by no more than that.
    """
    return bounded(jittered(schedule.delay(wait, stretch), random()), wait.remaining)


LENGTHS = {"short": 15.0, "medium": 120.0, "long": 600.0}
"""A caller's words for how long a job takes, in seconds: one inside each documented band."""


def expected_seconds(expected: float | str | None) -> float | None:
    """Return a caller's estimate in seconds: a number above 0, or `short`, `medium`, `long`.

    Raises ValueError for anything else.
    """
    if expected is None:
        return None
    if isinstance(expected, str):
        if expected not in LENGTHS:
            raise ValueError(f"expected {expected!r}: give seconds, or one of {', '.join(LENGTHS)}")
        return LENGTHS[expected]
    if not 0 < expected < math.inf:
        raise ValueError(f"expected {expected!r}: give seconds above 0")
    return float(expected)


@dataclass(frozen=True, slots=True)
class Band:
    """One pause, for all jobs shorter than `until`."""

    until: float  # s of job length; the last band's is infinite
    pause: float  # s


@dataclass(frozen=True, slots=True)
class Tiers:
    """The service's own advice: a pause by the length of the job.

    The length is the caller's estimate, or the time already gone by where that is longer. The defaults
    are the middles of the documented bands: 2-3 s for jobs under 30 s, 5-10 s under 5 min, 30-60 s above.

    Raises ValueError unless the bands rise to infinity and each pause is positive.
    """

    bands: tuple[Band, ...] = (Band(30.0, 2.5), Band(300.0, 7.5), Band(math.inf, 45.0))

    def __post_init__(self) -> None:
        ends = [band.until for band in self.bands]
        if not ends or ends != sorted(set(ends)) or ends[-1] != math.inf or ends[0] <= 0:
            raise ValueError("tiers: give bands of rising length, the last one with `inf`")
        if not all(0 < band.pause < math.inf for band in self.bands):
            raise ValueError("tiers: each band needs a pause above 0 seconds")

    def pause(self, length: float) -> float:
        """Return the pause, in seconds, for a job of this length."""
        return next((band.pause for band in self.bands if length < band.until), self.bands[-1].pause)

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Return the pause of the job's band, wider by the root of `stretch`.

        The root is how the best schedule answers a dearer poll: density of looks ~ 1/sqrt(price). But no
        wider than twice the caller's estimate, by when nearly all have finished, or, from the second look
        on, twice the time gone by: however dear a poll is, nobody waits for three times the duration.
        """
        estimate = wait.expected or 0.0
        pause = self.pause(max(wait.elapsed, estimate))
        length = max(estimate, wait.elapsed) if wait.polls > 0 else estimate
        most = max(pause, 2.0 * length) if length > 0 else CEILING
        return bounded(min(pause * math.sqrt(sane_stretch(stretch)), most), wait.remaining)

    def __str__(self) -> str:
        """The text `parse_tiers` reads."""
        return ",".join(f"{band.until:g}:{band.pause:g}" for band in self.bands)


def parse_tiers(text: str) -> Tiers:
    """Read tiers from `until:pause,...` in seconds, as in `30:2.5,300:7.5,inf:45`.

    Raises ValueError with what is wrong.
    """
    try:
        pairs = [tuple(float(part) for part in band.split(":")) for band in text.split(",")]
        bands = tuple(Band(until, pause) for until, pause in pairs)
    except ValueError:
        # The text is not repeated: it may be a key that was put into the wrong variable.
        raise ValueError(f"is no list of tiers: write `until:pause,...`, as in `{Tiers()}`") from None
    return Tiers(bands)


def bounded(delay: float, remaining: float) -> float:
    """Return `delay` made finite, at least `FLOOR`, and else no longer than the `remaining` seconds."""
    wanted = CEILING if math.isnan(delay) else min(delay, CEILING)
    allowed = CEILING if math.isnan(remaining) else remaining
    return max(FLOOR, min(wanted, allowed))


def sane_stretch(stretch: float) -> float:
    """Return `stretch` within 1 and `MAX_STRETCH`; 1 for what is not a number."""
    return 1.0 if math.isnan(stretch) else min(max(stretch, 1.0), MAX_STRETCH)


def jittered(delay: float, random: float, share: float = JITTER) -> float:
    """Return `delay` moved by up to `share` of itself either way; `random` is in 0..1, 0.5 moves nothing."""
    return delay * (1.0 + share * (2.0 * random - 1.0))


EASE = 30.0
"""Backlog, s, that doubles every pause; three such, and pauses are four times as long."""

RESPONSE = 15.0
"""Seconds in which the price of a poll goes most of the way to where the backlog calls it."""

AMPLE = 0.5
"""Share of the day's requests left from which the day does not bear on the price."""


def next_stretch(
    stretch: float, *, backlog_seconds: float, day_left: float = 1.0, interval: float = 1.0
) -> float:
    """Return the price of a poll, as a multiple of the usual one, `interval` seconds after it was `stretch`.

    `backlog_seconds` is how long the requests that wait for room in the budget now will take to leave; 0
    when a request may leave at once. `day_left` is the share of the day's requests not spent yet. The answer
    is within 1 and `MAX_STRETCH`.

    One multiplier for all workers' polls is the best use of one shared limit (the Lagrange multiplier of the
    sum of their rates). The backlog adds up what is asked for above the limit, so that pauses in proportion
    to it (the price: to its square) come to rest; a price that is raised for as long as a line stands
    swings, for polls answer it a pause later. Below `AMPLE` polls also slow down in step with what is left
    of the day, so that they alone never use it up.
    """
    backlog = 0.0 if math.isnan(backlog_seconds) else min(max(backlog_seconds, 0.0), 1e6)
    left = 1.0 if math.isnan(day_left) else min(max(day_left, 0.01), AMPLE) / AMPLE
    called = sane_stretch(max((1.0 + backlog / EASE) ** 2, left**-2))
    before = sane_stretch(stretch)
    share = 1.0 if math.isnan(interval) else -math.expm1(-max(interval, 0.0) / RESPONSE)
    return sane_stretch(before * (called / before) ** share)
