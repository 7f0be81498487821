"""Faults by name: what goes wrong, for which calls and how often, in a line of text.

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
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from freddy_tasks.emulator import service_faults as service
from freddy_tasks.emulator import transport_faults as transport
from freddy_tasks.emulator.calls import METHODS, Call, Effect, Method
from freddy_tasks.emulator.durations import chance
from freddy_tasks.emulator.errors import Shape
from freddy_tasks.emulator.exchange import Delivery


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a name becomes an effect, and which methods it is for when none is given."""

    build: Callable[[str], Effect]
    default: str | None = None
    """The value when none is given; None: it must be given."""
    methods: tuple[Method, ...] = METHODS
    others: bool = True
    """Whether other methods may be asked for."""


def _plain(effect: Effect, *methods: Method) -> _Kind:
    def build(value: str) -> Effect:
        if value:
            raise ValueError("it takes no value")
        return effect

    return _Kind(build, "", methods or METHODS)


def _born(build: Callable[[str], Effect], default: str | None = "") -> _Kind:
    return _Kind(build, default, ("POST",), others=False)


def _ending(word: str) -> _Kind:
    return _born(lambda value: service.EndsAs(value or word))


def _shape(shape: Shape, status: int) -> _Kind:
    return _Kind(lambda value: transport.HttpError(_status(value), shape), str(status))


def _too_many(value: str) -> Effect:
    hint, _, seconds = value.partition(":")
    return transport.TooManyRequests(_one_of(transport.Hint, hint), _number(seconds or "2"))


def _number(value: str) -> float:
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


def _refusal(status: int, *methods: Method) -> _Kind:
    return _plain(transport.HttpError(status, message=_GONE[status]), *methods)


