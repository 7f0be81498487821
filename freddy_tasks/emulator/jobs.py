"""One response and its life: queued, in progress, ended. Pure; every moment is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal

from freddy_tasks.emulator.durations import AfterPolls

RUNNING = ("queued", "in_progress")

FAILURE = {
    "message": "The model could not finish this response.",
    "code": "model_error",
    "type": "server_error",
}
TIME_LIMIT = {
    "message": "Processing took longer than the service allows.",
    # No source names a status or a code for this: ours alone.
    "code": "emulator_time_limit",
    "type": "server_error",
}


@dataclass(frozen=True, slots=True)
class Life:
    """How a response will go; faults choose another than the plain one."""

    ending: str = "completed"
    """The status word it ends with."""
    stuck: Literal["queued", "in_progress"] | None = None
    """It never leaves this status."""
    error: object = field(default_factory=FAILURE.copy)
    """What the body of a failed response says."""
    names_error: bool = True
    """Whether that body has an `error` at all."""
    output: Literal["text", "empty", "absent"] = "text"
    """What a completed one brings: a message, an empty list, or nothing and no `usage`."""
    cancel_holds: bool = True
    """False: after `cancelled` it ends all the same."""


PLAIN = Life()
"""The life of a response nothing goes wrong with."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the emulator knows of one response. Moments are Unix seconds of its clock, exact.

    The prompt itself is not kept: fifty thousand of them must fit.
    """

    id: str
    ordinal: int
    """Number of the create that made it, from 1; refused ones do not count."""
    occurrence: int
    """How many creates came with this prompt, this one included. Chance goes by it and the digest."""
    digest: str
    """The prompt's SHA-256 in hex."""
    topic: str = field(repr=False)
    prompt_chars: int
    model: str
    thread_id: str
    created_at: float
    started_at: float | None = None
    """None: not known before a retrieve brings it about."""
    finished_at: float | None = None
    polls_needed: int | None = None
    """How many retrieves find it running; None when time decides."""
    reads: int = 0
    """Retrieves that got as far as its status."""
    polls: int = 0
    """Retrieves that arrived, lost and refused ones included."""
    cancels: int = 0
    """Cancels that arrived, likewise."""
    idempotency_key: str | None = field(default=None, repr=False)
    background: bool = True
    life: Life = PLAIN
    cancelled_at: float | None = None
    answer: str | None = field(default=None, repr=False)
    """The text, where it cannot be made again from topic and digest."""


def prompt_digest(prompt: str) -> str:
    """Return the SHA-256 of a prompt in hex."""
    return sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def with_pace(job: Job, pace: float | AfterPolls, queue_seconds: float, time_limit: float) -> Job:
    """Return the job with its start and end set, as far as they are known beforehand."""
    if isinstance(pace, AfterPolls):
        return replace(job, started_at=None, finished_at=None, polls_needed=pace.polls)
    started_at = job.created_at + min(queue_seconds, pace)
    timed = replace(job, started_at=started_at, finished_at=job.created_at + pace)
    return _overdue(timed, time_limit) if pace > time_limit else timed


def knocked(job: Job, method: str) -> Job:
    """Return the job after one more retrieve (GET) or cancel arrived, whatever becomes of it."""
    return replace(job, polls=job.polls + 1) if method == "GET" else replace(job, cancels=job.cancels + 1)


def read(job: Job, now: float, time_limit: float) -> Job:
    """Return the job after one more look at its status."""
    job, needed = replace(job, reads=job.reads + 1), job.polls_needed
    if needed is None or job.finished_at is not None:
        return job
    if now - job.created_at >= time_limit:
        return _overdue(job, time_limit)
    if job.started_at is None and (job.reads > 1 or needed <= 1):
        job = replace(job, started_at=now)
    return replace(job, finished_at=now) if job.reads > needed else job


def _overdue(job: Job, time_limit: float) -> Job:
    if job.life.stuck is not None:
        return job
    life = replace(job.life, ending="failed", error=TIME_LIMIT.copy(), names_error=True)
    started_at = job.created_at if job.started_at is None else job.started_at
    return replace(job, life=life, started_at=started_at, finished_at=job.created_at + time_limit)


def status_at(job: Job, now: float) -> str:
    """Return the status word the service would give at this moment."""
    natural = _natural_status(job, now)
    if job.cancelled_at is None:
        return natural
    return "cancelled" if job.life.cancel_holds or natural in RUNNING else natural


def _natural_status(job: Job, now: float) -> str:
    if job.life.stuck != "queued" and job.started_at is not None and now >= job.started_at:
        finished = job.life.stuck is None and job.finished_at is not None and now >= job.finished_at
        return job.life.ending if finished else "in_progress"
    return "queued"


def ended_at(job: Job, now: float) -> float | None:
    """Return the moment the response reached the end it has now; None while it runs."""
    status = status_at(job, now)
    if status in RUNNING:
        return None
    return job.cancelled_at if status == "cancelled" and job.cancelled_at is not None else job.finished_at


def can_cancel(job: Job, now: float, cancel_queued: bool) -> bool:
    """Tell whether a cancel is accepted now."""
    status = status_at(job, now)
    return status == "in_progress" or (cancel_queued and status == "queued")


def progress(job: Job, now: float) -> float:
    """Return how much of a running job is done, from 0 to 1."""
    if job.polls_needed is not None:
        return min(1.0, job.reads / (job.polls_needed + 1))
    if job.started_at is None or job.finished_at is None or now <= job.started_at:
        return 0.0
    return min(1.0, (now - job.started_at) / (job.finished_at - job.started_at))
