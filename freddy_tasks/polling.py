"""What to do next for a response: pure, total decisions.

Each takes what was seen, and answers with a value that somebody else carries out. `now` is the state
server's time in Unix seconds; `random` draws uniformly from 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import assert_never

from . import outcomes
from .errors import (
    FreddyError,
    OutcomeUnknown,
    ResponseExpired,
    ResponseTimeout,
    ServiceUnavailable,
)
from .models import CallFailed, FailureKind, Job, Response, Seen, Status
from .redaction import one_word
from .retries import backoff
from .schedules import Schedule, Wait, jittered

RETENTION = 86_400.0  # seconds the API keeps a response, counted from its creation
MOST_RESUBMITS = 10  # of one prompt, under the policy that repeats a submit whose outcome is unknown
MISSING_PAUSE = 2.0  # longest pause between two looks for a response the API does not know yet, in seconds


class After(Enum):
    """What becomes of a response that failed, once Celery has the failure."""

    NOTHING = "nothing"
    RESUMABLE = "resumable"  # a person may take it up again
    CANCEL = "cancel"  # it may still run: cancel it at the API


@dataclass(frozen=True, slots=True)
class Policy:
    """The deployment's choices that bear on a decision."""

    missing_grace: float = 20.0  # seconds
    resubmit: bool = False  # repeat a submit whose outcome is unknown


@dataclass(frozen=True, slots=True)
class PollAgain:
    """Look again in `delay` seconds."""

    job: Job
    delay: float


@dataclass(frozen=True, slots=True)
class SubmitAgain:
    """Nothing was accepted: submit in `delay` seconds."""

    job: Job
    delay: float


@dataclass(frozen=True, slots=True)
class Complete:
    """The answer is there."""

    job: Job
    response: Response


@dataclass(frozen=True, slots=True)
class Fail:
    """There will be no answer here; `after` says what may still be done about it."""

    job: Job
    error: FreddyError
    after: After = After.NOTHING


@dataclass(frozen=True, slots=True)
class CancelAgain:
    """The API has not settled the cancel: go on in `delay` seconds."""

    job: Job
    delay: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nothing more runs at the API, or nothing more can be done about it; `note` says which."""

    note: str


Decision = PollAgain | SubmitAgain | Complete | Fail


def decide(
    job: Job,
    seen: Seen,
    schedule: Schedule,
    now: float,
    random: Callable[[], float],
    policy: Policy,
    *,
    retry_in: float | None = None,
    stretch: float = 1.0,
) -> Decision:
    """What follows a look at a response; `retry_in` is the server's own word on when to call again."""
    if isinstance(seen, CallFailed):
        return _after_failed_look(job, seen, now, random, policy, retry_in)
    job = _observed(replace(job, polls=job.polls + 1), seen, now)
    if seen.terminal:
        return _terminal(job, seen)
    return _look_again(job, schedule, now, random, stretch)


def decide_submit(
    job: Job,
    seen: Seen,
    schedule: Schedule,
    now: float,
    random: Callable[[], float],
    policy: Policy,
    *,
    retry_in: float | None = None,
    stretch: float = 1.0,
) -> Decision:
    """What follows a submit; a response without an id counts as an unknown outcome."""
    if isinstance(seen, CallFailed):
        return _after_failed_submit(job, seen, now, random, policy, retry_in)
    if seen.terminal:
        return _terminal(replace(job, response_id=seen.id or "", submitted_at=now, status=seen.status), seen)
    if not seen.id:
        unusable = CallFailed(FailureKind.TRANSIENT, "the reply had no id")
        return _after_failed_submit(job, unusable, now, random, policy, retry_in)
    job = _observed(replace(job, response_id=seen.id, submitted_at=now), seen, now)
    return _look_again(job, schedule, now, random, stretch)


def decide_cancel(job: Job, seen: Seen, now: float, random: Callable[[], float]) -> CancelAgain | Cancelled:
    """What follows a call about a response that shall be cancelled."""
    if isinstance(seen, Response):
        if seen.terminal:
            return Cancelled(f"ended as {seen.word}")
        job = replace(job, failures=job.failures + 1)
        return _cancel_again(job, now, random, "still runs")
    match seen.kind:
        case FailureKind.NOT_FOUND | FailureKind.GONE:
            return Cancelled("is not known to the API any more")
        case FailureKind.UNSUPPORTED | FailureKind.REFUSED:
            return Cancelled(f"could not be cancelled: {seen.message}")
        case _:
            job = replace(job, failures=job.failures + 1)
            return _cancel_again(job, now, random, seen.message)


def cancels_next(job: Job) -> bool:
    """True when the next call for a job to be cancelled is the cancel, False when it is a look.

    A cancel that is refused is followed by a look, as the response may have ended by itself.
    """
    return job.failures % 2 == 0


def unanswered(job: Job) -> Fail:
    """The failure of a response whose deadline passed."""
    return Fail(
        job,
        ResponseTimeout.because(
            "The response was not finished at its deadline and is being cancelled; raise `timeout` "
            "or FREDDY_TIMEOUT to wait longer.",
            response_id=job.response_id or None,
            status=job.status.value,
            polls=job.polls,
        ),
        After.CANCEL,
    )


def unsent(job: Job) -> Fail:
    """The failure of a prompt that found no free request of the plan, or no API, until its deadline.

    Its outcome is unknown all the same when an earlier submit of it may have been accepted.
    """
    if job.unknown_submits:
        never = CallFailed(FailureKind.UNSENT, "it could not be sent again before its deadline")
        return Fail(job, _unknown(never), After.RESUMABLE)
    return Fail(
        job,
        ServiceUnavailable.because(
            "The prompt was not submitted in time, and costs nothing: no request of the plan came free, "
            "the API did not accept one, or the broker refused its message, until the deadline. Call again."
        ),
    )


