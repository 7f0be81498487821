"""One response's way through Celery: fetch, decide, act. The tasks are thin doors to this."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from celery import Task, states
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from redis.exceptions import RedisError

from . import answers, polling
from .continuation import context_of, generation_of, options_of
from .errors import FreddyError, LedgerLost, error_class
from .ledger import Fenced, Gone, Held, LinedUp, Phase
from .ledger import Parked as ParkedRecord
from .models import CallFailed, FailureKind, Job, Reply, Request, Response, Status
from .polling import After, Cancelled, Complete, Decision, Fail, PollAgain, SubmitAgain
from .runtime import Runtime, runtime_of

logger = logging.getLogger(__name__)

SETTLED = "freddy_settled"  # attribute of a task request: what kind of outcome the ledger keeps
FIRST_GENERATION = 1  # of the user's own message
HAND_OVER_TIME = 3_600.0  # seconds past the deadline for which an answer is offered to Celery again
ID_PATIENCE = 300.0  # seconds for which a worker tries to write the id of an accepted response
ID_PAUSE = 0.2  # seconds between two attempts
REQUEUE_PAUSE = 1.0  # seconds a submit waits when the state server is away, before its message goes back
_NAMESPACE = uuid.UUID("8e5d2f7c-9a0b-4f0e-9d0c-2f1c6a5b7d31")
_AFTER = {After.NOTHING: Phase.CLOSED, After.RESUMABLE: Phase.SUSPENDED, After.CANCEL: Phase.CANCELLING}
_TASK = Task[Any, Any]


class Parked(Ignore):
    """The task ends here and goes on later under its own id; `text` is what monitors show meanwhile.

    `due` is the moment of the next look, in Unix seconds; None when nobody knows it.
    """

    def __init__(self, text: str = "", due: float | None = None) -> None:
        super().__init__(text, due)
        self.text = text
        self.due = due


def submit(task: _TASK, request: Request, job: Job, timeout: float | None) -> Any:
    """Submit a prompt, or find out why not; returns only when the response is terminal already.

    `timeout` is in seconds for the whole; None allows the default from the moment the prompt is sent.
    """
    runtime = runtime_of(task.app)
    if task.request.is_eager or task.request.called_directly:
        return _run_here(runtime, request, job, timeout)
    try:
        held = _admit(runtime, task, job, timeout)
    except RedisError as error:
        logger.warning(
            "State server away; the prompt of task %s waits: %s", task.request.id, type(error).__name__
        )
        runtime.sleep(REQUEUE_PAUSE)
        raise Reject(type(error).__name__, requeue=True) from None
    if held.phase is Phase.SETTLED:
        return _hand_over(runtime, task, held)
    if _ended_by_celery(task, held):
        return _abandon(runtime, held)
    if held.phase is Phase.SENT:
        reply = Reply(CallFailed(FailureKind.TRANSIENT, "the worker that sent it died before it had a reply"))
    elif held.now >= held.job.deadline or not held.may_ask:
        return _carry_out(runtime, task, held, polling.unsent(held.job))
    else:
        reply = _heeded(runtime, runtime.client.create(request, idempotency_key(held.task_id)))
        _warn_if_background_was_ignored(held, reply)
    now = _now(runtime, held)
    decision = polling.decide_submit(
        held.job,
        reply.seen,
        runtime.schedule(held.job),
        now,
        runtime.random,
        runtime.policy,
        retry_in=_retry_in(runtime, reply),
        stretch=held.stretch,
    )
    return _carry_out(runtime, task, held, decision)


def poll(task: _TASK, generation: int) -> Any:
    """Look at a response once; returns or raises only when there is an outcome."""
    runtime = runtime_of(task.app)
    held = _claim(runtime, task, _id(task), generation)
    if held.phase is Phase.SETTLED:
        return _hand_over(runtime, task, held)
    if _ended_by_celery(task, held):
        return _abandon(runtime, held)
    if not held.may_ask:
        return _carry_out(runtime, task, held, polling.unanswered(held.job))
    reply = _heeded(runtime, runtime.client.retrieve(held.job.response_id))
    decision = polling.decide(
        held.job,
        reply.seen,
        runtime.schedule(held.job),
        _now(runtime, held),
        runtime.random,
        runtime.policy,
        retry_in=_retry_in(runtime, reply),
        stretch=held.stretch,
    )
    return _carry_out(runtime, task, held, decision)


def cancel(task: _TASK, task_id: str, generation: int) -> None:
    """End a cancelled response: for Celery at once, at the API until it is settled."""
    runtime = runtime_of(task.app)
    held = _claim(runtime, task, task_id, generation)
    if not held.abandoned:
        mark_revoked(task, task_id, held.options)
    if not held.job.response_id or not runtime.settings.cancel_remotely:
        _write(runtime.ledger.close, task_id, generation)
        return
    call = runtime.client.cancel if polling.cancels_next(held.job) else runtime.client.retrieve
    reply = _heeded(runtime, call(held.job.response_id))
    decision = polling.decide_cancel(held.job, reply.seen, _now(runtime, held), runtime.random)
    if isinstance(decision, Cancelled):
        _write(runtime.ledger.close, task_id, generation)
        logger.info("Response %s of task %s %s", held.job.response_id, task_id, decision.note)
    else:
        _write(runtime.ledger.park, held, Phase.CANCELLING, decision.job, decision.delay)


def close(task: _TASK, status: str) -> None:
    """Celery has stored an outcome; the ledger may let go of the one it kept, when they are the same."""
    settled = getattr(task.request, SETTLED, None)
    if settled != status:
        return
    generation = generation_of(task.request) or FIRST_GENERATION
    try:
        runtime_of(task.app).ledger.close(_id(task), generation)
    except RedisError as error:
        logger.warning(
            "State server away; task %s is closed after its lease: %s", _id(task), type(error).__name__
        )


def mark_revoked(task: _TASK, task_id: str, options: Mapping[str, Any]) -> None:
    """Give a cancelled task its terminal state, and count it for its chord, unless it has ended already."""
    if _state_of(task, task_id) in states.READY_STATES - {states.REVOKED}:
        return
    context = context_of(task_id, options)
    task.backend.mark_as_revoked(
        task_id, "cancelled", request=context, store_result=not context.ignore_result
    )


def idempotency_key(task_id: str) -> str:
    """The same for every submit of one task, and of no other."""
    return str(uuid.uuid5(_NAMESPACE, task_id))


def _admit(runtime: Runtime, task: _TASK, job: Job, timeout: float | None) -> Held:
    generation = generation_of(task.request)
    if generation is not None:
        return _claim(runtime, task, _id(task), generation)
    admitted = runtime.ledger.begin(
        _id(task),
        job,
        body={"args": task.request.args, "kwargs": task.request.kwargs},
        options=options_of(task),
        timeout=runtime.settings.timeout if timeout is None else timeout,
        whole=timeout is not None,
    )
    match admitted:
        case Held():
            return admitted
        case LinedUp():
            _show(task, Status.QUEUED, job, None)
            raise Parked("queued, waits for one of the plan's requests")
        case Fenced(Phase.CANCELLED):
            mark_revoked(task, _id(task), options_of(task))
            raise Ignore
        case Fenced():  # a redelivery: its response is on its way already
            raise Ignore


def _claim(runtime: Runtime, task: _TASK, task_id: str, generation: int) -> Held:
    try:
        claimed = runtime.ledger.claim(task_id, generation)
    except RedisError as error:
        logger.warning(
            "State server away; task %s comes back by its lease: %s", task_id, type(error).__name__
        )
        raise Ignore from None
    match claimed:
        case Held():
            return claimed
        case LinedUp():
            raise Parked("due, waits for one of the plan's requests")
        case Gone() if task.request.id == task_id and _state_of(task, task_id) not in states.READY_STATES:
            raise _ledger_lost(None)
        case _:  # stale, redelivered, cancelled, or ended
            raise Ignore


def _ledger_lost(job: Job | None) -> LedgerLost:
    return LedgerLost.because(
        "The state server has no record of this response any more: it was flushed, or evicts keys. "
        "Give the ledger a Redis with `noeviction` and an append-only file. The response may still "
        "run at the API.",
        response_id=(job and job.response_id) or None,
    )


def _id(task: _TASK) -> str:
    return str(task.request.id)


def _carry_out(runtime: Runtime, task: _TASK, held: Held, decision: Decision) -> Any:
    job = decision.job
    if job.unknown_word != held.job.unknown_word:
        logger.warning(
            "Response %s has a status that this version does not know: %s", job.response_id, job.unknown_word
        )
    match decision:
        case PollAgain(job, delay):
            return _park(runtime, task, held, Phase.WAITING, job, delay)
        case SubmitAgain(job, delay):
            return _park(runtime, task, held, Phase.QUEUED, job, delay)
        case Complete(job, response):
            runtime.experience.learn(job, response)
            result = answers.terminal_result(response, job.polls)
            return _settle(runtime, task, held, job, {"result": result}, Phase.CLOSED)
        case Fail(job, error, after):
            return _settle(runtime, task, held, job, _outcome_of(error, job), _AFTER[after])


def _park(runtime: Runtime, task: _TASK, held: Held, phase: Phase, job: Job, delay: float) -> NoReturn:
    now = _now(runtime, held)
    # Past its lease another hop may have ended the task already, and no state may follow its last one.
    shown = now < held.now + runtime.ledger.lease
    if shown:
        _show(task, job.status, job, now + delay)
    if job.response_id and not held.job.response_id:
        parked = _write_id(runtime, held, job, delay)
    else:
        parked = _write(runtime.ledger.park, held, phase, job, delay)
    if parked == Fenced(None):
        raise _ledger_lost(job)
    if isinstance(parked, Fenced):
        if shown:
            _show_end(task, held, parked)
        raise Ignore
    raise Parked(f"{job.status.value}, poll {job.polls}, next in {delay:.0f} s", parked.due)


def _settle(
    runtime: Runtime, task: _TASK, held: Held, job: Job, outcome: Mapping[str, Any], after: Phase
) -> Any:
    if not _write(runtime.ledger.settle, held, outcome, job, after):
        raise Ignore  # cancelled, or another hop's since the lease ran out: whoever holds it ends the task
    return _return(task, outcome)


def _hand_over(runtime: Runtime, task: _TASK, held: Held) -> Any:
    """Give Celery a kept outcome again; of one it has stored already, only what follows the storing."""
    outcome = held.outcome or {}
    state = _state_of(task, held.task_id)
    if state not in states.READY_STATES:
        return _return(task, outcome)
    if state == states.FAILURE and "result" in outcome and held.now < held.job.deadline + HAND_OVER_TIME:
        # A time limit, or a callback that could not be published: an answer that is paid for outlives both.
        return _return(task, outcome)
    under_way = _body_is_under_way(task)
    if state == states.SUCCESS and "result" in outcome and not under_way:
        _count(task, outcome["result"], store=False)
    elif state == states.FAILURE and "error" in outcome:
        _fail_again(task, held.task_id, _error_of(outcome))
    if not under_way and _body_is_claimed(task):
        raise Ignore  # perhaps by the hop that died: its claim runs out, and the lease brings another
    _write(runtime.ledger.close, held.task_id, held.generation)
    raise Ignore


def _body_is_under_way(task: _TASK) -> bool:
    """True when the body of the task's chord has left a state: to count for it again might start another."""
    chord: Any = task.request.chord or {}
    body = (chord.get("options") or {}).get("task_id")
    return bool(body) and _state_of(task, str(body)) != states.PENDING


