"""The error bodies seen in the wild, E1 to E6, and the refusal that becomes one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from freddy_tasks.emulator.exchange import JsonObject, Reply

Shape = Literal["E1", "E2", "E3", "E4", "E5", "E6", "echo", "html", "text", "empty"]
"""E1: today's body. E2: the older guide's. E3: a list of validation errors, which repeats the input. E4:
the framework's own. E5: the one that repeats the caller's key. E6: a bare `error` string. echo: an E1 that
repeats whatever it was sent. The rest are not JSON."""

CODES = {
    400: "BAD_REQUEST",
    401: "INVALID_API_KEY",
    403: "ACCESS_DENIED",
    404: "RESOURCE_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    410: "RESOURCE_GONE",
    413: "PAYLOAD_TOO_LARGE",
    422: "VALIDATION_ERROR",
    429: "RATE_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    501: "NOT_IMPLEMENTED",
    502: "BAD_GATEWAY",
    503: "SERVICE_UNAVAILABLE",
    504: "GATEWAY_TIMEOUT",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What an error body is made from."""

    status: int
    message: str = "Something went wrong"
    code: str | None = None
    """None: the usual one of this status."""
    details: Mapping[str, object] = field(default_factory=dict)
    trace_id: str = ""
    now: float = 0.0
    key: str = field(default="", repr=False)
    """The caller's key, for E5."""
    prompt: str = field(default="", repr=False)
    """The caller's prompt, for E3."""


class Refusal(Exception):
    """The service says no: what the error body says, its shape, and headers of its own."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        shape: Shape = "E1",
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        self.details = details or {}
        self.headers = headers
        self.shape = shape


def error_reply(shape: Shape, trouble: Trouble, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Return the reply with the body in one of the shapes."""
    match shape:
        case "html":
            page = f"<html><body><h1>{trouble.status} {trouble.message}</h1></body></html>"
            return Reply(trouble.status, page.encode(), headers, "text/html; charset=utf-8")
        case "text":
            return Reply(trouble.status, trouble.message.encode(), headers, "text/plain; charset=utf-8")
        case "empty":
            return Reply(trouble.status, b"", headers)
    return Reply(trouble.status, _json_body(shape, trouble), headers)


def _json_body(shape: Shape, trouble: Trouble) -> JsonObject:
    match shape:
        case "E2":
            return _older_body(trouble)
        case "E3":
            return {
                "detail": [
                    {"loc": ["body"], "msg": trouble.message, "type": "value_error", "input": trouble.prompt}
                ]
            }
        case "E4":
            return {"detail": "Method Not Allowed" if trouble.status == 405 else "Not Found"}
        case "E5":
            return {"title": "Unauthorized", "message": f"Invalid headerApiKey: {trouble.key}."}
        case "E6":
            return {"error": trouble.message}
        case "echo":
            message = f"Cannot use key {trouble.key} for: {trouble.prompt}"
            return {"success": False, "error": _today_error(replace(trouble, message=message))}
    return {"success": False, "error": _today_error(trouble)}


def _today_error(trouble: Trouble) -> JsonObject:
    return {
        "code": _code(trouble),
        "message": trouble.message,
        "system_message": trouble.message,
        "type": "server_error" if trouble.status >= 500 else "client_error",
        "status": trouble.status,
        "details": dict(trouble.details),
        "trace_id": trouble.trace_id,
        "timestamp": iso_moment(trouble.now),
    }


def _older_body(trouble: Trouble) -> JsonObject:
    return {
        "detail": trouble.message,
        "status_code": trouble.status,
        "error_type": _code(trouble).lower(),
        "meta": {"timestamp": iso_moment(trouble.now), "request_id": trouble.trace_id},
        "errors": [{"field": "request", "message": trouble.message, "code": _code(trouble)}],
    }


def _code(trouble: Trouble) -> str:
    return trouble.code or CODES.get(trouble.status, "UNKNOWN_ERROR")


def iso_moment(now: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
