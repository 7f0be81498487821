"""The chord of a batch: its header, its body, and what stands in for a body that Celery does not call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import chord
from celery.canvas import Signature

from freddy_tasks import tasks as response_tasks
from freddy_tasks.calls import check_call
from freddy_tasks.errors import InvalidRequest

from .broker import queue_of
from .items import Item
from .record import FAIL_FAST, Record
from .tasks import COLLECT_BATCH, SALVAGE_BATCH, collect_batch, salvage_batch, stop_batch

_ROUTE = ("queue", "exchange", "routing_key", "priority")  # of the group options: for the body as well
_KEPT = {"ignore_result": False}  # an app may have it otherwise for its tasks, and an answer is paid for


@dataclass(frozen=True, slots=True)
class Call:
    """What the caller asked for, for as long as it lives: prompts are kept nowhere else."""

    items: tuple[Item, ...] = field(repr=False)
    callback: Signature[Any] | None
    errback: Signature[Any] | None
    group_options: Mapping[str, Any]
    options: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("callback", "errback"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, Signature):
                raise InvalidRequest(f"`{name}` is a Celery signature, as `your_task.s()` makes one.")


def check(item: Item, options: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest`, naming the item, where it cannot be sent with these options."""
    try:
        check_call(item.prompt, **{**options, **item.options})
    except InvalidRequest as error:
        raise InvalidRequest(f"Item {item.id!r}: {error.message}") from None


def body_of(call: Call, kept: Record, batch: str | Mapping[str, Any]) -> Signature[Any]:
    """The body of the chord, with all that follows from it."""
    body: Signature[Any] = collect_batch.s(batch).set(**_route(call), **_KEPT, task_id=kept.body_id)
    if call.callback is not None:
        body.link(_callback(call.callback, kept))
    if kept.on_error != FAIL_FAST and isinstance(batch, str):
        body.link_error(_salvage(call, kept))
    elif call.errback is not None:
        body.link_error(call.errback)
    return body


def queues_of(call: Call) -> tuple[str, ...] | None:
    """Where the messages that end the batch wait; None when that cannot be told."""
    app, route = response_tasks.process_ai_response.app, _route(call)
    names = {queue_of(app, name, route) for name in (COLLECT_BATCH, SALVAGE_BATCH)}
    return None if None in names else tuple(sorted(filter(None, names)))


def addressed(body: Signature[Any]) -> Signature[Any]:
    """The body with the queues in it that this app sends it, and its errbacks, to.

    Workers of another app, which routes otherwise, may be the ones that publish it.
    """
    app, copy = response_tasks.process_ai_response.app, body.clone()
    for signature in (copy, *(copy.options.get("link_error") or ())):
        route = {name: signature["options"][name] for name in _ROUTE if name in signature["options"]}
        if queue := queue_of(app, signature["task"], route):
            signature["options"]["queue"] = queue
    return copy


def publish(call: Call, kept: Record, body: Signature[Any]) -> Any:
    """Publish the chord; in eager mode, run it."""
    members = _members(call, kept, kept.on_error == FAIL_FAST)
    # Of a group that a chord is made of, `celery.canvas` (5.7) would forget the id.
    return chord(members, task_id=kept.group_id)(body, task_id=kept.body_id)


def _members(call: Call, kept: Record, fails_fast: bool) -> Iterator[Signature[Any]]:
    stop = stop_batch.s(kept.id).set(**_route(call))
    for index, item in enumerate(call.items):
        options = {**call.options, **item.options, "return_exceptions": not fails_fast}
        member = response_tasks.process_ai_response.s(item.prompt, **options)
        member.set(**{**call.group_options, **_KEPT}, task_id=kept.task_id(index))
        if fails_fast:
            member.link_error(stop)
        yield member


def _salvage(call: Call, kept: Record) -> Signature[Any]:
    salvage: Signature[Any] = salvage_batch.s(kept.id).set(**_route(call), **_KEPT, task_id=kept.salvage_id)
    if call.callback is not None:
        salvage.link(_callback(call.callback, kept))
    if call.errback is not None:
        salvage.link_error(call.errback)
    return salvage


def _callback(callback: Signature[Any], kept: Record) -> Signature[Any]:
    return callback if callback.id else callback.clone(task_id=kept.callback_id)


def _route(call: Call) -> dict[str, Any]:
    return {name: call.group_options[name] for name in _ROUTE if name in call.group_options}
