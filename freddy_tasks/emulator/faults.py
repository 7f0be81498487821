"""A fault: what goes wrong, for which calls and how often, in a line of text.

The names are in :mod:`freddy_tasks.emulator.catalogue`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from freddy_tasks.emulator.calls import METHODS, Call, Effect, Method
from freddy_tasks.emulator.catalogue import KINDS, Kind, number
from freddy_tasks.emulator.durations import chance


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
            object.__setattr__(self, "first", int(number(self.value)))
            object.__setattr__(self, "value", "")
        if not kind.others and set(self.methods) - set(kind.methods):
            raise ValueError(f"the fault {self.name} is decided at creation: it takes method POST only")
        if not (0 <= self.p <= 1 and 0 <= self.jobs <= 1):
            raise ValueError(f"p and jobs of the fault {self.name} are shares from 0 to 1")
        object.__setattr__(self, "methods", self.methods or kind.methods)
        object.__setattr__(self, "effect", self._build(kind))

    def _build(self, kind: Kind) -> Effect:
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
        return head + method + "".join(f"@{name}={value}" for name, value in told if value != _UNSET[name])

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
