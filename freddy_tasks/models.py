"""The values that travel: a request, a response as the API tells it, a job as we keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum, StrEnum
from typing import Any, Self


class Status(StrEnum):
    """Where a response stands, in the API's words."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INCOMPLETE = "incomplete"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.INCOMPLETE, Status.EXPIRED})


class Lane(StrEnum):
    """Who goes first when the plan's requests are short."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class RateHints:
    """What one reply says about the plan's limit: requests, and moments in Unix seconds."""

    limit: int | None = None
    remaining: int | None = None
    reset_at: float | None = None
    retry_at: float | None = None
    skew: float | None = field(default=None, compare=False)  # seconds: the API's clock less this machine's


@dataclass(frozen=True, slots=True)
class Response:
    """A response as one reply tells it; `body` is the reply as it came, unknown fields included."""

    id: str | None
    status: Status
    word: str  # the status as the API spelled it
    body: Mapping[str, Any] = field(repr=False)
    created_at: float | None = None  # Unix seconds by the API's clock, as are the next two
    started_at: float | None = None
    completed_at: float | None = None
    progress: float | None = None  # 0 to 1
    output_text: str = field(default="", repr=False)
    error_code: str | None = None
    error_message: str | None = None
    request_id: str | None = None
    background_ignored: bool = False  # the submit brought a finished answer: there is nothing to poll

    @property
    def terminal(self) -> bool:
        """True when nothing more will happen to it."""
        return self.status in TERMINAL


class FailureKind(Enum):
    """What a call that brought no response means for the next step."""

    UNSENT = "unsent"  # nothing left this machine: repeat freely
    TRANSIENT = "transient"  # sent, no usable answer: a GET repeats, a POST has an unknown outcome
    RATE_LIMITED = "rate_limited"  # refused, for now
    SPENDING_LIMIT = "spending_limit"  # refused until the account's cap is lifted
    DENIED = "denied"  # 401, 403
    NOT_FOUND = "not_found"  # no such response
    GONE = "gone"  # 410: it was there, and is not any more
    UNSUPPORTED = "unsupported"  # no such route, method, or field on this server
    REFUSED = "refused"  # 400, 409, 413, 422: as it stands, never
    CONFLICT = "conflict"  # 409 to a cancel: not in a state to be cancelled


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call that brought no response: what it means, and what the server said, redacted."""

    kind: FailureKind
    message: str  # one line, for a person; ends with what to do where we know it
    http_status: int | None = None
    code: str | None = None
    request_id: str | None = None


Seen = Response | CallFailed


@dataclass(frozen=True, slots=True)
class Reply:
    """One call's outcome and what came with it about the limit."""

    seen: Seen
    hints: RateHints = RateHints()


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the API. Its repr is short: it holds the prompt."""

    prompt: str | list[Any] = field(repr=False)
    model: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """Our record of one response in flight: small JSON, never the prompt, never the key."""

    deadline: float  # Unix seconds by the state server's clock, as is submitted_at
    model: str
    submitted_at: float = 0.0
    response_id: str = ""
    status: Status = Status.QUEUED  # as last seen
    label: str = ""  # the caller's class of prompts, for learned polling
    expected: float | None = None  # the caller's estimate of the whole, in seconds
    lane: Lane = Lane.NORMAL
    return_exceptions: bool = False
    unknown_word: str = ""  # the last status seen that is none of ours, as the API spelled it
    polls: int = 0  # looks that brought an answer
    failures: int = 0  # calls that failed in a row
    unknown_submits: int = 0  # submits of which nobody knows whether they were accepted
    missing_since: float | None = None  # Unix seconds of the first 404 in a row
    started_at: float | None = None  # Unix seconds, by our clock, when first seen running
    progress: float | None = None  # 0 to 1

    def to_message(self) -> dict[str, Any]:
        """Plain JSON; fields at their default are left out."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if getattr(self, item.name) != item.default
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Read `to_message` back; fields of another version are ignored."""
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in message.items() if name in known}
        if "status" in values:
            values["status"] = Status(values["status"])
        if "lane" in values:
            values["lane"] = Lane(values["lane"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ResponseResult:
    """A typed view of the dict that `AsyncResult.get()` returns.

    Times are Unix seconds by the API's clock. `raw` is the whole dict, with whatever else the API sent.
    """

    id: str
    status: Status
    output_text: str = field(repr=False)
    polls: int
    created_at: float | None
    completed_at: float | None
    output: tuple[Any, ...] = field(repr=False)
    usage: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Self:
        """Read a result; whatever is absent there is empty here."""
        return cls(
            id=str(result.get("id") or ""),
            status=Status(result.get("status", Status.UNKNOWN)),
            output_text=str(result.get("output_text") or ""),
            polls=int(result.get("polls") or 0),
            created_at=result.get("created_at"),
            completed_at=result.get("completed_at"),
            output=tuple(result.get("output") or ()),
            usage=dict(result.get("usage") or {}),
            raw=dict(result),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON of the typed fields."""
        typed = asdict(self)
        typed.pop("raw")
        return typed
