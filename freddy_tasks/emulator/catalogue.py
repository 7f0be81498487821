"""Every fault there is, by name.

==================== ========================= =====================================================
name                 value (default)           what happens
==================== ========================= =====================================================
delay                seconds (1)               the reply is late
hang, hang_after                               no reply, the connection stays open; after doing as asked
reset_before                                   the connection is reset, nothing was done
reset_after                                    done as asked, the reply is lost: on POST an unknown job
cut                                            the connection closes in the middle of the reply
truncated            share kept (0.5)          half of the JSON, as if it were all
slow_loris           seconds per byte (1)      the reply trickles
huge                 bytes (50000000)          blanks after the body
html, empty, text    status (200)              a body that is not JSON
status               HTTP status (500)         an error body E1
E2, E3, E5, E6       HTTP status               that error body; E3 repeats the prompt, E5 the key
echo                 HTTP status (400)         an E1 that repeats prompt and key
429                  hint[:seconds]            too many requests; hints: retry-after, http-date, plan,
                                               openai, body, details, none, spend
503_long             Retry-After (90)          unavailable for longer than a minute
404                  first polls (all)         no such response (E1), GET only
404_half                                       every second GET: one worker of two knows the response
route_404                                      no such route (E4), GET only
410                                            gone, GET only
401                                            the key is refused
redirect             scheme and host           307 to another host
skew                 seconds (3600)            the server's clock is off
202                  HTTP status (202)         a good create has another status
response_id                                    a create's id is called `response_id`
new_id                                         the finished object has another id
unknown_status       word (thinking)           a running response shows a word no page knows
backwards                                      `in_progress`, `queued`, `in_progress`, ...
uppercase                                      `QUEUED`, `COMPLETED`
stuck                status (in_progress)      never leaves `queued` or `in_progress`
ends                 word                      ends with this word
canceled, cancelled                            ends with this word
incomplete, expired                            ends with this word
cancel_race                                    `cancelled` when asked to, `completed` all the same
empty_output                                   `completed`, `output` is []
no_output                                      `completed`, neither `output` nor `usage`
failed               error (object)            `failed` with an error object, string, null, absent or
                                               echo (repeats the prompt)
==================== ========================= =====================================================

Those from ``stuck`` on are decided when the response is created, so they take POST only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from freddy_tasks.emulator import service_faults as service
from freddy_tasks.emulator import transport_faults as transport
from freddy_tasks.emulator.calls import METHODS, Effect, Method
from freddy_tasks.emulator.errors import Shape
from freddy_tasks.emulator.exchange import Delivery


@dataclass(frozen=True, slots=True)
class Kind:
    """How a name becomes an effect, and which methods it is for when none is given."""

    build: Callable[[str], Effect]
    default: str | None = None
    """The value when none is given; None: it must be given."""
    methods: tuple[Method, ...] = METHODS
    others: bool = True
    """Whether other methods may be asked for."""


def _plain(effect: Effect, *methods: Method) -> Kind:
    def build(value: str) -> Effect:
        if value:
            raise ValueError("it takes no value")
        return effect

    return Kind(build, "", methods or METHODS)


def _born(build: Callable[[str], Effect], default: str | None = "") -> Kind:
    return Kind(build, default, ("POST",), others=False)


def _ending(word: str) -> Kind:
    return _born(lambda value: service.EndsAs(value or word))


def _shape(shape: Shape, status: int) -> Kind:
    return Kind(lambda value: transport.HttpError(_status(value), shape), str(status))


def _too_many(value: str) -> Effect:
    hint, _, seconds = value.partition(":")
    return transport.TooManyRequests(_one_of(transport.Hint, hint), number(seconds or "2"))


def number(value: str) -> float:
    """Return a number of 0 or more; ValueError for anything else."""
    number = float(value)
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError("it takes a number of 0 or more")
    return number


def _status(value: str) -> int:
    status = int(value)
    if not 200 <= status <= 599:
        raise ValueError("it takes an HTTP status from 200 to 599")
    return status


def _one_of(words: object, value: str) -> Any:
    if value not in get_args(words):
        raise ValueError(f"it takes one of {', '.join(get_args(words))}")
    return value


_GONE = {
    404: "Response not found",
    410: "Response is gone",
    401: "Invalid API key",
    503: "Service unavailable",
}


def _refusal(status: int, *methods: Method) -> Kind:
    return _plain(transport.HttpError(status, message=_GONE[status]), *methods)


KINDS: Mapping[str, Kind] = {
    "delay": Kind(lambda value: transport.Delay(number(value)), "1"),
    "hang": _plain(transport.Silence(Delivery.HANG)),
    "hang_after": _plain(transport.Silence(Delivery.HANG, accepted=True)),
    "reset_before": _plain(transport.Silence(Delivery.RESET)),
    "reset_after": _plain(transport.Silence(Delivery.RESET, accepted=True)),
    "cut": _plain(transport.Cut()),
    "truncated": Kind(lambda value: transport.Truncated(number(value)), "0.5"),
    "slow_loris": Kind(lambda value: transport.Trickle(number(value)), "1"),
    "huge": Kind(lambda value: transport.HugeBody(int(number(value))), "50000000"),
    "html": _shape("html", 200),
    "empty": _shape("empty", 200),
    "text": _shape("text", 200),
    "status": _shape("E1", 500),
    "E2": _shape("E2", 400),
    "E3": _shape("E3", 422),
    "E5": _shape("E5", 401),
    "E6": _shape("E6", 500),
    "echo": _shape("echo", 400),
    "429": Kind(_too_many, "retry-after"),
    "503_long": Kind(
        lambda value: transport.HttpError(503, message=_GONE[503], retry_after=number(value)), "90"
    ),
    "404": _refusal(404, "GET"),
    "404_half": _refusal(404, "GET"),
    "route_404": _plain(transport.HttpError(404, "E4"), "GET"),
    "410": _refusal(410, "GET"),
    "401": _refusal(401),
    "redirect": Kind(transport.Redirect),
    "skew": Kind(lambda value: service.ClockSkew(float(value)), "3600"),
    "202": Kind(lambda value: service.GoodStatus(_status(value)), "202", ("POST",)),
    "response_id": _plain(service.IdInResponseId(), "POST"),
    "new_id": _plain(service.NewIdWhenDone(), "GET"),
    "unknown_status": Kind(service.UnknownStatus, "thinking", ("GET",)),
    "backwards": _plain(service.BackwardStatus(), "GET"),
    "uppercase": _plain(service.UpperCaseStatus()),
    "stuck": _born(lambda value: service.Stuck(_one_of(service.RunningWord, value)), "in_progress"),
    "ends": _born(service.EndsAs, None),
    "canceled": _ending("canceled"),
    "cancelled": _ending("cancelled"),
    "incomplete": _ending("incomplete"),
    "expired": _ending("expired"),
    "cancel_race": _born(lambda _: service.CompletesAfterCancel()),
    "empty_output": _born(lambda _: service.CompletesWithout("empty")),
    "no_output": _born(lambda _: service.CompletesWithout("absent")),
    "failed": _born(lambda value: service.Fails(_one_of(service.ErrorForm, value)), "object"),
}
"""Every fault there is, by name."""