def _body_is_claimed(task: _TASK) -> bool:
    """True while a worker has reserved, and not confirmed, the start of the body of the task's chord.

    `RedisBackend.on_chord_part_return` (5.7) lets one worker start it, and all others pass by for some
    twenty seconds, whether that one lives or not.
    """
    backend, group = task.backend, task.request.group
    if not (task.request.chord and group and isinstance(backend, RedisBackend)):
        return False
    try:
        claim = backend.client.get(backend.get_key_for_group(group, ".c"))
    except RedisError as error:
        logger.warning("Result backend away; task %s comes back: %s", _id(task), type(error).__name__)
        return True
    return claim not in {None, b"done", "done"}


def _fail_again(task: _TASK, task_id: str, error: FreddyError) -> None:
    """Store an error once more: an errback that raised has put its own in place of it."""
    try:
        task.backend.mark_as_failure(
            task_id, error, request=task.request, store_result=not task.request.ignore_result
        )
    except (
        Exception
    ) as fault:  # the user's errback: it has been called, and its faults are not the response's
        logger.warning("An errback of task %s failed: %s", task_id, type(fault).__name__)


def _abandon(runtime: Runtime, held: Held) -> NoReturn:
    """Celery ended the task by itself (a time limit, a lost worker): only the API is still to be told."""
    if _write(runtime.ledger.settle, held, {}, held.job, Phase.CANCELLING):
        _write(runtime.ledger.close, held.task_id, held.generation)
    raise Ignore