def _observed(job: Job, seen: Response, now: float) -> Job:
    running, unknown = seen.status is Status.IN_PROGRESS, seen.status is Status.UNKNOWN
    return replace(
        job,
        status=job.status if unknown else seen.status,
        unknown_word=one_word(seen.word) or "several words" if unknown else job.unknown_word,
        failures=0,
        missing_since=None,
        started_at=now if running and job.started_at is None else job.started_at,
        progress=seen.progress,
    )


def _terminal(job: Job, seen: Response) -> Complete | Fail:
    if seen.status is Status.COMPLETED:
        return Complete(job, seen)
    return Fail(job, outcomes.error_for(seen))


def _look_again(
    job: Job, schedule: Schedule, now: float, random: Callable[[], float], stretch: float
) -> PollAgain | Fail:
    if now >= job.deadline:
        return unanswered(job)
    wait = Wait(
        elapsed=max(0.0, now - job.submitted_at),
        remaining=job.deadline - now,
        polls=job.polls,
        expected=job.expected,
        started=None if job.started_at is None else max(0.0, now - job.started_at),
        progress=job.progress,
    )
    return PollAgain(job, min(jittered(schedule.delay(wait, stretch), random()), job.deadline - now))


def _after_failed_look(
    job: Job,
    seen: CallFailed,
    now: float,
    random: Callable[[], float],
    policy: Policy,
    retry_in: float | None,
) -> PollAgain | Fail:
    error = outcomes.error_for_call(seen, response_id=job.response_id, submitting=False)
    resumable = Fail(job, type(error)(error.message, {**error.info, "resumable": True}), After.RESUMABLE)
    match seen.kind:
        case FailureKind.TRANSIENT | FailureKind.UNSENT | FailureKind.RATE_LIMITED | FailureKind.CONFLICT:
            if now >= job.deadline:
                return resumable
            job = replace(job, failures=job.failures + 1, missing_since=None)
            return PollAgain(job, _pause(job, now, random, retry_in))
        case FailureKind.NOT_FOUND:
            return _missing(job, seen, error, now, random, policy)
        case FailureKind.GONE:
            return Fail(job, error)
        case FailureKind.SPENDING_LIMIT | FailureKind.DENIED | FailureKind.UNSUPPORTED | FailureKind.REFUSED:
            return resumable
        case _:
            assert_never(seen.kind)


def _missing(
    job: Job,
    seen: CallFailed,
    error: FreddyError,
    now: float,
    random: Callable[[], float],
    policy: Policy,
) -> PollAgain | Fail:
    since = now if job.missing_since is None else job.missing_since
    if now - job.submitted_at > RETENTION:
        return Fail(
            job,
            ResponseExpired.because(
                "The API keeps a response for 24 hours, and they have passed: submit the prompt again.",
                response_id=job.response_id,
                status=Status.EXPIRED.value,
                http_status=seen.http_status,
                request_id=seen.request_id,
            ),
        )
    if now - since >= policy.missing_grace or now >= job.deadline:
        return Fail(job, error)
    job = replace(job, failures=job.failures + 1, missing_since=since)
    return PollAgain(job, min(backoff(job.failures, random, most=MISSING_PAUSE), job.deadline - now))


def _after_failed_submit(
    job: Job,
    seen: CallFailed,
    now: float,
    random: Callable[[], float],
    policy: Policy,
    retry_in: float | None,
) -> SubmitAgain | Fail:
    again = replace(job, failures=job.failures + 1)
    match seen.kind:
        case FailureKind.UNSENT | FailureKind.RATE_LIMITED:
            if now >= job.deadline:
                return unsent(job)
            return SubmitAgain(again, _pause(again, now, random, retry_in))
        case FailureKind.TRANSIENT | FailureKind.CONFLICT:
            again = replace(again, unknown_submits=job.unknown_submits + 1)
            if policy.resubmit and again.unknown_submits <= MOST_RESUBMITS and now < job.deadline:
                return SubmitAgain(again, _pause(again, now, random, retry_in))
            return Fail(again, _unknown(seen), After.RESUMABLE)
        case _ if job.unknown_submits:  # this one was refused, but an earlier one may have been accepted
            return Fail(job, _unknown(seen), After.RESUMABLE)
        case _:
            return Fail(job, outcomes.error_for_call(seen, submitting=True))


def _unknown(seen: CallFailed) -> OutcomeUnknown:
    return OutcomeUnknown.because(
        "The prompt was sent, but whether the API accepted it is unknown, and it has no way to ask "
        f"({seen.message}). Decide with `freddy-tasks reconcile`: submit again, or give up.",
        code=seen.code,
        http_status=seen.http_status,
        request_id=seen.request_id,
        resumable=True,
    )


def _pause(job: Job, now: float, random: Callable[[], float], retry_in: float | None) -> float:
    delay = backoff(job.failures, random)
    if retry_in is not None and retry_in > 0:
        delay = jittered(retry_in, 0.5 + random() / 2)  # never before the moment the server named
    return max(0.0, min(delay, job.deadline - now))


def _cancel_again(job: Job, now: float, random: Callable[[], float], why: str) -> CancelAgain | Cancelled:
    if now > job.deadline + RETENTION / 24:
        return Cancelled(f"was given up, long past its deadline: {why}")
    return CancelAgain(job, backoff(job.failures, random))
