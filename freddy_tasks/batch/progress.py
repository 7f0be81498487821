"""Where a batch stands, in numbers. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .plan import Room


@dataclass(frozen=True, slots=True)
class Progress:
    """How many prompts of a batch stand where; the eight counts add up to `total`."""

    total: int
    waiting: int = 0  # not submitted yet
    queued: int = 0  # at the API
    in_progress: int = 0  # at the API
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    unknown: int = 0
    requests: int = 0  # of the plan: submits, and polls that were answered
    seconds_left: float | None = None  # an estimate; None before there is anything to go by

    @property
    def ended(self) -> int:
        """How many have an outcome."""
        return self.completed + self.failed + self.cancelled + self.unknown

    @property
    def done(self) -> bool:
        """True when all have an outcome."""
        return self.ended == self.total

    @property
    def share(self) -> float:
        """Part that has an outcome, 0 to 1; 1 for a batch of none."""
        return self.ended / self.total if self.total else 1.0


def seconds_left(progress: Progress, elapsed: float, room: Room) -> float | None:
    """How long the rest takes: at the pace so far, and at the plan's at the least.

    Each prompt not submitted yet takes two requests at the least, each other one its last poll. `elapsed` is
    in seconds since the start. None when nothing has ended and the plan sets no limit.
    """
    left = progress.total - progress.ended
    if not left:
        return 0.0
    by_plan = room.seconds_for(2 * progress.waiting + (left - progress.waiting))
    by_pace = left * elapsed / progress.ended if progress.ended else math.nan
    if math.isnan(by_pace):
        return by_plan if room.is_limited else None
    return max(by_plan, by_pace)