def _ended_by_celery(task: _TASK, held: Held) -> bool:
    """True when Celery has an outcome that the ledger knows nothing of; only a lost hop can leave one."""
    return held.recovered and _state_of(task, held.task_id) in states.READY_STATES


def _state_of(task: _TASK, task_id: str) -> str:
    """The state that Celery has on record; a hop that cannot know it ends here, and comes back."""
    try:
        return str(task.backend.get_state(task_id))
    except NotImplementedError:  # an app without a result backend: its answers go to callbacks
        return states.PENDING
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # every backend has exceptions of its own
        logger.warning(
            "Result backend away; task %s comes back by its lease: %s", task_id, type(error).__name__
        )
        raise Ignore from None


def _warn_if_background_was_ignored(held: Held, reply: Reply) -> None:
    if isinstance(reply.seen, Response) and reply.seen.background_ignored:
        logger.warning(
            "The API answered task %s at once: it ignores background mode, and a long answer fails after "
            "FREDDY_READ_TIMEOUT",
            held.task_id,
        )


def _return(task: _TASK, outcome: Mapping[str, Any]) -> Any:
    if "result" in outcome:
        setattr(task.request, SETTLED, states.SUCCESS)
        if task.request.chord and isinstance(task.backend, RedisBackend):
            _count(task, outcome["result"], store=True)
        return outcome["result"]
    setattr(task.request, SETTLED, states.FAILURE)
    raise _error_of(outcome)


