"""How a task goes on under its own id: its options, kept once, and the messages made of them.

Publishing a poll as a new task would cut it off from its chord, chain and callbacks; `Task.replace` loses
queue, priority, headers, time limits, shadow and stamps. So the options of the first message are kept with
the response, and every later message is made of them, as `celery.app.base.Celery.send_task` (5.7) would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery, Task
from celery.app import task as celery_task
from celery.app.task import Context
from kombu import Producer, Queue

from .connections import is_redis
from .models import Lane

OURS = "freddy_tasks."  # first part of the names of our tasks
SUBMIT = "freddy_tasks.process_ai_response"
POLL = "freddy_tasks.poll_response"
CANCEL = "freddy_tasks.cancel_response"
ADVANCE = "freddy_tasks.advance_responses"

GENERATION_HEADER = "freddy_generation"
BEHIND = 6  # priority, of 0 (first) to 9 on Redis: behind all that names none
HIDDEN = "(…)"  # stands for arguments wherever Celery would show them
_ROUTE = ("exchange", "routing_key", "priority")
_PUBLISH_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def options_of(task: Task[Any, Any], request: Context) -> dict[str, Any]:
    """Everything a later message of a request of the task must carry, as plain JSON.

    `expires` belongs to the start, not to the wait, and is left out.
    """
    options = {name: value for name, value in request.as_execution_options().items() if value is not None}
    for name in ("task_id", "expires"):
        options.pop(name, None)
    headers = {
        name: value
        for name, value in (options.pop("headers", None) or {}).items()
        if name != GENERATION_HEADER
    }
    delivery = request.delivery_info or {}
    options |= {
        "headers": headers,
        "shadow": options.get("shadow") or SUBMIT,
        "ignore_result": _ignores_result(task, request),
        "exchange": delivery.get("exchange") or "",
        "routing_key": delivery.get("routing_key"),
    }
    if delivery.get("priority") is not None:
        options["priority"] = delivery["priority"]
    return options


def yields(task: Task[Any, Any], lane: Any, options: Mapping[str, Any]) -> bool:
    """Whether a submit waits in the broker until all else is done: one of lane "batch", with `BEHIND`.

    Many of them come at once there; polls of those that were sent would queue behind, beyond their lease, and
    so would the prompt of a person. False where a priority is chosen, or the broker is no Redis.
    """
    app = task.app
    if lane != Lane.BATCH or not is_redis(str(app.conf.broker_write_url or app.conf.broker_url)):
        return False
    routed = {**app.amqp.router.route({}, SUBMIT), **options}
    return task.priority is None and routed.get("priority") is None


def generation_of(request: Context) -> int | None:
    """Generation that a message carries in its header; None for the user's own message."""
    headers = request.headers or {}
    generation = headers.get(GENERATION_HEADER)
    return None if generation is None else int(generation)


def context_of(task_id: str, options: Mapping[str, Any]) -> Context:
    """The request that Celery's backend needs to end a task from outside: chord, group, callbacks."""
    return Context(
        id=task_id,
        root_id=options.get("root_id"),
        parent_id=options.get("parent_id"),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        chord=options.get("chord"),
        chain=options.get("chain"),
        callbacks=options.get("link"),
        errbacks=options.get("link_error"),
        ignore_result=options.get("ignore_result", False),
        delivery_info={},
        task=SUBMIT,
        args=[],
        kwargs={},
    )


def publish(
    app: Celery,
    producer: Producer,
    name: str,
    task_id: str,
    args: list[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    headers: Mapping[str, Any] | None = None,
) -> None:
    """Send one message now, to the queue the first one was delivered from.

    Not through `send_task`: that would subscribe this process to the task's result.
    Raises `kombu.exceptions.OperationalError` when the broker cannot be reached.
    """
    route = route_of(options)
    headers = {**(options.get("headers") or {}), **(headers or {})}
    message = app.amqp.create_task_message(task_id, name, args, dict(kwargs), **_fields(options))
    if route["exchange"]:
        target: dict[str, Any] = {
            "exchange": route["exchange"],
            "routing_key": route["routing_key"],
            "exchange_type": "topic",
        }
    else:
        # The queue is there, as the first message came from it; declaring it anew might contradict it.
        target = {"queue": Queue(route["routing_key"] or app.conf.task_default_queue), "declare": []}
    if route["priority"] is not None:
        target["priority"] = route["priority"]
    app.amqp.send_task_message(
        producer, name, message, headers=headers, retry=True, retry_policy=_PUBLISH_POLICY, **target
    )


def sealed(
    app: Celery,
    name: str,
    task_id: str,
    args: list[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    headers: Mapping[str, Any] | None = None,
) -> list[Any]:
    """The headers and the body of the message that `publish` would send, to travel inside another one."""
    message = app.amqp.as_task_v2(task_id, name, tuple(args), dict(kwargs), **_fields(options))
    reply_to = message.properties["reply_to"]
    return [
        {**message.headers, "reply_to": reply_to, **(options.get("headers") or {}), **(headers or {})},
        list(message.body),
    ]


def route_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Where messages with these options go; None for what is not said."""
    return {name: options.get(name) for name in _ROUTE}


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """What `celery.app.amqp.AMQP.as_task_v2` (5.7) is to be given."""
    renamed = {"link": "callbacks", "link_error": "errbacks"}
    return {
        **{
            renamed.get(name, name): value
            for name, value in options.items()
            if name not in {*_ROUTE, "headers"}
        },
        "argsrepr": HIDDEN,
        "kwargsrepr": HIDDEN,
    }


def _ignores_result(task: Task[Any, Any], request: Context) -> bool:
    effective: Any = vars(celery_task)["get_actual_ignore_result"]  # the message's word, else the task's
    return bool(effective(task, request))
