"""What is remembered of a class of responses, and which of it may be believed.

A class is the responses of one model and label. Their durations are exact (the service's own two times), so
nothing is censored by how we polled.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from operator import attrgetter
from random import Random
from typing import Self

from .fitting import changed_at, fit

KEPT = 50
"""Responses remembered of a class."""

MEMORY = 8.0
"""Medians of time over which a response fades from the sample, where more come than it holds."""

SETTLED = 1.94
"""Spreads above the median, on the log scale, by which 95 of 100 responses have finished."""

YOUNG = 4.0
"""Medians of age below which a class may be known by its quick responses alone.

Of a log-normal cut off at four of the medians that are left of it, 95 in 100 are there up to a spread of 0.8.
"""

LONGEST = 1e9
"""A wait longer than this, s, is a clock gone wrong."""


@dataclass(frozen=True, slots=True)
class Past:
    """One finished response of a class."""

    submitted: float  # Unix seconds by the service's clock
    duration: float  # s from submitted to finished
    ran: float | None = None  # s from started to finished, where the service says when it started
    luck: float = 0.0  # drawn once, extreme-value distributed: which of many that came together are kept


IN_ORDER = attrgetter("submitted", "luck")
"""By submit; those submitted together in no order that their durations would know of."""


@dataclass(frozen=True, slots=True)
class History:
    """A sample of the newest responses of a class, at most `KEPT`, in the order they were submitted.

    Two traps of looking back. Of responses submitted together the quick ones finish first, so that what is
    known early is all too short: only a response that most of its contemporaries have had the time to finish
    with is `settled` and counts. And where many come at once, the newest few to finish are all alike: so the
    sample is drawn at random, the younger the likelier, over some medians of time.
    """

    past: tuple[Past, ...] = ()
    seen: int = 0  # responses ever added

    @classmethod
    def empty(cls) -> Self:
        """The history of a class nothing is known of."""
        return cls()

    def add(self, duration: float, *, submitted_at: float | None = None, ran: float | None = None) -> Self:
        """Return the history with one more response, which took `duration` seconds, `ran` of them running.

        `submitted_at` is the service's `created_at`; without it, the response is taken to have been
        submitted when the last one finished. What is no number or negative is not counted. When the newest
        settled durations have left the others behind, those are forgotten.
        """
        moment = self._now if submitted_at is None else submitted_at
        if not (_counts(duration) and math.isfinite(moment)):
            return self
        known = ran if ran is not None and _counts(ran) else None
        luck = -math.log(max(Random(self.seen).expovariate(1.0), 1e-9))  # noqa: S311  # a sample, no secret
        newest = Past(moment, round(duration, 3), known, round(luck, 3))
        past = sorted((*self.past, newest), key=IN_ORDER)
        if len(past) > KEPT:
            memory = MEMORY * fit(tuple(item.duration for item in past)).median
            past.remove(min(past, key=lambda item: item.submitted / memory + item.luck))
        grown = replace(self, past=tuple(past), seen=self.seen + 1)
        return replace(grown, past=grown.past[changed_at(grown.settled) :])

    @property
    def settled(self) -> tuple[float, ...]:
        """Durations in seconds, of responses old enough that nearly all submitted with them have finished."""
        return tuple(item.duration for item in self._settled())

    @property
    def runs(self) -> tuple[float, ...]:
        """Seconds from started to finished of the settled responses that say when they started."""
        return tuple(item.ran for item in self._settled() if item.ran is not None)

    @property
    def longest(self) -> float:
        """The longest duration known, in seconds; 0 without any."""
        return max((item.duration for item in self.past), default=0.0)

    @property
    def span(self) -> float:
        """Seconds from the first submit to the latest finish: a longer duration could not be known yet."""
        return self._now - self.past[0].submitted if self.past else 0.0

    @property
    def is_young(self) -> bool:
        """True where those known may all be the quick ones: the oldest is not `YOUNG` medians old."""
        return bool(self.past) and self.span < YOUNG * fit(tuple(item.duration for item in self.past)).median

    @property
    def _now(self) -> float:
        """The latest moment the history knows of."""
        return max((item.submitted + item.duration for item in self.past), default=0.0)

    def _settled(self) -> tuple[Past, ...]:
        if not self.past:
            return ()
        law = fit(tuple(item.duration for item in self.past))
        youngest = self._now - law.moment(SETTLED)
        return tuple(item for item in self.past if item.submitted <= youngest)

    def to_json(self) -> str:
        """Return the history as a short text for a state server."""
        past = [[item.submitted, item.duration, item.ran, item.luck] for item in self.past]
        return json.dumps({"seen": self.seen, "past": past}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes | None) -> Self:
        """Read `to_json` back; what cannot be read is an empty history, which is learned again."""
        try:
            value = json.loads(text or "{}")
            past = [
                Past(float(submitted), float(duration), None if ran is None else float(ran), float(luck))
                for submitted, duration, ran, luck in value.get("past", ())
            ]
            seen = int(value.get("seen", 0))
        except (ValueError, TypeError, AttributeError, OverflowError):
            return cls()
        if not all(_is_sound(item) for item in past):
            return cls()
        return cls(tuple(sorted(past, key=IN_ORDER)[-KEPT:]), seen)


def _is_sound(item: Past) -> bool:
    return (
        _counts(item.duration)
        and (item.ran is None or _counts(item.ran))
        and math.isfinite(item.submitted)
        and math.isfinite(item.luck)
    )


def _counts(duration: float) -> bool:
    return math.isfinite(duration) and 0 <= duration < LONGEST