def _count(task: _TASK, result: Any, *, store: bool) -> None:
    """Count an answer for its chord, where Celery will count it again: by Redis, that changes nothing.

    A result backend that is away at this moment would be an error of the task to `celery.app.trace` (5.7),
    which counts that for the chord in place of the answer.
    """
    try:
        task.backend.mark_as_done(_id(task), result, task.request, store_result=store)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # every backend has exceptions of its own
        logger.warning(
            "Result backend away; task %s comes back by its lease: %s", _id(task), type(error).__name__
        )
        raise Ignore from None


def _outcome_of(error: FreddyError, job: Job) -> dict[str, Any]:
    if job.return_exceptions:
        return {"result": error.to_result()}
    return {"error": {"type": type(error).__name__, "message": error.message, "info": error.info}}


def _error_of(outcome: Mapping[str, Any]) -> FreddyError:
    error = outcome.get("error") or {}
    return error_class(str(error.get("type")))(str(error.get("message", "")), error.get("info"))


def _write(transition: Any, *args: Any) -> Any:
    try:
        return transition(*args)
    except RedisError as error:
        # What the API said is lost with this hop; the lease brings a new one, which asks again.
        logger.warning("State server away; the task comes back by its lease: %s", type(error).__name__)
        raise Ignore from None


def _write_id(runtime: Runtime, held: Held, job: Job, delay: float) -> ParkedRecord | Fenced:
    """Put an accepted response on record, also past its lease: the API tells an id only once."""
    give_up = runtime.monotonic() + ID_PATIENCE
    while True:
        try:
            parked = runtime.ledger.park(held, Phase.WAITING, job, delay)
            if isinstance(parked, Fenced) and parked.phase is not None:
                parked = runtime.ledger.accept(held.task_id, job, delay)
            if not (isinstance(parked, Fenced) and parked.phase in {Phase.SENT, Phase.QUEUED}):
                break
            told = "another hop is about to end it"
        except RedisError as error:
            told = f"state server away: {type(error).__name__}"
        if runtime.monotonic() >= give_up:
            logger.error("Response %s of task %s is not on record (%s)", job.response_id, held.task_id, told)
            raise Ignore
        runtime.sleep(ID_PAUSE)
    if isinstance(parked, Fenced) and parked.phase in {Phase.SETTLED, Phase.SUSPENDED}:
        logger.warning(
            "Response %s of task %s was accepted, and its task had ended before that could be written: "
            "freddy-tasks resume %s",
            job.response_id,
            held.task_id,
            held.task_id,
        )
    return parked


