"""A call of `process_ai_response`: what may be asked for, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery import Celery

from .errors import InvalidRequest
from .models import Job, Lane, Request
from .schedules import LENGTHS, expected_seconds
from .settings import Settings
from .wire import check_request

LONGEST = 30 * 86_400  # seconds: thirty times as long as the API keeps an answer
LOW_PRIORITY = 5  # and up, of 0 to 9; see `_lane_of`


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of the API, and how to go about it."""

    request: Request
    job: Job
    timeout: float | None  # seconds for the whole; None: the default, from the moment the prompt is sent


def read_call(
    app: Celery,
    settings: Settings,
    priority: int | None,
    prompt: Any,
    *,
    model: str | None = None,
    label: str | None = None,
    expected: float | str | None = None,
    timeout: float | None = None,
    lane: str | None = None,
    return_exceptions: bool = False,
    **fields: Any,
) -> Call:
    """Read the arguments of the task; `priority` is that of its message, or None.

    Raises `InvalidRequest` for a call that cannot work.
    """
    check_call(
        prompt,
        model=model,
        label=label,
        expected=expected,
        timeout=timeout,
        lane=lane,
        return_exceptions=return_exceptions,
        **fields,
    )
    job = Job(
        deadline=0.0,
        model=model or settings.model,
        label=label or "",
        expected=expected_seconds(expected),
        lane=Lane(lane) if lane else _lane_of(app, priority),
        return_exceptions=return_exceptions,
    )
    return Call(Request(prompt, job.model, fields), job, timeout)


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


def _lane_of(app: Celery, priority: int | None) -> Lane:
    """The lane of a message that names none, by its Celery priority.

    The upper half of the range is the urgent one with RabbitMQ and the patient one with Redis, whose lowest
    number goes first.
    """
    if (priority or 0) < LOW_PRIORITY:
        return Lane.NORMAL
    is_amqp = str(app.conf.broker_url).startswith(("amqp", "pyamqp"))
    return Lane.INTERACTIVE if is_amqp else Lane.BATCH
