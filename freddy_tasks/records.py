"""What the ledger answers with: where a response stands, and who may act for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .models import Job, Lane


class Phase(StrEnum):
    """What is to be done next for a response."""

    QUEUED = "queued"  # submit it
    SENT = "sent"  # its submit left, and no answer is on record
    WAITING = "waiting"  # poll it
    SETTLED = "settled"  # hand the kept outcome to Celery
    CANCELLING = "cancelling"  # cancel it at the API
    SUSPENDED = "suspended"  # nothing, until a person decides
    CLOSED = "closed"  # nothing any more
    CANCELLED = "cancelled"  # nothing: it was cancelled before it arrived here


@dataclass(frozen=True, slots=True)
class Held:
    """A claim that succeeded: the caller, and nobody else, acts for this task id until `lease` runs out."""

    task_id: str
    generation: int
    phase: Phase
    now: float  # Unix seconds by the state server's clock
    job: Job
    claimed_at: float = field(default=0.0, compare=False)  # seconds by this machine's monotonic clock
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the submit's args and kwargs
    outcome: Mapping[str, Any] | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    may_ask: bool = True  # False: the plan has no request left, and it acts without one
    cancelled: bool = False  # somebody asked to cancel it meanwhile
    recovered: bool = False  # an earlier hop of it was lost, or died, or only took long
    abandoned: bool = False  # Celery has an outcome already: only the API is still to be told
    stretch: float = 1.0  # price of a poll while the budget binds, as a multiple of the usual one
    confirmed: bool = True  # False: the replicas that must have the intent to submit may lack it


@dataclass(frozen=True, slots=True)
class Enlisted:
    """A prompt that lines up without a message of its own."""

    task_id: str
    job: Job
    timeout: float  # seconds
    whole: bool  # whether the timeout runs from now, and not from the submit
    options: Mapping[str, Any] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    delay: float = 0.0  # seconds before which it does not line up
    patience: float | None = None  # seconds within which it must have been sent; None: the longest there is


@dataclass(frozen=True, slots=True)
class LinedUp:
    """No request is free: the job waits in the waiting room for its turn."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """Not the caller's to act for; `phase` tells where it stands."""

    phase: Phase | None


@dataclass(frozen=True, slots=True)
class Gone:
    """The state server has no record of it."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Back in the waiting room."""

    due: float  # Unix seconds by the state server's clock
    phase: Phase
    confirmed: bool = True  # False: the replicas that must have its id may lack it


@dataclass(frozen=True, slots=True)
class Unsent:
    """Back in the waiting room, as if it had never been about to leave."""

    due: float  # Unix seconds by the state server's clock
    times: int  # that it has come back so


@dataclass(frozen=True, slots=True)
class Hop:
    """A job taken out of the waiting room, to be published."""

    task_id: str
    generation: int
    phase: Phase
    job: Job
    options: Mapping[str, Any] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    recovered: bool = False  # its last hop was lost, or died
    size: int = 0  # characters of `body` as JSON


@dataclass(frozen=True, slots=True)
class Popped:
    """What one look into the waiting room brought."""

    now: float
    hops: tuple[Hop, ...]
    wait: float | None  # seconds until there is something to do again; None: nothing waits
    lined_up: int  # jobs that wait for one of the plan's requests


@dataclass(frozen=True, slots=True)
class Record:
    """A response as the ledger knows it, for `status` and for lists."""

    task_id: str
    phase: Phase
    generation: int
    job: Job | None
    due: float | None
    suspended_at: float | None = None  # Unix seconds by the state server's clock, in lists of suspended ones


@dataclass(frozen=True, slots=True)
class Pressure:
    """How hard the budget binds."""

    stretch: Mapping[Lane, float]  # price of a poll now, as a multiple of the usual one
    backlog: Mapping[Lane, float]  # seconds until a request that lines up now would leave
    day_left: float  # share of the day's requests not spent yet
    interval: float  # seconds since the price was last set
