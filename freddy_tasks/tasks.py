"""The Celery tasks. They are shared: any app that includes this module has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from celery import Task, shared_task
from celery.exceptions import Ignore

from . import responses, worker
from .continuation import CANCEL, HIDDEN, POLL, SUBMIT
from .errors import FreddyError, InvalidRequest
from .models import Job, Lane, Request
from .runtime import ledger_of, runtime_of
from .schedules import LENGTHS, expected_seconds
from .wire import check_request

LONGEST = 30 * 86_400  # seconds: thirty times as long as the API keeps an answer
_TASK = Task[Any, Any]
_P = ParamSpec("_P")
_R = TypeVar("_R")


def apply_async(
    self: _TASK,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *positional: Any,
    **options: Any,
) -> Any:
    """`Task.apply_async` of all our tasks: it refuses a bad prompt, and shows none in events and logs."""
    if self.app.current_worker_task is None and self.name == SUBMIT:
        check_call(*(args or ()), **(kwargs or {}))
    options.setdefault("argsrepr", HIDDEN)
    options.setdefault("kwargsrepr", HIDDEN)
    return self.app.Task.apply_async(self, tuple(args or ()), dict(kwargs or {}), *positional, **options)


def _after_return(
    self: _TASK, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
) -> None:
    """Celery has stored an outcome."""
    if not self.request.is_eager:
        responses.close(self, status)
    self.app.Task.after_return(self, status, retval, task_id, args, kwargs, einfo)


_OPTIONS: dict[str, Any] = {
    "bind": True,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "max_retries": None,
    "track_started": False,  # each hop would show STARTED in place of where the response stands
    "throws": (FreddyError,),
    "resultrepr_maxsize": 1,  # an answer is nothing for logs and monitors
    "Request": worker.HopRequest,
    "apply_async": apply_async,
}


def _shared(name: str, **options: Any) -> Callable[[Callable[Concatenate[_TASK, _P], _R]], Task[_P, _R]]:
    """`shared_task` with our options, for type checkers too: through `**` they would see no types."""
    decorate: Any = shared_task(name=name, **{**_OPTIONS, **options})
    return decorate  # type: ignore[no-any-return]


@_shared(SUBMIT, after_return=_after_return)
def process_ai_response(
    self: _TASK,
    /,
    prompt: str | list[dict[str, Any]],
    *,
    model: str | None = None,
    label: str | None = None,
    expected: float | str | None = None,
    timeout: float | None = None,
    lane: str | None = None,
    return_exceptions: bool = False,
    **fields: Any,
) -> dict[str, Any]:
    """The answer to a prompt, whenever it is ready; no worker waits for it.

    `prompt` is a string or a list of input messages. `model` defaults to `FREDDY_MODEL`. `label` names a
    kind of prompts whose durations are alike. `expected` is the likely duration, in seconds or as "short"
    (under 30 s), "medium" (under 5 min) or "long". `timeout` is the longest wait for the whole, in seconds;
    by default `FREDDY_TIMEOUT` from the moment the prompt is sent. `lane` is "interactive", "normal" or
    "batch": who goes first when the plan's requests are short. `return_exceptions=True` makes a failure the
    result. All other `fields` go to the API untouched.

    The result is the API's object with `output_text` and `polls`. Raises a `FreddyError`.
    """
    check_call(prompt, expected=expected, timeout=timeout, lane=lane, label=label, **fields)
    settings = runtime_of(self.app).settings
    job = Job(
        deadline=0.0,
        model=model or settings.model,
        label=label or "",
        expected=expected_seconds(expected),
        lane=Lane(lane) if lane else worker.lane_of(self),
        return_exceptions=return_exceptions,
    )
    request = Request(prompt, job.model, fields)
    try:
        result: dict[str, Any] = responses.submit(self, request, job, timeout)
    except Ignore as end:
        raise _shallow(end) from None
    return result


@_shared(POLL, after_return=_after_return)
def poll_response(self: _TASK, generation: int) -> dict[str, Any]:
    """One look at a response, under the task id of its prompt; published by the waiting room."""
    try:
        result: dict[str, Any] = responses.poll(self, generation)
    except Ignore as end:
        raise _shallow(end) from None
    return result


@_shared(CANCEL, ignore_result=True)
def cancel_response(self: _TASK, task_id: str, generation: int | None = None) -> bool:
    """Cancel the response of a `process_ai_response` task, here and at the API; durable once it returns.

    Call it directly (it needs only the state server), or as a task. False when it had ended already.
    Raises `redis.exceptions.RedisError` when the state server cannot be reached.
    """
    if generation is not None:
        responses.cancel(self, task_id, generation)
        return True
    return ledger_of(self.app).cancel(task_id) is not None


def _shallow(end: Ignore) -> Ignore:
    """The same without the frames it came through: Celery (5.7) copies and formats all of them, twice."""
    return end.with_traceback(None)


def check_call(
    prompt: Any = None,
    *,
    model: Any = None,
    label: Any = None,
    expected: Any = None,
    timeout: Any = None,
    lane: Any = None,
    return_exceptions: Any = False,
    **fields: Any,
) -> None:
    """Refuse a call of `process_ai_response` that cannot work; raises `InvalidRequest`, which says why."""
    check_request(prompt, fields)
    if isinstance(expected, str) and expected not in LENGTHS:
        raise InvalidRequest(f"`expected` is a number of seconds, or one of {', '.join(LENGTHS)}.")
    for name, value in {"expected": expected, "timeout": timeout}.items():
        if isinstance(value, str) and name == "expected":
            continue
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST
        ):
            raise InvalidRequest(f"`{name}` is a number of seconds above 0, at most a month.")
    if lane is not None and lane not in set(Lane):
        raise InvalidRequest(f"`lane` is one of {', '.join(Lane)}.")
    if label is not None and (not isinstance(label, str) or len(label) > 100):
        raise InvalidRequest("`label` is a text of at most 100 characters.")
    if model is not None and (not isinstance(model, str) or not model):
        raise InvalidRequest("`model` is the name of a model.")
    if not isinstance(return_exceptions, bool):
        raise InvalidRequest("`return_exceptions` is True or False.")
