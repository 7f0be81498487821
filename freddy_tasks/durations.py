"""How long responses take, for a simulation: drawn from a law, or as they were measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Protocol

from .hazards import Grid, LogT

GRID = 200
"""Points at which a law without a formula is known."""


class Law(Protocol):
    """How long responses take: something to draw from, and something to compute with."""

    def sample(self, random: Random) -> float:
        """Return one duration in seconds."""
        ...

    def grid(self) -> Grid:
        """Return times and the share of responses unfinished at each."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Durations anywhere between two, in seconds; the same one twice is a fixed duration."""

    least: float
    most: float

    def sample(self, random: Random) -> float:
        """Return one duration in seconds."""
        return random.uniform(self.least, self.most)

    def grid(self) -> Grid:
        """Return times and the share of responses unfinished at each."""
        width = max(self.most - self.least, 1e-6 * self.most)
        shares = [step / GRID for step in range(GRID + 1)]
        first = () if self.least == 0 else (0.0,)
        times = (*first, *(self.least + width * share for share in shares))
        return times, (*(1.0 for _ in first), *(1.0 - share for share in shares))


@dataclass(frozen=True, slots=True)
class Trace:
    """Durations that were measured, in seconds; one or more."""

    durations: tuple[float, ...]
    arrivals: tuple[float, ...] | None = None  # s from the first one's submit, rising; None: unknown

    def __post_init__(self) -> None:
        if not self.durations:
            raise ValueError("trace: no line has a duration")

    def sample(self, random: Random) -> float:
        """Return one of the durations."""
        return random.choice(self.durations)

    def grid(self) -> Grid:
        """Return times and the share of responses unfinished at each.

        At most `GRID` of the durations are taken, and the law as straight between them: the best looks for
        a law must not be the best for the accidents of a sample.
        """
        count = len(self.durations)
        rising = sorted(self.durations)
        # None is quicker than the quickest: without the second point a fixed duration would be a spread one.
        alive = {0.0: 1.0, max(rising[0], 1e-3) * (1.0 - 1e-6): 1.0}
        for step in range(1, min(count, GRID) + 1):
            place = math.ceil(step * count / min(count, GRID)) - 1
            alive[max(rising[place], 1e-3)] = 1.0 - (place + 1) / count
        return tuple(alive), tuple(alive.values())


def parse_distribution(text: str) -> Law:
    """Read `lognormal:median,spread`, `logt:median,spread,freedom`, `fixed:seconds` or `uniform:least,most`.

    Raises ValueError with what is wrong.
    """
    name, numbers = parsed(text)
    match name, numbers:
        case "lognormal", (median, spread) if median > 0 and spread > 0:
            return LogT(median, spread)
        case "logt", (median, spread, freedom) if median > 0 and spread > 0 and freedom >= 1:
            return LogT(median, spread, freedom)
        case "fixed", (seconds,) if seconds > 0:
            return Uniform(seconds, seconds)
        case "uniform", (least, most) if 0 <= least < most:
            return Uniform(least, most)
    raise ValueError(
        f"durations {text!r}: write lognormal:90,0.5 or logt:90,0.5,3 or fixed:20 or uniform:10,30"
    )


def parsed(text: str) -> tuple[str, tuple[float, ...]]:
    """Return the name and the numbers of `name:number,...`; no name where they are not finite numbers."""
    name, _, rest = text.partition(":")
    try:
        numbers = tuple(float(part) for part in rest.split(",")) if rest else ()
    except ValueError:
        return "", ()
    return (name, numbers) if all(math.isfinite(number) for number in numbers) else ("", ())


def read_trace(lines: Iterable[str]) -> Trace:
    """Read durations from JSON lines that have a `duration`, or else `created_at` and `completed_at`.

    Seconds, Unix seconds, or ISO 8601 moments (UTC where no zone is given). Lines without them are passed
    over, and those of cancelled responses, which would have taken longer. Where every other line has
    `created_at`, the trace is in that order and knows its arrivals. Raises ValueError naming the line that is
    not a JSON object or has another thing as a time, and for no duration at all.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ValueError(f"trace: line {number} is not a JSON object")  # noqa: TRY004  # text, not a type
        if value.get("status") in {"cancelled", "canceled"}:
            continue
        try:
            began, duration = _times(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"trace: line {number}: {error}") from None
        if duration is not None:
            found.append((began, duration))
    moments = [began for began, _ in found if began is not None]
    if not moments or len(moments) < len(found):
        return Trace(tuple(duration for _, duration in found))
    first = min(moments)
    rising = sorted((began - first, duration) for began, duration in found if began is not None)
    return Trace(tuple(duration for _, duration in rising), tuple(began for began, _ in rising))


def _times(value: dict[str, Any]) -> tuple[float | None, float | None]:
    """When a response was submitted and how long it took, as far as it says so."""
    began, ended = _moment(value, "created_at"), _moment(value, "completed_at")
    duration = None if began is None or ended is None else ended - began
    if value.get("duration") is not None:
        duration = _number(value["duration"], "duration")
    if duration is not None and duration < 0:
        raise ValueError("the response took less than no time")
    return began, duration


def _moment(value: dict[str, Any], name: str) -> float | None:
    given = value.get(name)
    if not isinstance(given, str):
        return None if given is None else _number(given, name)
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise ValueError(f"`{name}` is neither Unix seconds nor an ISO 8601 moment") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(given: object, name: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError(f"`{name}` is no number of seconds")
    return float(given)
