"""The API's wire format: requests out, replies in, in both dialects. Pure.

The only module that knows field names. Reading is total: whatever bytes a server sends, the reading
functions return a `Response` or a `CallFailed`, and raise nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from .answers import holds_answer, output_text, terminal_result
from .errors import InvalidRequest
from .hints import MILLISECONDS_FROM
from .models import CallFailed, FailureKind, Request, Response, Seen, Status
from .redaction import one_line, one_word, opening
from .refusals import Call, read_failure, request_id

__all__ = [
    "check_request",
    "create_body",
    "output_text",
    "parse_json",
    "read_cancelled",
    "read_created",
    "read_retrieved",
    "terminal_result",
]

MessageShape = Literal["texts", "content"]

STATUSES = {
    "queued": Status.QUEUED,
    "pending": Status.QUEUED,
    "inprogress": Status.IN_PROGRESS,
    "processing": Status.IN_PROGRESS,
    "requiresaction": Status.IN_PROGRESS,
    "cancelling": Status.IN_PROGRESS,
    "canceling": Status.IN_PROGRESS,
    "completed": Status.COMPLETED,
    "failed": Status.FAILED,
    "cancelled": Status.CANCELLED,
    "canceled": Status.CANCELLED,
    "incomplete": Status.INCOMPLETE,
    "expired": Status.EXPIRED,
}
"""Every word the API is known to use for runs, jobs and responses; letters only, in lower case."""

GRANTED_EMPTY = frozenset({202, 204})
"""Statuses of a cancel that mean what they say without a body; a bare 200 may be a reply cut short."""

OURS = {
    "inputs": "it is made from the prompt",
    "model": "name the model beside the prompt",
    "stream": "a background response is polled, not streamed",
    "background": "every request is sent in background mode",
}
"""Fields of the request that the caller cannot set, and why."""


def check_request(prompt: object, fields: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` for what can never be sent; the message never repeats the prompt.

    A prompt is a text that is not blank, or a non-empty list of messages, each a JSON object with a `role`,
    sent as they are. Fields are JSON by name, none of them in `OURS`.
    """
    _check_prompt(prompt)
    for name, value in fields.items():
        if not isinstance(name, str):
            raise InvalidRequest(f"Names of fields are strings, not {type(name).__name__}.")
        if name in OURS:
            raise InvalidRequest(f"The field `{name}` cannot be set: {OURS[name]}.")
        _check_json(value, f"The field `{name}`")


def create_body(request: Request, *, shape: MessageShape, organization_id: str | None) -> dict[str, Any]:
    """The JSON of a submit. A text becomes one user message of the `shape`; all else goes as it is."""
    body: dict[str, Any] = {"organization_id": organization_id} if organization_id else {}
    if request.model:
        body["model"] = request.model
    return body | dict(request.fields) | {"background": True, "inputs": _inputs(request.prompt, shape)}


def read_created(
    status_code: int, body_bytes: bytes, headers: Mapping[str, str], *, secrets: Sequence[str]
) -> Seen:
    """What a submit's reply says.

    A finished answer means that the server ignored `background`: it comes back terminal, marked
    `background_ignored`. A 2xx with neither an id nor an answer leaves the outcome unknown: `TRANSIENT`.
    """
    body = parse_json(body_bytes)
    seen = _read(status_code, body, headers, "POST", secrets)
    if isinstance(seen, CallFailed):
        return seen
    if seen.id is None and not seen.terminal:
        return _unusable(status_code, headers, secrets, "with no id and no answer")
    return seen


def read_retrieved(
    status_code: int, body_bytes: bytes, headers: Mapping[str, str], *, secrets: Sequence[str]
) -> Seen:
    """What a poll's reply says; a 2xx that tells no status is `TRANSIENT`."""
    return _read(status_code, parse_json(body_bytes), headers, "GET", secrets)


def read_cancelled(
    status_code: int, body_bytes: bytes, headers: Mapping[str, str], *, secrets: Sequence[str]
) -> Seen:
    """What a cancel's reply says; a JSON body without a status, and an empty 202 or 204, grant it."""
    return _read(status_code, parse_json(body_bytes), headers, "DELETE", secrets)


def parse_json(body_bytes: bytes) -> object:
    """The body's JSON, else its text, None when it is empty. Numbers beyond a float's range are None."""
    try:
        text = body_bytes.decode("utf-8-sig")
        return json.loads(text, parse_float=_finite, parse_constant=lambda _: None) if text.strip() else None
    except (ValueError, RecursionError):
        return body_bytes[:4_000].decode("utf-8", "replace")


def _check_prompt(prompt: object) -> None:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InvalidRequest("The prompt is empty: give a text or a list of messages.")
        return
    if not isinstance(prompt, list):
        raise InvalidRequest(f"The prompt is a text or a list of messages, not {type(prompt).__name__}.")
    if not prompt:
        raise InvalidRequest("The prompt is an empty list: give at least one message.")
    for index, message in enumerate(prompt):
        if not isinstance(message, dict):
            raise InvalidRequest(f"Message {index} is {type(message).__name__}, not an object with a `role`.")
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise InvalidRequest(f"Message {index} has no `role`: say `user`, `system` or `assistant`.")
    _check_json(prompt, "The prompt")


