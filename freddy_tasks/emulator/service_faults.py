"""Effects of the service itself: responses that go wrong, and odd but well-formed bodies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from freddy_tasks.emulator.calls import Call, Proceed
from freddy_tasks.emulator.exchange import JsonObject, Reply
from freddy_tasks.emulator.jobs import FAILURE, RUNNING

RunningWord = Literal["queued", "in_progress"]
ErrorForm = Literal["object", "string", "null", "absent", "echo"]
TIMES = ("created_at", "completed_at", "createdAt", "startedAt", "completedAt", "cancelledAt")


@dataclass(frozen=True, slots=True)
class Stuck:
    """The response never leaves this status."""

    status: RunningWord = "in_progress"

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Create a response that stays."""
        return proceed(replace(call, life=replace(call.life, stuck=self.status)))


@dataclass(frozen=True, slots=True)
class EndsAs:
    """The response ends with this status word: `incomplete`, `expired`, `canceled`, or any other."""

    status: str

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Create a response with another end."""
        return proceed(replace(call, life=replace(call.life, ending=self.status)))


@dataclass(frozen=True, slots=True)
class Fails:
    """The response ends as `failed`; its `error` is an object, a string, null, absent or `echo`es."""

    error: ErrorForm = "object"

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Create a response that will fail."""
        errors: dict[str, object] = {
            "object": FAILURE,
            "string": FAILURE["message"],
            "echo": FAILURE | {"message": f"The model refused this prompt: {call.prompt}"},
        }
        error, named = errors.get(self.error), self.error != "absent"
        return proceed(
            replace(call, life=replace(call.life, ending="failed", error=error, names_error=named))
        )


@dataclass(frozen=True, slots=True)
class CompletesAfterCancel:
    """The response says `cancelled` when asked to, and ends all the same when its time has come."""

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Create a response that cannot really be cancelled."""
        return proceed(replace(call, life=replace(call.life, cancel_holds=False)))


@dataclass(frozen=True, slots=True)
class CompletesWithout:
    """The response completes with an empty `output`, or with none and no `usage`."""

    output: Literal["empty", "absent"] = "empty"

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Create a response without an answer."""
        return proceed(replace(call, life=replace(call.life, output=self.output)))


@dataclass(frozen=True, slots=True)
class UnknownStatus:
    """A running response shows a word no page knows."""

    word: str = "thinking"

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Replace the running words."""
        reply = proceed(call)
        return _with(reply, status=self.word) if _is_running(reply) else reply


@dataclass(frozen=True, slots=True)
class UpperCaseStatus:
    """Status words in capitals."""

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Shout."""
        reply = proceed(call)
        return _with(reply, status=str(reply.json()["status"]).upper()) if "status" in reply.json() else reply


@dataclass(frozen=True, slots=True)
class BackwardStatus:
    """A running response shows `in_progress` and `queued` in turns."""

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Show `queued` at every second poll."""
        reply = proceed(call)
        word = "in_progress" if call.number % 2 else "queued"
        return _with(reply, status=word) if _is_running(reply) else reply


@dataclass(frozen=True, slots=True)
class IdInResponseId:
    """The id is in `response_id` instead of `id`."""

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Rename the field."""
        reply = proceed(call)
        return _with(_without(reply, "id"), response_id=reply.json()["id"]) if "id" in reply.json() else reply


@dataclass(frozen=True, slots=True)
class GoodStatus:
    """A good reply has another HTTP status: 201, 202."""

    status: int = 202

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Change the status of a 200."""
        reply = proceed(call)
        return replace(reply, status=self.status) if reply.status == 200 else reply


@dataclass(frozen=True, slots=True)
class NewIdWhenDone:
    """The finished object carries another id than the one it is retrieved by."""

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Change the id of a response that has ended."""
        reply = proceed(call)
        ended = "id" in reply.json() and not _is_running(reply)
        return _with(reply, id="resp_done_" + call.response_id.removeprefix("resp_")) if ended else reply


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """The server's clock is off by this many seconds: its times in bodies and its Date."""

    seconds: float

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Shift every time in the reply."""
        reply = proceed(call)
        body = reply.json()
        moved = {name: body[name] + int(self.seconds) for name in TIMES if body.get(name) is not None}
        return replace(_with(reply, **moved), date_offset=self.seconds)


def _is_running(reply: Reply) -> bool:
    return reply.json().get("status") in (*RUNNING, "processing")


def _with(reply: Reply, **changes: object) -> Reply:
    return replace(reply, body=reply.json() | changes) if changes else reply


def _without(reply: Reply, *names: str) -> Reply:
    kept: JsonObject = {name: value for name, value in reply.json().items() if name not in names}
    return replace(reply, body=kept)