KINDS: Mapping[str, _Kind] = {
    "delay": _Kind(lambda value: transport.Delay(_number(value)), "1"),
    "hang": _plain(transport.Silence(Delivery.HANG)),
    "hang_after": _plain(transport.Silence(Delivery.HANG, accepted=True)),
    "reset_before": _plain(transport.Silence(Delivery.RESET)),
    "reset_after": _plain(transport.Silence(Delivery.RESET, accepted=True)),
    "cut": _plain(transport.Cut()),
    "truncated": _Kind(lambda value: transport.Truncated(_number(value)), "0.5"),
    "slow_loris": _Kind(lambda value: transport.Trickle(_number(value)), "1"),
    "huge": _Kind(lambda value: transport.HugeBody(int(_number(value))), "50000000"),
    "html": _shape("html", 200),
    "empty": _shape("empty", 200),
    "text": _shape("text", 200),
    "status": _shape("E1", 500),
    "E2": _shape("E2", 400),
    "E3": _shape("E3", 422),
    "E5": _shape("E5", 401),
    "E6": _shape("E6", 500),
    "echo": _shape("echo", 400),
    "429": _Kind(_too_many, "retry-after"),
    "503_long": _Kind(
        lambda value: transport.HttpError(503, message=_GONE[503], retry_after=_number(value)), "90"
    ),
    "404": _refusal(404, "GET"),
    "404_half": _refusal(404, "GET"),
    "route_404": _plain(transport.HttpError(404, "E4"), "GET"),
    "410": _refusal(410, "GET"),
    "401": _refusal(401),
    "redirect": _Kind(transport.Redirect),
    "skew": _Kind(lambda value: service.ClockSkew(float(value)), "3600"),
    "202": _Kind(lambda value: service.GoodStatus(_status(value)), "202", ("POST",)),
    "response_id": _plain(service.IdInResponseId(), "POST"),
    "new_id": _plain(service.NewIdWhenDone(), "GET"),
    "unknown_status": _Kind(service.UnknownStatus, "thinking", ("GET",)),
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


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, and the calls it hits: those for which every condition given holds.

    ValueError for a name, a value or a condition that makes no sense.
    """

    name: str
    value: str = ""
    """Empty: the name's default."""
    methods: tuple[Method, ...] = ()
    """Empty: the name's usual ones."""
    p: float = 1.0
    """The share of calls hit, from 0 to 1; which ones follows from seed, prompt and number of the call."""
    jobs: float = 1.0
    """The share of responses hit, from 0 to 1; which ones follows from seed and prompt."""
    first: int | None = None
    """Only so many calls of a method for each response (of POST: for each prompt), after those skipped."""
    nth: int | None = None
    """Only this call of a method for each response, from 1."""
    skip: int = 0
    """The calls of a method for each response that are left alone first."""
    job: int | None = None
    """Only the response created as the nth, from 1."""
    times: int | None = None
    """Only so many calls altogether, as they come."""
    seconds: float | None = None
    """Only for so long after the fault was put in, on the emulator's clock."""
    effect: Effect = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Turn name and value into the effect."""
        kind = KINDS.get(self.name)
        if kind is None:
            raise ValueError(f"no fault is called {self.name!r}; there are {', '.join(KINDS)}")
        if self.name == "404" and self.value:
            # `404=3` is how people say it; the count is a condition like any other.
            object.__setattr__(self, "first", int(_number(self.value)))
            object.__setattr__(self, "value", "")
        if not kind.others and set(self.methods) - set(kind.methods):
            raise ValueError(f"the fault {self.name} is decided at creation: it takes method POST only")
        if not (0 <= self.p <= 1 and 0 <= self.jobs <= 1):
            raise ValueError(f"p and jobs of the fault {self.name} are shares from 0 to 1")
        object.__setattr__(self, "methods", self.methods or kind.methods)
        object.__setattr__(self, "effect", self._build(kind))

    def _build(self, kind: _Kind) -> Effect:
        value = self.value or kind.default
        if value is None:
            raise ValueError(f"the fault {self.name} needs a value: {self.name}=...")
        try:
            return kind.build(value)
        except ValueError as error:
            raise ValueError(f"the fault {self.name} cannot take {value!r}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``NAME[=VALUE][@CONDITION=...]``: ``reset_after@first=1@method=POST``, ``429=plan:5@p=0.2``.

        Conditions: method (several with a comma), p, jobs, first, nth, skip, job, times, seconds. ValueError
        says what is wrong.
        """
        head, *conditions = text.strip().split("@")
        name, _, value = head.partition("=")
        return cls(name, value, **dict(_condition(each) for each in conditions))

    def __str__(self) -> str:
        """Return the text :meth:`parse` reads."""
        head = f"{self.name}={self.value}" if self.value else self.name
        method = "" if self.methods == KINDS[self.name].methods else f"@method={','.join(self.methods)}"
        told = ((name, getattr(self, name)) for name in _CONDITIONS)
        return head + method + "".join(f"@{name}={value:g}" for name, value in told if value != _UNSET[name])

    def hits(self, call: Call, seed: int, place: int, put_in_at: float) -> bool:
        """Tell whether the fault hits a call, ``times`` left aside; ``place`` is its own among the faults."""
        return (
            call.method in self.methods
            and self.job in (None, call.ordinal)
            and self.nth in (None, call.number)
            and call.number > self.skip
            and (self.first is None or call.number <= self.skip + self.first)
            and (self.seconds is None or call.now < put_in_at + self.seconds)
            and (self.name != "404_half" or call.number % 2 == 1)
            and (self.jobs >= 1 or chance(seed, place, *call.origin) < self.jobs)
            and (self.p >= 1 or chance(seed, place, call.method, *call.origin, call.number) < self.p)
        )


_CONDITIONS: Mapping[str, type[int] | type[float]] = {
    "p": float,
    "jobs": float,
    "first": int,
    "nth": int,
    "skip": int,
    "job": int,
    "times": int,
    "seconds": float,
}
_UNSET: Mapping[str, float | None] = dict.fromkeys(_CONDITIONS) | {"p": 1.0, "jobs": 1.0, "skip": 0}


def _condition(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name == "method":
        methods = tuple(value.upper().split(","))
        if set(methods) - set(METHODS):
            raise ValueError(f"a fault's method is {', '.join(METHODS)}: got {value!r}")
        return "methods", cast("tuple[Method, ...]", methods)
    if name not in _CONDITIONS:
        raise ValueError(f"a fault knows no condition {name!r}: there are method, {', '.join(_CONDITIONS)}")
    try:
        return name, _CONDITIONS[name](value)
    except ValueError as error:
        raise ValueError(f"a fault's {name} is a number: got {value!r}") from error


class FaultList:
    """The faults in force. Not locked: the caller holds the emulator's lock."""

    def __init__(self, faults: tuple[Fault, ...], now: float) -> None:
        self.faults = faults
        self._put_in_at = now
        self._taken: Counter[int] = Counter()

    def take(self, call: Call, seed: int) -> list[Fault]:
        """Return the faults that hit a call, and count them."""
        return [
            fault
            for place, fault in enumerate(self.faults)
            if fault.hits(call, seed, place, self._put_in_at) and self._take_one(fault, place)
        ]

    def _take_one(self, fault: Fault, place: int) -> bool:
        if fault.times is not None and self._taken[place] >= fault.times:
            return False
        self._taken[place] += 1
        return True
