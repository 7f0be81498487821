"""Effects of the network and of HTTP: what can go wrong around any call."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Literal

from freddy_tasks.emulator.calls import Call, Proceed
from freddy_tasks.emulator.errors import Shape, Trouble, error_reply
from freddy_tasks.emulator.exchange import Delivery, Reply


@dataclass(frozen=True, slots=True)
class Delay:
    """Answers late, by seconds of the emulator's clock (real seconds where that stands still)."""

    seconds: float

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Wait, then do as asked."""
        call.wait(self.seconds)
        return proceed(call)


@dataclass(frozen=True, slots=True)
class Silence:
    """Gives no reply: the connection is reset, or hangs; ``accepted``: after doing as asked.

    A create that is accepted and not answered leaves a response nobody knows.
    """

    delivery: Literal[Delivery.HANG, Delivery.RESET]
    accepted: bool = False

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Say nothing."""
        reply = proceed(call) if self.accepted else Reply(500, b"")
        return replace(reply, delivery=self.delivery)


@dataclass(frozen=True, slots=True)
class Cut:
    """Closes the connection in the middle of the reply."""

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Do as asked and send half of the reply."""
        return replace(proceed(call), delivery=Delivery.CUT)


@dataclass(frozen=True, slots=True)
class Trickle:
    """Sends the reply byte by byte, head included, each after this many real seconds."""

    seconds_per_byte: float = 1.0

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Do as asked and send the reply slowly."""
        return replace(proceed(call), seconds_per_byte=self.seconds_per_byte)


@dataclass(frozen=True, slots=True)
class HttpError:
    """Answers with an error in place of doing as asked. A status of 200 with an odd shape is possible too."""

    status: int = 503
    shape: Shape = "E1"
    code: str | None = None
    message: str = "Something went wrong"
    retry_after: float | None = None

    def __call__(self, call: Call, proceed: Proceed) -> Reply:  # noqa: ARG002
        """Answer with the error body."""
        trouble = Trouble(
            self.status,
            self.message,
            self.code,
            trace_id=call.trace_id,
            now=call.now,
            key=call.key,
            prompt=call.prompt,
        )
        headers = () if self.retry_after is None else (("Retry-After", f"{self.retry_after:g}"),)
        return error_reply(self.shape, trouble, headers)


Hint = Literal["retry-after", "http-date", "plan", "openai", "body", "details", "none", "spend"]


@dataclass(frozen=True, slots=True)
class TooManyRequests:
    """Answers 429 and says when to come back in one way only, or not at all; `spend` is the monthly cap."""

    hint: Hint = "retry-after"
    seconds: float = 2.0

    def __call__(self, call: Call, proceed: Proceed) -> Reply:  # noqa: ARG002
        """Answer 429 without the usual headers of the plan."""
        if self.hint == "spend":
            message = "Monthly usage limit of 50.00 CHF exceeded for this organization"
            # The real code was never seen; this one is ours.
            trouble = Trouble(429, message, "USAGE_LIMIT_EXCEEDED", trace_id=call.trace_id, now=call.now)
        else:
            trouble = Trouble(429, "Too many requests", trace_id=call.trace_id, now=call.now)
        reply = replace(error_reply("E1", trouble, self._headers(call.now)), rate_headers=False)
        return self._with_body_hint(reply)

    def _headers(self, now: float) -> tuple[tuple[str, str], ...]:
        seconds = f"{self.seconds:g}"
        match self.hint:
            case "retry-after":
                return (("Retry-After", seconds),)
            case "http-date":
                return (("Retry-After", formatdate(math.ceil(now + self.seconds), usegmt=True)),)
            case "plan":
                reset = str(math.ceil(now + self.seconds))
                return (("X-RateLimit-Reset", reset), ("X-RateLimit-Retry-After", seconds))
            case "openai":
                return (("x-ratelimit-reset-requests", seconds + "s"),)
        return ()

    def _with_body_hint(self, reply: Reply) -> Reply:
        error = reply.json()["error"]
        if self.hint == "body":
            error["retry_after"] = self.seconds
        elif self.hint == "details":
            error["details"]["retry_after"] = self.seconds
        return reply


@dataclass(frozen=True, slots=True)
class Redirect:
    """Sends the caller to another host: ``url`` is its scheme and host."""

    url: str
    status: int = 307

    def __call__(self, call: Call, proceed: Proceed) -> Reply:  # noqa: ARG002
        """Answer with a Location."""
        return Reply(self.status, b"", (("Location", self.url.rstrip("/") + call.path),))


@dataclass(frozen=True, slots=True)
class Truncated:
    """Sends the first part of the body as if it were all of it."""

    share: float = 0.5

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Do as asked and lose the rest of the body."""
        reply = proceed(call)
        whole = reply.encoded()
        return replace(reply, body=whole[: int(len(whole) * self.share)])


@dataclass(frozen=True, slots=True)
class HugeBody:
    """Sends this many bytes of blanks after the body: valid JSON, if anyone reads that far."""

    size: int = 50_000_000

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Do as asked and answer at length."""
        return replace(proceed(call), padding=self.size)
