"""How long responses take, for a simulation: drawn from a law, or as they were measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
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
        alive = {0.0: 1.0}
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

    Seconds, Unix seconds, or ISO 8601 moments; lines without them are passed over. Raises ValueError for a
    line that is not a JSON object, and for no duration at all.
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
        duration = _duration(value)
        if duration is not None and 0 <= duration < math.inf:
            found.append(duration)
    return Trace(tuple(found))


def _duration(value: dict[str, Any]) -> float | None:
    try:
        if value.get("duration") is not None:
            return float(value["duration"])
        return _moment(value["completed_at"]) - _moment(value["created_at"])
    except (KeyError, TypeError, ValueError):
        return None


def _moment(value: float | str) -> float:
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(value)
