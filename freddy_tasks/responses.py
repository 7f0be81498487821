"""One response's way through Celery: fetch, decide, act. The tasks are thin doors to this."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Ignore, Reject
from redis.exceptions import RedisError

from . import answers, handover, polling
from .calls import Call
from .continuation import generation_of, options_of
from .errors import LedgerLost
from .handover import Outcome, Parked
from .ledger import Ledger
from .models import CallFailed, FailureKind, Job, Reply, Response, Status
from .polling import After, Cancelled, Complete, Decision, Fail, PollAgain, SubmitAgain
from .records import Fenced, Gone, Held, LinedUp, Phase, Unsent
from .records import Parked as ParkedRecord
from .runtime import Runtime, runtime_of

logger = logging.getLogger(__name__)

FIRST_GENERATION = 1  # of the user's own message
ID_PATIENCE = 300.0  # seconds for which a worker tries to write the id of an accepted response
ID_PAUSE = 0.2  # seconds between two attempts
REPLICA_PATIENCE = 30.0  # seconds for which it goes on to where the replicas lack an id that is on record
REQUEUE_PAUSE = 1.0  # seconds a submit waits when the state server is away, before its message goes back
_NAMESPACE = uuid.UUID("8e5d2f7c-9a0b-4f0e-9d0c-2f1c6a5b7d31")
_AFTER = {After.NOTHING: Phase.CLOSED, After.RESUMABLE: Phase.SUSPENDED, After.CANCEL: Phase.CANCELLING}
_TASK = Task[Any, Any]


def submit(task: _TASK, call: Call) -> Outcome:
    """Submit a prompt, or find out why not; returns only when the response is terminal already."""
    runtime = runtime_of(task.app)
    try:
        held = _admit(runtime, task, call)
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
        reply = _left_by_the_dead(task, held)
    elif held.now >= held.job.deadline or not held.may_ask:
        return _carry_out(runtime, task, held, polling.unsent(held.job))
    elif not held.confirmed:
        return _hold_back(runtime, task, held)
    else:
        reply = _heeded(runtime, runtime.client.create(call.request, idempotency_key(held.task_id)))
        _warn_if_background_was_ignored(held, reply)
    now = _now(runtime, held)
    decision = polling.decide_submit(
        held.job,
        reply.seen,
        runtime.schedule(held.job),
        now,
        runtime.random,
        runtime.policy,
        retry_in=runtime.retry_in(reply),
        stretch=held.stretch,
    )
    return _carry_out(runtime, task, held, decision)


def poll(task: _TASK, generation: int) -> Outcome:
    """Look at a response once; returns only when there is an outcome."""
    runtime = runtime_of(task.app)
    held = _claim(runtime, task, _id(task), generation)
    if held.phase is Phase.SETTLED:
        return _hand_over(runtime, task, held)
    if _ended_by_celery(task, held):
        return _abandon(runtime, held)
    if held.phase is Phase.QUEUED:  # its prompt was not sent in time
        return _carry_out(runtime, task, held, polling.unsent(held.job))
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
        retry_in=runtime.retry_in(reply),
        stretch=held.stretch,
    )
    return _carry_out(runtime, task, held, decision)


def cancel(task: _TASK, task_id: str, generation: int) -> None:
    """End a cancelled response: for Celery at once, at the API until it is settled."""
    runtime = runtime_of(task.app)
    held = _claim(runtime, task, task_id, generation)
    if not held.job.response_id and (response_id := handover.shown_id(task, task_id)):
        # Of a submit whose worker died: on record, for the next hop, before its last copy is overwritten.
        _write(runtime.ledger.accept, task_id, replace(held.job, response_id=response_id), 0.0)
        return
    if not held.abandoned:
        handover.mark_revoked(task, task_id, held.options)
    if not held.job.response_id or not runtime.settings.cancel_remotely:
        _write(runtime.ledger.close, task_id, generation)
        return
    if not held.may_ask:
        _write(runtime.ledger.park, held, Phase.CANCELLING, held.job, 0.0)
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
    if not handover.was_given(task, status):
        return
    generation = generation_of(task.request) or FIRST_GENERATION
    try:
        runtime_of(task.app).ledger.close(_id(task), generation)
    except RedisError as error:
        logger.warning(
            "State server away; task %s is closed after its lease: %s", _id(task), type(error).__name__
        )


def idempotency_key(task_id: str) -> str:
    """The same for every submit of one task, and of no other."""
    return str(uuid.uuid5(_NAMESPACE, task_id))


def _admit(runtime: Runtime, task: _TASK, call: Call) -> Held:
    generation = generation_of(task.request)
    if generation is not None:
        held = _claim(runtime, task, _id(task), generation, confirm=True)
        # A process that lined it up may have another default than this one, which sends the request.
        return replace(held, job=replace(held.job, model=call.job.model))
    admitted = runtime.ledger.begin(
        _id(task),
        call.job,
        body={"args": task.request.args, "kwargs": task.request.kwargs},
        options=options_of(task, task.request),
        timeout=runtime.settings.timeout if call.timeout is None else call.timeout,
        whole=call.timeout is not None,
    )
    match admitted:
        case Held():
            return admitted
        case LinedUp():
            handover.show(task, Status.QUEUED, call.job, None)
            raise Parked("queued, waits for one of the plan's requests")
        case Fenced(Phase.CANCELLED):
            handover.mark_revoked(task, _id(task), options_of(task, task.request))
            raise Ignore
        case Fenced():  # a redelivery: its response is on its way already
            raise Ignore


def _claim(runtime: Runtime, task: _TASK, task_id: str, generation: int, *, confirm: bool = False) -> Held:
    try:
        claimed = runtime.ledger.claim(task_id, generation, confirm=confirm)
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
        case Gone() if task.request.id == task_id and not handover.has_ended(task, task_id):
            raise _ledger_lost(handover.shown_id(task, task_id))
        case _:  # stale, redelivered, cancelled, or ended
            raise Ignore


def _left_by_the_dead(task: _TASK, held: Held) -> Reply:
    """The reply to a submit whose worker died: Celery was shown the id before it was put on record here."""
    if response_id := handover.shown_id(task, held.task_id):
        return Reply(Response(response_id, Status.QUEUED, "queued", body={}))
    return Reply(CallFailed(FailureKind.TRANSIENT, "the worker that sent it died before it had a reply"))


def _hold_back(runtime: Runtime, task: _TASK, held: Held) -> NoReturn:
    """Send nothing: a failover might forget the intent, and then nobody would know of the response."""
    if shown := _is_own(runtime, held):
        handover.show(task, Status.QUEUED, replace(held.job, deadline=0.0), None)
    unsent = _unsend(runtime, held)
    if unsent == Fenced(None):
        raise Reject("the record of a prompt that was not sent is gone", requeue=True)
    if isinstance(unsent, Fenced):
        if shown:
            _show_end(task, held, unsent)
        raise Ignore
    logger.log(
        logging.WARNING if unsent.times == 1 else logging.INFO,
        "Fewer than %d replicas have the intent to submit task %s: its prompt waits (%d times so far)",
        runtime.settings.state_replicas,
        held.task_id,
        unsent.times,
    )
    raise Parked("queued, waits for the state server's replicas", unsent.due)


def _unsend(runtime: Runtime, held: Held) -> Unsent | Fenced:
    """Take back the intent, also past an outage: once its lease is over it counts as sent."""
    while True:
        try:
            return runtime.ledger.unsend(held)
        except RedisError as error:
            if not _is_own(runtime, held):
                logger.warning(
                    "State server away; task %s was not sent, and ends as one that may have been: %s",
                    held.task_id,
                    type(error).__name__,
                )
                raise Ignore from None
        runtime.sleep(ID_PAUSE)


def _ledger_lost(response_id: str) -> LedgerLost:
    return LedgerLost.because(
        "The state server has no record of this response any more: it was flushed, or evicts keys. "
        "Give the ledger a Redis with `noeviction` and an append-only file. The response may still "
        "run at the API; where its id is known, `freddy-tasks resume` goes on with it.",
        response_id=response_id or None,
    )


def _id(task: _TASK) -> str:
    return str(task.request.id)


def _carry_out(runtime: Runtime, task: _TASK, held: Held, decision: Decision) -> Outcome:
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
            return _settle(runtime, held, job, {"result": result}, Phase.CLOSED)
        case Fail(job, error, after):
            return _settle(runtime, held, job, handover.outcome_of(error, job), _AFTER[after])


def _park(runtime: Runtime, task: _TASK, held: Held, phase: Phase, job: Job, delay: float) -> NoReturn:
    if shown := _is_own(runtime, held):
        handover.show(task, job.status, job, _now(runtime, held) + delay)
    if job.response_id and not held.job.response_id:
        parked = _write_id(runtime, held, job, delay)
    else:
        parked = _write(runtime.ledger.park, held, phase, job, delay)
    if parked == Fenced(None):
        raise _ledger_lost(job.response_id)
    if isinstance(parked, Fenced):
        if shown:
            _show_end(task, held, parked)
        raise Ignore
    raise Parked(f"{job.status.value}, poll {job.polls}, next in {delay:.0f} s", parked.due)


def _settle(runtime: Runtime, held: Held, job: Job, outcome: Outcome, after: Phase) -> Outcome:
    if not _write(runtime.ledger.settle, held, outcome, job, after):
        raise Ignore  # cancelled, or another hop's since the lease ran out: whoever holds it ends the task
    return outcome


def _hand_over(runtime: Runtime, task: _TASK, held: Held) -> Outcome:
    """A kept outcome, for Celery, again; of one it has stored already, only what follows the storing."""
    if handover.is_wanted(task, held):
        return held.outcome or {}
    if handover.finish(task, held):
        _write(runtime.ledger.close, held.task_id, held.generation)
    raise Ignore


def _abandon(runtime: Runtime, held: Held) -> NoReturn:
    """Celery ended the task by itself (a time limit, a lost worker): only the API is still to be told."""
    if _write(runtime.ledger.settle, held, {}, held.job, Phase.CANCELLING):
        _write(runtime.ledger.close, held.task_id, held.generation)
    raise Ignore


def _ended_by_celery(task: _TASK, held: Held) -> bool:
    """True when Celery has an outcome that the ledger knows nothing of; only a lost hop can leave one."""
    return held.recovered and handover.has_ended(task, held.task_id)


def _warn_if_background_was_ignored(held: Held, reply: Reply) -> None:
    if isinstance(reply.seen, Response) and reply.seen.background_ignored:
        logger.warning(
            "The API answered task %s at once: it ignores background mode, and a long answer fails after "
            "FREDDY_READ_TIMEOUT",
            held.task_id,
        )


def _write(transition: Any, *args: Any) -> Any:
    try:
        return transition(*args)
    except RedisError as error:
        # What the API said is lost with this hop; the lease brings a new one, which asks again.
        logger.warning("State server away; the task comes back by its lease: %s", type(error).__name__)
        raise Ignore from None


def _write_id(runtime: Runtime, held: Held, job: Job, delay: float) -> ParkedRecord | Fenced:
    """Put an accepted response on record, also past its lease: the API tells an id only once."""
    logger.info("Response %s was accepted for task %s", job.response_id, held.task_id)
    began, is_recorded = runtime.monotonic(), False
    while True:
        parked, lack = _try_to_write_id(runtime.ledger, held, job, delay)
        waited = runtime.monotonic() - began
        if parked and (not lack or waited >= REPLICA_PATIENCE):
            break
        if waited >= ID_PATIENCE:
            logger.error("Response %s of task %s is not on record (%s)", job.response_id, held.task_id, lack)
            raise Ignore
        is_recorded = is_recorded or parked is not None
        runtime.sleep(ID_PAUSE)
    if lack:
        logger.warning("Response %s of task %s is on record, and %s", job.response_id, held.task_id, lack)
    if isinstance(parked, Fenced) and parked.phase in {Phase.SETTLED, Phase.SUSPENDED}:
        logger.warning(
            "Response %s of task %s was accepted, and its task had ended before that could be written: "
            "freddy-tasks resume %s",
            job.response_id,
            held.task_id,
            held.task_id,
        )
    if is_recorded and isinstance(parked, Fenced) and parked.phase is not None:
        raise Ignore  # it went on while the replicas were waited for
    return parked


def _try_to_write_id(
    ledger: Ledger, held: Held, job: Job, delay: float
) -> tuple[ParkedRecord | Fenced | None, str]:
    """The ledger's answer, if it may be the last word, and what is wrong with it, if anything."""
    try:
        parked = ledger.park(held, Phase.WAITING, job, delay)
        if isinstance(parked, Fenced) and parked.phase is not None:
            parked = ledger.accept(held.task_id, job, delay)
    except RedisError as error:
        return None, f"state server away: {type(error).__name__}"
    if isinstance(parked, Fenced) and parked.phase in {Phase.SENT, Phase.QUEUED}:
        return None, "another hop is about to end it"
    if isinstance(parked, ParkedRecord) and not parked.confirmed:
        return parked, "its replicas may lack it"
    return parked, ""


def _show_end(task: _TASK, held: Held, fenced: Fenced) -> None:
    """Undo a state that this hop showed, within its lease, while somebody else cancelled the response."""
    if fenced.phase in {Phase.CANCELLING, Phase.CLOSED} and not held.abandoned:
        handover.mark_revoked(task, held.task_id, held.options)


def _is_own(runtime: Runtime, held: Held) -> bool:
    """True within its lease; past it another hop may end the task, and no state may follow its last one."""
    return _now(runtime, held) < held.now + runtime.ledger.lease


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
                retry_in=runtime.retry_in(reply),
                per_minute=hints.limit,
                remaining=hints.remaining,
            )
        except RedisError as error:
            logger.warning("State server away; a hint on the limit is lost: %s", type(error).__name__)
    return reply