def _show(task: _TASK, status: Status, job: Job, due: float | None) -> None:
    """What `AsyncResult.state` and `.info` tell while the response is not terminal."""
    if getattr(task.request, "ignore_result", False) or task.ignore_result:
        return
    state = "IN_PROGRESS" if status is Status.IN_PROGRESS else "QUEUED"
    facts = {
        "response_id": job.response_id or None,
        "polls": job.polls,
        "next_poll_at": due,
        "progress": job.progress,
        "deadline": job.deadline or None,
    }
    try:
        task.update_state(state=state, meta={name: fact for name, fact in facts.items() if fact is not None})
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # any backend has exceptions of its own, and the response goes on without it
        logger.warning("Result backend away; the state shown is old: %s", type(error).__name__)


def _show_end(task: _TASK, held: Held, fenced: Fenced) -> None:
    """Undo a state that this hop showed, within its lease, while somebody else cancelled the response."""
    if fenced.phase in {Phase.CANCELLING, Phase.CLOSED} and not held.abandoned:
        mark_revoked(task, held.task_id, held.options)


def _now(runtime: Runtime, held: Held) -> float:
    """The state server's time, carried on by this machine's monotonic clock since the claim."""
    return held.now + max(0.0, runtime.monotonic() - held.claimed_at)


def _heeded(runtime: Runtime, reply: Reply) -> Reply:
    """Pass the server's word on its limit on to every process, where it says something new."""
    hints, seen = reply.hints, reply.seen
    refused = isinstance(seen, CallFailed) and seen.kind is FailureKind.RATE_LIMITED
    if refused or hints.limit is not None or hints.remaining is not None:
        try:
            runtime.ledger.heed(
                refused=refused,
                retry_in=_retry_in(runtime, reply),
                per_minute=hints.limit,
                remaining=hints.remaining,
            )
        except RedisError as error:
            logger.warning("State server away; a hint on the limit is lost: %s", type(error).__name__)
    return reply


def _retry_in(runtime: Runtime, reply: Reply) -> float | None:
    return None if reply.hints.retry_at is None else max(0.0, reply.hints.retry_at - runtime.clock())


def _run_here(runtime: Runtime, request: Request, job: Job, timeout: float | None) -> Any:
    """The whole way in this process, for eager mode: no ledger, no budget, the caller waits."""
    started = runtime.clock()
    job = replace(job, deadline=started + (timeout or runtime.settings.timeout))
    key = str(uuid.uuid4())
    decision: Decision = SubmitAgain(job, 0.0)
    while isinstance(decision, PollAgain | SubmitAgain):
        runtime.sleep(decision.delay)
        if isinstance(decision, SubmitAgain):
            reply, decide = runtime.client.create(request, key), polling.decide_submit
        else:
            reply, decide = runtime.client.retrieve(decision.job.response_id), polling.decide
        decision = decide(
            decision.job,
            reply.seen,
            runtime.schedule(decision.job),
            runtime.clock(),
            runtime.random,
            runtime.policy,
            retry_in=_retry_in(runtime, reply),
        )
    if isinstance(decision, Complete):
        return answers.terminal_result(decision.response, decision.job.polls)
    if decision.after is After.CANCEL and runtime.settings.cancel_remotely:
        runtime.client.cancel(decision.job.response_id)
    if decision.job.return_exceptions:
        return decision.error.to_result()
    raise decision.error
