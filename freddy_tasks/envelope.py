"""Several steps in one message: what each comes to is the same as if a message of its own had brought it.

The message, its way through the worker, and the exception by which Celery lets a task end without a result
cost more than the step itself. Here only a step that ends its response is traced by Celery, which then stores
the result, counts it for a chord and publishes what is linked, as it does for any task.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, _state, states
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import BackendError, Ignore, Reject
from kombu.utils.encoding import safe_repr
from redis.exceptions import RedisError

from .capacity import pace
from .continuation import GENERATION_HEADER, HIDDEN
from .handover import Outcome, Parked
from .runtime import access_of
from .worker import HopRequest, iso

logger = logging.getLogger(__name__)

SPAN = 5.0  # seconds after which no further step is begun
_WATCHED = "freddy_watched"  # attribute of the carrier's request: monitors listen
_END = "freddy_end"  # attribute of a task request: the outcome, or the error, that its step came to
_TASK = Task[Any, Any]

Sealed = Sequence[Any]  # the headers and the body of a message
Event = tuple[str, dict[str, Any]]  # its type, and its fields
Step = Callable[..., Outcome]


class Delivered(Ignore):
    """The first `taken` steps were taken; `events` is what monitors are to be told of them."""

    def __init__(self, taken: int = 0, events: Sequence[Event] = ()) -> None:
        super().__init__(taken, events)
        self.taken = taken
        self.events = events


class EnvelopeRequest(HopRequest):
    """A message of several steps in a worker; in monitors each step has the row of its task."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taken = len(self.args)
        self._is_watched = bool(self.eventer and self.eventer.enabled and self.task.send_events)
        self.request_dict[_WATCHED] = self._is_watched

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """A slot has begun with it."""
        super().on_accepted(pid, time_accepted)
        if self._is_watched:
            for headers, _ in self.args:
                self.eventer.send("task-received", **_introduction(headers))
                self.eventer.send("task-started", uuid=headers["id"])

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A limit for all tasks of the worker ended it: the steps that it did not come to are others' now."""
        super().on_timeout(soft, timeout)
        if not soft:
            self.hand_back()

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """All that can be done was: no failure."""
        error = exc_info.exception
        error = getattr(error, "exc", error)
        if isinstance(error, Delivered):
            self._taken = error.taken
            self.send_event("task-succeeded", result=HIDDEN, runtime=self.seconds())
            for kind, fields in error.events if self._is_watched else ():
                self.eventer.send(kind, **fields)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def acknowledge(self) -> None:
        """It is done."""
        if self._begun is not None and not self.acknowledged:
            pace.note(self.seconds(), self._taken)
        super().acknowledge()

    def hand_back(self) -> None:
        """Let other workers take the steps at once, and not when the leases have run out."""
        _hand_back(self.task, self.args)


def deliver(carrier: _TASK, sealed: Sequence[Sealed], steps: Mapping[str, Step]) -> None:
    """Take the steps one after another; those that are not begun within `SPAN` are handed back.

    `steps` has what is to be done for the messages of each task name: it is called with the task and the
    message's arguments, and returns an outcome, or raises `Ignore` where there is none yet.

    Raises `Delivered` where steps were handed back, or monitors listen.
    """
    began, events, taken = time.monotonic(), [], 0
    try:
        while taken < len(sealed) and (not taken or time.monotonic() - began <= SPAN):
            headers, body = sealed[taken]
            taken += 1
            events += _take(carrier, headers, body, steps[headers["task"]])
    finally:
        _hand_back(carrier, sealed[taken:])
    if taken < len(sealed) or getattr(carrier.request, _WATCHED, False):
        raise Delivered(taken, events)


def brought_to(task: _TASK) -> Outcome | None:
    """What the step of the running task has come to in an envelope; None where it is still to be taken.

    Raises the error where it failed.
    """
    end: Outcome | Exception | None = getattr(task.request, _END, None)
    if isinstance(end, Exception):
        raise end
    return end


def _take(carrier: _TASK, headers: Mapping[str, Any], body: Sequence[Any], step: Step) -> list[Event]:
    began = time.monotonic()
    task = carrier.app.tasks[headers["task"]]
    args, kwargs, embedded = body
    delivered = {name: getattr(carrier.request, name) for name in ("hostname", "delivery_info")}
    request = {**headers, **embedded, **delivered, "correlation_id": headers["id"], "is_eager": False}
    context = Context(request, args=args, kwargs=kwargs, called_directly=False)
    end: Outcome | Exception
    try:
        with _running(task, context):
            end = step(task, *args, **kwargs)
    except Parked as parked:
        return [("task-polling", {"uuid": context.id, "result": parked.text, "eta": iso(parked.due)})]
    except Ignore:
        return []
    except (Reject, SoftTimeLimitExceeded):  # the message's, and not only this step's
        raise
    except Exception as error:  # whatever it is, it is how the task ends
        end = error
    return _end(task, context, end, began)


@contextmanager
def _running(task: _TASK, context: Context) -> Iterator[None]:
    """The task is the current one, and this is its request."""
    running: Any = vars(_state)["_task_stack"]  # missing in the stubs
    running.push(task)
    task.request_stack.push(context)
    try:
        yield
    finally:
        task.request_stack.pop()
        running.pop()


def _end(task: _TASK, context: Context, end: Outcome | Exception, began: float) -> list[Event]:
    """Let Celery trace the task, which does nothing more but end so."""
    traced: Any = task
    if traced.__trace__ is None:
        traced.__trace__ = build_tracer(task.name, task, app=task.app)
    try:
        info, failure, *_ = traced.__trace__(
            context.id, context.args, context.kwargs, {**vars(context), _END: end}
        )
    except (RedisError, BackendError) as error:
        logger.warning(
            "Result backend away; task %s comes back by its lease: %s", context.id, type(error).__name__
        )
        return []
    except Exception as error:  # an errback's, or a hook's: the other steps are not to suffer from it
        logger.exception("Task %s comes back by its lease: what follows its end failed", context.id)
        return [_failed(context, error, "")]
    if failure is None:
        runtime = time.monotonic() - began
        return [("task-succeeded", {"uuid": context.id, "result": HIDDEN, "runtime": runtime})]
    return [_failed(context, failure.retval, info.traceback)] if failure.state == states.FAILURE else []


def _failed(context: Context, error: Any, traceback: str) -> Event:
    return "task-failed", {"uuid": context.id, "exception": safe_repr(error), "traceback": traceback}


def _hand_back(carrier: _TASK, sealed: Sequence[Sealed]) -> None:
    try:
        for headers, _ in sealed:
            access_of(carrier.app).ledger.hand_back(headers["id"], headers[GENERATION_HEADER])
    except RedisError as error:
        logger.warning(
            "State server away; %d tasks come back by their leases: %s", len(sealed), type(error).__name__
        )


def _introduction(headers: Mapping[str, Any]) -> dict[str, Any]:
    """What Celery tells of a message that has come."""
    return {
        "uuid": headers["id"],
        "name": headers.get("shadow") or headers["task"],
        "args": HIDDEN,
        "kwargs": HIDDEN,
        "root_id": headers.get("root_id"),
        "parent_id": headers.get("parent_id"),
        "retries": headers.get("retries", 0),
        "eta": None,
        "expires": None,
    }
