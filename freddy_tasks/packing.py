"""Which steps travel in one message: a message costs Celery more than a look at a response does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from .continuation import route_of
from .records import Hop, Phase

MOST = 20  # steps in one message: they run one after another
LARGEST = 64 * 1024  # characters of prompts in one message, unless a single one has more
WEIGHT = 0.2  # of the last one in the average
ROUNDS = 2  # messages for each slot that a pile is cut into

Parcel = tuple[Hop, ...]


def share(waiting: int, slots: int) -> int:
    """How many steps go into one message, of so many that wait, for so many slots.

    Few enough that no slot is still at work when the others have nothing left: guided self-scheduling, C. D.
    Polychronopoulos and D. J. Kuck, IEEE Transactions on Computers C-36 (1987), with a part of the pile for
    each slot `ROUNDS` times.
    """
    return max(1, min(MOST, math.ceil(waiting / (ROUNDS * max(1, slots)))))


def spread(due: int, free: int) -> int:
    """How many of the looks that are due go into one message: no slot is free while others wait in one."""
    return max(1, math.ceil(due / max(1, free)))


class Pace:
    """How long a step has taken of late: a moving average.

    Safe to share between threads: of two notes at one time one may be lost.
    """

    def __init__(self) -> None:
        self._seconds: float | None = None

    def note(self, seconds: float, steps: int = 1) -> None:
        """So many steps took so long together."""
        each = max(0.0, seconds) / steps
        before = each if self._seconds is None else self._seconds
        self._seconds = before + WEIGHT * (each - before)

    def steps_in(self, seconds: float) -> int:
        """How many may follow each other in one message within so long; one while nothing is known."""
        if self._seconds is None:
            return 1
        return max(1, min(MOST, int(seconds / max(self._seconds, 1e-6))))


def parcels(hops: Iterable[Hop], size: Callable[[Hop], int]) -> list[Parcel]:
    """Put steps that go the same way together, as many as `size` says of each; those with 1 travel alone.

    Steps stay in their order, and parcels are in the order of their first steps.
    """
    made: list[list[Hop]] = []
    open_ones: dict[tuple[object, ...], list[Hop]] = {}
    for hop in hops:
        if (most := size(hop)) == 1:
            made.append([hop])
            continue
        place = (is_submit(hop), *route_of(hop.options).values())
        parcel = open_ones.get(place)
        if parcel is None or not _has_room(parcel, hop, most):
            parcel = open_ones[place] = []
            made.append(parcel)
        parcel.append(hop)
    return [tuple(parcel) for parcel in made]


def is_submit(hop: Hop) -> bool:
    """Whether the step is a prompt's, and not a look at its response."""
    return hop.phase in {Phase.QUEUED, Phase.SENT}


def _has_room(parcel: list[Hop], hop: Hop, most: int) -> bool:
    return len(parcel) < most and sum(one.size for one in parcel) + hop.size <= LARGEST
