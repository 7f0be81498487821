"""One call of the API on its way to being answered, and what may come between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from freddy_tasks.emulator.exchange import Reply
from freddy_tasks.emulator.jobs import PLAIN, Life

Method = Literal["POST", "GET", "DELETE"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, slots=True)
class Call:
    """One authorised, admitted call; what a fault is given."""

    method: Method
    path: str
    response_id: str
    """Empty for a create."""
    origin: tuple[str, int]
    """The prompt's digest and its occurrence: what chance goes by. An unknown response has its path and 0."""
    number: int
    """How many calls of this method came for this response (for a create: with this prompt), from 1."""
    ordinal: int
    """Number of the response among all, from 1; a create is given the one it would get. 0: unknown."""
    now: float
    trace_id: str
    wait: Callable[[float], None] = field(repr=False)
    """Waits for seconds of the emulator's clock, less when the emulator stops."""
    key: str = field(default="", repr=False)
    prompt: str = field(default="", repr=False)
    """A create's prompt, later the topic of it."""
    life: Life = PLAIN
    """On create: how the response will go."""


Proceed = Callable[[Call], Reply]
Effect = Callable[[Call, Proceed], Reply]
"""Answers a call: by itself, or by ``proceed(call)`` with the call or the reply changed."""


def through(effects: list[Effect], action: Proceed) -> Proceed:
    """Return the action with the effects around it, the first outermost."""
    for effect in reversed(effects):
        action = _around(effect, action)
    return action


def _around(effect: Effect, action: Proceed) -> Proceed:
    return lambda call: effect(call, action)
