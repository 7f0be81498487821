"""What a person sees on stderr while a batch runs."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from freddy_tasks.batch.plan import Room

LINE_EVERY = 10.0  # seconds between two plain lines
RATE_OVER = 60.0  # seconds that the rate is the mean of


@dataclass(frozen=True, slots=True)
class Position:
    """Where a batch stands."""

    total: int
    ended: int
    not_completed: int
    in_flight: int
    room: Room


class BatchDisplay(Protocol):
    """Shows how a batch goes on."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """Show a remark."""

    def show(self, position: Position) -> None:
        """Show where the batch stands."""


def batch_display(monotonic: Callable[[], float] = time.monotonic) -> BatchDisplay:
    """One that suits stderr."""
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    pace = Pace(monotonic)
    return BarDisplay(console, pace) if console.is_terminal else LineDisplay(console, pace)


@dataclass
class Pace:
    """How fast prompts end, over the last minute."""

    monotonic: Callable[[], float]
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def facts(self, position: Position) -> list[str]:
        """What is worth saying of a position, the rate and the estimated end among it."""
        now = self.monotonic()
        self._seen.append((now, position.ended))
        while self._seen[0][0] < now - RATE_OVER:
            self._seen.popleft()
        since, before = self._seen[0]
        rate = (position.ended - before) / (now - since) if now > since else 0.0
        return [
            *([f"{position.not_completed} without an answer"] if position.not_completed else []),
            f"{position.in_flight} in flight",
            *([f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"] if rate else []),
            *self._rest(position, rate),
            *_requests_left(position.room),
        ]

    def _rest(self, position: Position, rate: float) -> list[str]:
        left = position.total - position.ended
        if not left:
            return []
        # Two requests for each that is not at the API yet, one for each that is, at the least.
        by_plan = position.room.seconds_for(2 * left - min(left, position.in_flight))
        seconds = max(by_plan, left / rate if rate else 0.0)
        return [f"about {duration(seconds)} left"] if seconds else []


class LineDisplay:
    """A line at the start, every few seconds, and at the end."""

    def __init__(self, console: Console, pace: Pace) -> None:
        self._console = console
        self._pace = pace
        self._next = -math.inf
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Print a remark."""
        self._console.print(text)

    def show(self, position: Position) -> None:
        """Print a line when it is time for one, or all is done."""
        facts = self._pace.facts(position)
        done = position.ended == position.total
        if self._pace.monotonic() < self._next and not done:
            return
        self._next = self._pace.monotonic() + LINE_EVERY
        line = f"{position.ended}/{position.total} done, {', '.join(facts)}"
        if line != self._last:
            self._last = line
            self._console.print(line)


class BarDisplay:
    """A bar, kept up to date in place."""

    def __init__(self, console: Console, pace: Pace) -> None:
        self._progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False), console=console
        )
        self._pace = pace
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a remark above the bar."""
        self._progress.console.print(text)

    def show(self, position: Position) -> None:
        """Draw the bar anew."""
        self._progress.update(
            self._task,
            total=position.total,
            completed=position.ended,
            description=", ".join(self._pace.facts(position)),
        )


def duration(seconds: float) -> str:
    """A length of time in the two units that matter: `2 d 3 h`, `5 min 10 s`."""
    seconds = max(0, math.ceil(seconds))
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts = []
    for unit, length in units:
        amount, seconds = divmod(seconds, length)
        parts.append((amount, unit))
    first = next((place for place, (amount, _) in enumerate(parts) if amount), len(parts) - 1)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount) or "0 s"


def _requests_left(room: Room) -> list[str]:
    if room.today < math.inf:
        return [f"{room.today:.0f} requests left today"]
    return [f"{room.at_once:.0f} requests left this minute"] if room.at_once < math.inf else []
