"""What Celery is told of a response: where it stands, its outcome, and what follows from that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery import Task, states
from celery.backends.redis import RedisBackend
from celery.canvas import maybe_signature
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from .continuation import context_of
from .errors import FreddyError, error_class
from .models import Job, Status
from .records import Held

logger = logging.getLogger(__name__)

LONGEST_OFFER = 3_600.0  # seconds past the deadline for which an answer is offered to Celery again
_GIVEN = "freddy_given"  # attribute of a task request: the state of the outcome that Celery was given
_TASK = Task[Any, Any]

Outcome = Mapping[str, Any]  # as the ledger keeps it: a result, or the parts of an error


class Parked(Ignore):
    """The task ends here and goes on later under its own id; `text` is what monitors show meanwhile.

    `due` is the moment of the next look, in Unix seconds; None when nobody knows it.
    """

    def __init__(self, text: str = "", due: float | None = None) -> None:
        super().__init__(text, due)
        self.text = text
        self.due = due


def show(task: _TASK, status: Status, job: Job, due: float | None) -> None:
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


def outcome_of(error: FreddyError, job: Job) -> dict[str, Any]:
    """An error in the form in which the ledger keeps an outcome."""
    if job.return_exceptions:
        return {"result": error.to_result()}
    return {"error": {"type": type(error).__name__, "message": error.message, "info": error.info}}


def is_wanted(task: _TASK, held: Held) -> bool:
    """Whether Celery lacks the kept outcome: it has none, or a failure of its own in place of an answer."""
    state = _state_of(task, held.task_id)
    if state not in states.READY_STATES:
        return True
    # A time limit, or a callback that could not be published: an answer that is paid for outlives both.
    is_answer = "result" in (held.outcome or {})
    return state == states.FAILURE and is_answer and held.now < held.job.deadline + LONGEST_OFFER


def give(task: _TASK, outcome: Outcome) -> Any:
    """Return the outcome's result from the task, or raise its error."""
    if "result" in outcome:
        setattr(task.request, _GIVEN, states.SUCCESS)
        if task.request.chord and isinstance(task.backend, RedisBackend):
            _call_back(task, outcome["result"])
            _count(task, outcome["result"], store=True)
            # A callback that cannot be published would else be counted as this member's failure, too.
            task.request.chord = None
        return outcome["result"]
    setattr(task.request, _GIVEN, states.FAILURE)
    raise _error_of(outcome)


def _call_back(task: _TASK, result: Any) -> None:
    """Publish what is linked to a task, before its answer is stored, as `celery.app.trace` (5.7) does.

    What cannot be published at all is left to that, which makes a failure of it.
    """
    request: Any = task.request
    inherits = task.app.conf.task_inherit_parent_priority
    options = {
        "parent_id": request.id,
        "root_id": request.root_id or request.id,
        "priority": (request.delivery_info or {}).get("priority") if inherits else None,
    }
    try:
        for callback in request.callbacks or ():
            signature: Any = maybe_signature(callback, app=task.app)
            signature.apply_async((result,), **options)
    except SoftTimeLimitExceeded:
        raise
    except OperationalError as error:
        logger.warning("Broker away; task %s comes back by its lease: %s", request.id, type(error).__name__)
        raise Ignore from None
    except Exception:
        return
    request.callbacks = None


def was_given(task: _TASK, state: str) -> bool:
    """Whether the outcome that Celery has stored in this state is the one that it was given."""
    return getattr(task.request, _GIVEN, None) == state


def finish(task: _TASK, held: Held) -> bool:
    """Do what follows the storing of an outcome that Celery has; False when it is not this hop's to do."""
    outcome = held.outcome or {}
    state = _state_of(task, held.task_id)
    under_way = _body_is_under_way(task)
    if state == states.SUCCESS and "result" in outcome and not under_way:
        _count(task, outcome["result"], store=False)
    elif state == states.FAILURE and "error" in outcome:
        _fail_again(task, held.task_id, _error_of(outcome))
    # Claimed perhaps by the hop that died: its claim runs out, and the lease brings another.
    return under_way or not _body_is_claimed(task)


def mark_revoked(task: _TASK, task_id: str, options: Mapping[str, Any]) -> None:
    """Give a cancelled task its terminal state, and count it for its chord, unless it has ended already."""
    if _state_of(task, task_id) in states.READY_STATES - {states.REVOKED}:
        return
    context = context_of(task_id, options)
    task.backend.mark_as_revoked(
        task_id, "cancelled", request=context, store_result=not context.ignore_result
    )


def has_ended(task: _TASK, task_id: str) -> bool:
    """Whether Celery has an outcome on record, its own or one of ours."""
    return _state_of(task, task_id) in states.READY_STATES


def shown_id(task: _TASK, task_id: str) -> str:
    """The id of a task's response by what Celery was told last; empty where it was told none."""
    shown = _told(task.backend.get_result, task_id, {})
    return str(shown.get("response_id") or "") if isinstance(shown, Mapping) else ""


def _state_of(task: _TASK, task_id: str) -> str:
    return str(_told(task.backend.get_state, task_id, states.PENDING))


def _told(ask: Callable[[str], Any], task_id: str, otherwise: Any) -> Any:
    """What Celery has on record; a hop that cannot know it ends here, and comes back."""
    try:
        return ask(task_id)
    except NotImplementedError:  # an app without a result backend: its answers go to callbacks
        return otherwise
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # every backend has exceptions of its own
        logger.warning(
            "Result backend away; task %s comes back by its lease: %s", task_id, type(error).__name__
        )
        raise Ignore from None


def _count(task: _TASK, result: Any, *, store: bool) -> None:
    """Count an answer for its chord; with Redis, to count it again changes nothing.

    A result backend that is away at this moment would be an error of the task to `celery.app.trace` (5.7),
    which counts that for the chord in place of the answer.
    """
    try:
        task.backend.mark_as_done(str(task.request.id), result, task.request, store_result=store)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # every backend has exceptions of its own
        logger.warning(
            "Result backend away; task %s comes back by its lease: %s", task.request.id, type(error).__name__
        )
        raise Ignore from None


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
        logger.warning("Result backend away; task %s comes back: %s", task.request.id, type(error).__name__)
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


def _error_of(outcome: Mapping[str, Any]) -> FreddyError:
    error = outcome.get("error") or {}
    return error_class(str(error.get("type")))(str(error.get("message", "")), error.get("info"))
