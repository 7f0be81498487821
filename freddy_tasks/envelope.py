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
from functools import cache
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, _state, states
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import BackendError, Ignore
from redis.exceptions import RedisError

from . import handover
from .continuation import GENERATION_HEADER, HIDDEN
from .handover import Parked
from .runtime import ledger_of
from .worker import HopRequest, iso

logger = logging.getLogger(__name__)

SPAN = 5.0  # seconds after which no further step is begun
_WATCHED = "freddy_watched"  # attribute of the carrier's request: monitors listen
_END = "freddy_end"  # attribute of a task request: the outcome, or the error, that the task is to end with
_TASK = Task[Any, Any]

Sealed = Sequence[Any]  # the headers and the body of a message
Event = tuple[str, dict[str, Any]]  # its type, and its fields
Step = Callable[..., handover.Outcome]


class Delivered(Ignore):
    """The steps were taken; `events` is what monitors are to be told of them."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        super().__init__(events)
        self.events = events


class EnvelopeRequest(HopRequest):
    """A message of several steps in a worker; in monitors each step has the row of its task."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request_dict[_WATCHED] = self._is_watched()

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """A slot has begun with it."""
        super().on_accepted(pid, time_accepted)
        if self._is_watched():
            for headers, _ in self.args:
                self.eventer.send("task-received", **_introduction(headers))
                self.eventer.send("task-started", uuid=headers["id"])

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """All that can be done was: no failure."""
        error = exc_info.exception
        error = getattr(error, "exc", error)
        if isinstance(error, Delivered):
            self.send_event("task-succeeded", result=HIDDEN, runtime=0.0)
            for kind, fields in error.events:
                self.eventer.send(kind, **fields)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def acknowledge(self) -> None:
        """It is done."""
        self._note_pace(len(self.args))
        super().acknowledge()

    def hand_back(self) -> None:
        """Let other workers take the steps at once, and not when the leases have run out."""
        try:
            _hand_back(self.task, self.args)
        except RedisError as error:
            logger.warning(
                "State server away; %d tasks come back by their leases: %s",
                len(self.args),
                type(error).__name__,
            )

    def _is_watched(self) -> bool:
        return bool(self.eventer and self.eventer.enabled and self.task.send_events)


def deliver(
    carrier: _TASK,
    sealed: Sequence[Sealed],
    steps: Mapping[str, Step],
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Take the steps one after another; those that are not begun within `SPAN` are handed back.

    `steps` has what is to be done for the messages of each task name: it is called with the task and the
    message's arguments, and returns an outcome, or raises `Ignore` where there is none yet. Where monitors
    listen, it raises `Delivered`.
    """
    began, events, taken = monotonic(), [], 0
    try:
        for headers, body in sealed:
            if taken and monotonic() - began > SPAN:
                break
            taken += 1
            events += _take(carrier, headers, body, steps[headers["task"]])
    finally:
        if taken < len(sealed):
            _hand_back(carrier, sealed[taken:])
    if getattr(carrier.request, _WATCHED, False):
        raise Delivered(events)


def _take(carrier: _TASK, headers: Mapping[str, Any], body: Sequence[Any], step: Step) -> list[Event]:
    task = carrier.app.tasks[headers["task"]]
    args, kwargs, embedded = body
    delivered = {name: getattr(carrier.request, name) for name in ("hostname", "delivery_info")}
    request = {**headers, **embedded, **delivered, "correlation_id": headers["id"], "is_eager": False}
    context = Context(request, args=args, kwargs=kwargs, called_directly=False)
    kind: Any = type(task)
    end: handover.Outcome | Exception
    try:
        with _running(task, context):
            end = step(task, *args, **kwargs)
    except Parked as parked:
        return [("task-polling", {"uuid": context.id, "result": parked.text, "eta": iso(parked.due)})]
    except Ignore:
        return []
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # whatever it is, it is how the task ends
        end = error
    ending = _ending(kind)
    if ending.__trace__ is None:
        ending.__trace__ = build_tracer(task.name, ending, app=carrier.app)
    try:
        _, failure, runtime, _ = ending.__trace__(
            context.id, args, kwargs, {**request, "headers": context.headers, _END: end}
        )
    except (RedisError, BackendError) as error:
        logger.warning(
            "Result backend away; task %s comes back by its lease: %s", context.id, type(error).__name__
        )
        return []
    return _ended(context, failure, runtime)


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


@cache
def _ending(kind: Any) -> Any:
    """A task of that kind that does nothing but end as its request says."""

    def run(self: _TASK, *_: Any, **__: Any) -> Any:
        end = getattr(self.request, _END)
        if isinstance(end, Exception):
            raise end
        return handover.give(self, end)

    return type(kind.__name__, (kind,), {"run": run, "__trace__": None, "__module__": kind.__module__})()


def _hand_back(carrier: _TASK, sealed: Sequence[Sealed]) -> None:
    ledger = ledger_of(carrier.app)
    for headers, _ in sealed:
        ledger.hand_back(headers["id"], headers[GENERATION_HEADER])


def _ended(context: Context, failure: Any, runtime: float) -> list[Event]:
    if failure is None:
        return [("task-succeeded", {"uuid": context.id, "result": HIDDEN, "runtime": runtime})]
    if failure.state == states.FAILURE:
        return [("task-failed", {"uuid": context.id, "exception": repr(failure.retval), "traceback": ""})]
    return []


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
