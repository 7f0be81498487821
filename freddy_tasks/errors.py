"""Every error of the package, under one root.

FreddyError
 ├─ ConfigurationError        a setting is missing or wrong; the message names it
 │   └─ UnsupportedByServer   the server lacks background mode, the route, or the message shape
 ├─ InvalidRequest            the request was refused as it stands: correct it, then call again
 ├─ AccessDenied              the key was refused; an accepted response can be resumed with a good one
 ├─ SpendingLimitReached      a spending cap of the account; waiting does not help
 ├─ ServiceUnavailable        the API refused or could not be reached until the deadline
 ├─ OutcomeUnknown            the request may have been accepted, and nothing can tell: reconcile it
 ├─ LedgerLost                the state server no longer knows this response
 ├─ BatchFailed               more prompts of a batch have no answer than its `on_error` tolerates
 ├─ ResponseTimeout           not finished when its deadline passed
 └─ ResponseError             the API ended the response without an answer
     ├─ ResponseFailed        status `failed`
     ├─ ResponseIncomplete    status `incomplete`
     ├─ ResponseCancelled     status `cancelled`, not asked for through this package
     ├─ ResponseExpired       status `expired`, or past the retention of 24 hours
     └─ ResponseLost          the API answers that it has no such response

An error crosses the result backend as JSON through its positional arguments, so all of them take the same
two: a message and a dict of plain facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class FreddyError(Exception):
    """Root of everything this package raises.

    `message` says what happened and what to do. `info` holds plain JSON facts: `response_id`, `status`,
    `code`, `http_status`, `request_id`, `usage`, where they are known.
    """

    def __init__(self, message: str = "", info: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, dict(info or {}))

    def __str__(self) -> str:
        """The message, and the response's id where the message does not carry it."""
        response_id = self.response_id
        if not response_id or response_id in self.message:
            return self.message
        return f"{self.message} [{response_id}]"

    @property
    def message(self) -> str:
        """What happened and what to do."""
        return str(self.args[0])

    @property
    def info(self) -> dict[str, Any]:
        """The plain facts, as they crossed the result backend."""
        facts = self.args[1]
        return facts if isinstance(facts, dict) else {}

    @property
    def response_id(self) -> str | None:
        """Id of the response at the API, when it had one."""
        return self.info.get("response_id")

    @property
    def status(self) -> str | None:
        """Last status word of the response."""
        return self.info.get("status")

    @property
    def code(self) -> str | None:
        """The API's own error code: an open set of words."""
        return self.info.get("code")

    @property
    def http_status(self) -> int | None:
        """HTTP status of the reply that led here."""
        return self.info.get("http_status")

    @property
    def request_id(self) -> str | None:
        """The API's id of that request: quote it to their support."""
        return self.info.get("request_id")

    @property
    def resumable(self) -> bool:
        """True when the response may still end well: `freddy-tasks resume TASK_ID`."""
        return bool(self.info.get("resumable"))

    def to_result(self) -> dict[str, Any]:
        """The failure as a value, for `return_exceptions=True`; `from_result` reads it back."""
        error = {"type": type(self).__name__, "message": self.message, **self.info}
        return {"id": self.response_id, "status": self.status or "failed", "error": error}

    @classmethod
    def because(cls, message: str, **info: Any) -> Self:
        """An error with the facts that are known: those that are None are left out."""
        return cls(message, {name: fact for name, fact in info.items() if fact is not None})


class ConfigurationError(FreddyError):
    """A setting is missing or wrong; the message names the variable."""


class UnsupportedByServer(ConfigurationError):
    """The server lacks background mode, the status route, or the message shape in use."""


class InvalidRequest(FreddyError, ValueError):
    """The request was refused as it stands, by us or by the API: correct it, then call again."""


class AccessDenied(FreddyError):
    """The API refused the key (401) or its rights (403)."""


class SpendingLimitReached(FreddyError):
    """A spending cap of the account is reached; it is lifted by the account, not by time."""


class ServiceUnavailable(FreddyError):
    """The API refused or could not be reached until the deadline."""


class OutcomeUnknown(FreddyError):
    """The request may have been accepted, and the API has no way to ask: see `freddy-tasks reconcile`."""


class LedgerLost(FreddyError):
    """The state server no longer knows this response: it was flushed, or it evicted keys."""


class BatchFailed(FreddyError):
    """More prompts of a batch have no answer than its `on_error` tolerates.

    `info` holds `batch_id`, `counts` of all outcomes, and the `usage` of all together.
    """


class ResponseTimeout(FreddyError):
    """The response was not finished when its deadline passed."""


class ResponseError(FreddyError):
    """The API ended the response without an answer."""


class ResponseFailed(ResponseError):
    """The API reports status `failed`."""


class ResponseIncomplete(ResponseError):
    """The API reports status `incomplete`: it stopped early, for the reason in `info`."""


class ResponseCancelled(ResponseError):
    """The API reports status `cancelled`, though nobody asked for it through this package."""


class ResponseExpired(ResponseError):
    """The API reports status `expired`, or its retention of 24 hours has passed."""


class ResponseLost(ResponseError):
    """The API answers that it has no such response."""


def error_class(name: str) -> type[FreddyError]:
    """The class of that name in the tree; FreddyError itself for a name of another version."""
    pending: list[type[FreddyError]] = [FreddyError]
    while pending:
        candidate = pending.pop()
        if candidate.__name__ == name:
            return candidate
        pending.extend(candidate.__subclasses__())
    return FreddyError


def from_result(result: Mapping[str, Any]) -> FreddyError | None:
    """The error that a `return_exceptions=True` result stands for; None when it is an answer."""
    error = result.get("error")
    if not isinstance(error, Mapping) or "type" not in error or "message" not in error:
        return None
    facts = {name: fact for name, fact in error.items() if name not in {"type", "message"}}
    return error_class(str(error["type"]))(str(error["message"]), facts)
