"""The Celery tasks. They are shared: any app that includes this module has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from celery import Task, shared_task
from celery.exceptions import Ignore

from . import eager, envelope, handover, responses, worker
from .calls import Call, check_call, read_call
from .continuation import ADVANCE, CANCEL, HIDDEN, POLL, SUBMIT
from .desk import desk_for
from .errors import FreddyError
from .runtime import access_of, runtime_of

_TASK = Task[Any, Any]
_P = ParamSpec("_P")
_R = TypeVar("_R")


def apply_async(
    self: _TASK,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    task_id: str | None = None,
    producer: Any = None,
    *more: Any,
    **options: Any,
) -> Any:
    """`Task.apply_async` of all our tasks: it refuses a bad prompt, and shows none in events and logs."""
    options = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN, **options}
    publish: Any = partial(self.app.Task.apply_async, self, tuple(args or ()), dict(kwargs or {}), task_id)
    if self.name != SUBMIT:
        return publish(producer, *more, **options)
    if self.app.current_worker_task is None:
        check_call(*(args or ()), **(kwargs or {}))
    with desk_for(self.app, producer, options.get("connection")) as desk:
        if not desk:
            return publish(producer, *more, **options)
        return publish(desk, *more, **{**options, "connection": None})


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
    arguments = {
        "model": model,
        "label": label,
        "expected": expected,
        "timeout": timeout,
        "lane": lane,
        "return_exceptions": return_exceptions,
        **fields,
    }
    if self.request.is_eager or self.request.called_directly:
        call = _call(self, prompt, **arguments)
        answer: dict[str, Any] = eager.run(runtime_of(self.app), call.request, call.job, call.timeout)
        return answer
    return _ended(self, partial(_submit, self, prompt, **arguments))


@_shared(POLL, after_return=_after_return)
def poll_response(self: _TASK, generation: int) -> dict[str, Any]:
    """One look at a response, under the task id of its prompt; published by the waiting room."""
    return _ended(self, partial(responses.poll, self, generation))


@_shared(CANCEL, ignore_result=True)
def cancel_response(self: _TASK, task_id: str, generation: int | None = None) -> bool:
    """Cancel the response of a `process_ai_response` task, here and at the API; durable once it returns.

    Call it directly (it needs only the state server), or as a task. False when it had ended already.
    Raises `redis.exceptions.RedisError` when the state server cannot be reached.
    """
    if generation is not None:
        responses.cancel(self, task_id, generation)
        return True
    return access_of(self.app).ledger.cancel(task_id) is not None


@_shared(ADVANCE, ignore_result=True, Request=envelope.EnvelopeRequest)
def advance_responses(self: _TASK, *steps: envelope.Sealed) -> None:
    """Several steps of several responses, each under its own task id; published by the waiting room."""
    envelope.deliver(self, steps, {SUBMIT: _submit, POLL: responses.poll})


def _submit(task: _TASK, *args: Any, **kwargs: Any) -> handover.Outcome:
    return responses.submit(task, _call(task, *args, **kwargs))


def _call(task: _TASK, *args: Any, **kwargs: Any) -> Call:
    priority = (task.request.delivery_info or {}).get("priority")
    return read_call(task.app, runtime_of(task.app).settings, priority, *args, **kwargs)


def _ended(task: _TASK, step: Callable[[], handover.Outcome]) -> dict[str, Any]:
    try:
        outcome = envelope.brought_to(task)
        if outcome is None:
            outcome = step()
    except Ignore as end:
        # Without the frames it came through: Celery (5.7) copies and formats all of them, twice.
        raise end.with_traceback(None) from None
    result: dict[str, Any] = handover.give(task, outcome)
    return result