def _check_json(value: object, what: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except TypeError as error:
        raise InvalidRequest(f"{what} is not JSON: {error}.") from None
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"{what} is not JSON: it holds itself, or a number that is not finite."
        ) from None


def _inputs(prompt: str | list[Any], shape: MessageShape) -> list[Any]:
    if not isinstance(prompt, str):
        return prompt
    if shape == "texts":
        return [{"role": "user", "texts": [{"text": prompt}]}]
    return [{"role": "user", "content": prompt}]


def _read(
    status_code: int, body: object, headers: Mapping[str, str], call: Call, secrets: Sequence[str]
) -> Seen:
    if not 200 <= status_code < 300:
        return read_failure(status_code, body, headers, call=call, secrets=secrets)
    if call == "DELETE" and body is None and status_code in GRANTED_EMPTY:
        body = {}
    if isinstance(body, list):
        body = {"data": body}
    if not isinstance(body, Mapping):
        return _unusable(
            status_code, headers, secrets, "with a body that is not JSON" if body else "and no body"
        )
    told = body.get("error")
    if body.get("success") is False and isinstance(told, Mapping) and "status" not in body:
        # An error under the status of a success: its own status is the better witness.
        return read_failure(_error_status(told), body, headers, call=call, secrets=secrets)
    word = _word(body, call)
    if word is None:
        return _unusable(status_code, headers, secrets, "without a status")
    return _response(body, word, headers, call, secrets)


def _word(body: Mapping[str, Any], call: Call) -> str | None:
    """The status word; where there is none, what the rest of the reply amounts to."""
    word = body.get("status")
    if isinstance(word, str) and word.strip():
        return word.strip()
    if call == "DELETE":
        return Status.CANCELLED.value
    if holds_answer(body):
        return Status.COMPLETED.value
    return Status.QUEUED.value if call == "POST" else None


def _response(
    body: Mapping[str, Any], word: str, headers: Mapping[str, str], call: Call, secrets: Sequence[str]
) -> Response:
    status = STATUSES.get("".join(letter for letter in word.lower() if letter.isalpha()), Status.UNKNOWN)
    if status is Status.UNKNOWN and call == "POST" and _id(body) is None and holds_answer(body):
        status = Status.COMPLETED
    code, message = _error(body, status)
    return Response(
        id=_id(body),
        status=status,
        word=one_line(word, secrets, most=64),
        body=body,
        created_at=_time(body, "created_at", "createdAt"),
        started_at=_time(body, "started_at", "startedAt"),
        completed_at=_time(body, "completed_at", "completedAt"),
        progress=_progress(body.get("progress")),
        output_text=output_text(body),
        error_code=one_word(code, secrets) or None,
        # Only a submit knows the prompt that its error may repeat.
        error_message=one_line(message if call == "POST" else opening(message), secrets) or None,
        request_id=request_id(headers, secrets=secrets),
        background_ignored=call == "POST" and status is Status.COMPLETED,
    )


def _id(body: Mapping[str, Any]) -> str | None:
    for key in ("id", "response_id", "responseId"):
        value = body.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
            return str(value)
    return None


def _time(body: Mapping[str, Any], *keys: str) -> float | None:
    """Unix seconds from a number, its digits, or ISO 8601 (UTC where it names no zone)."""
    for key in keys:
        moment = _moment(body.get(key))
        if math.isfinite(moment) and moment >= 0:
            return moment / 1_000 if moment >= MILLISECONDS_FROM else moment
    return None


def _moment(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(str(value))
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return math.nan


def _progress(value: object) -> float | None:
    percentage = value.get("percentage") if isinstance(value, Mapping) else None
    if isinstance(percentage, bool) or not isinstance(percentage, int | float):
        return None
    return min(max(percentage, 0), 100) / 100


def _error(body: Mapping[str, Any], status: Status) -> tuple[str, str]:
    """Code and message of an ended response; the error is an object, a string, null or absent."""
    error = body.get("error")
    if isinstance(error, str):
        return "", error
    if isinstance(error, Mapping):
        return _text(error, "code", "type"), _text(error, "message", "system_message")
    details = body.get("incomplete_details") or body.get("incompleteDetails")
    if status is Status.INCOMPLETE and isinstance(details, Mapping):
        return _text(details, "reason"), ""
    return "", details if status is Status.INCOMPLETE and isinstance(details, str) else ""


def _text(values: Mapping[str, Any], *keys: str) -> str:
    for key in keys:
        value = values.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12:
            return str(value)
    return ""


def _error_status(error: Mapping[str, Any]) -> int:
    status = error.get("status")
    known = isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600
    return int(status) if known and status is not None else 500


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _unusable(status_code: int, headers: Mapping[str, str], secrets: Sequence[str], how: str) -> CallFailed:
    return CallFailed(
        FailureKind.TRANSIENT,
        f"The API answered HTTP {status_code} {how}.",
        http_status=status_code,
        request_id=request_id(headers, secrets=secrets),
    )
