"""How a wait ends when it does not end well: the error for a response, and for a call. Pure."""

from __future__ import annotations

from typing import Any, assert_never

from .errors import (
    AccessDenied,
    FreddyError,
    InvalidRequest,
    OutcomeUnknown,
    ResponseCancelled,
    ResponseExpired,
    ResponseFailed,
    ResponseIncomplete,
    ResponseLost,
    ServiceUnavailable,
    SpendingLimitReached,
    UnsupportedByServer,
)
from .models import CallFailed, FailureKind, Response, Status

ENDINGS: dict[Status, tuple[type[FreddyError], str, str]] = {
    Status.FAILED: (ResponseFailed, "failed", "Submit it again if the cause may pass"),
    Status.INCOMPLETE: (ResponseIncomplete, "stopped early", "Raise the limit it met, or ask for less"),
    Status.CANCELLED: (
        ResponseCancelled,
        "was cancelled at the API",
        "Submit it again if it is still wanted",
    ),
    Status.EXPIRED: (ResponseExpired, "expired at the API", "Submit it again: its answer is not kept"),
}


def error_for(response: Response) -> FreddyError:
    """The error for a response that ended without an answer; ValueError for any other status."""
    if response.status not in ENDINGS:
        raise ValueError(f"a response that is {response.status.value} is no error")
    error, happened, advice = ENDINGS[response.status]
    said = response.error_message or response.error_code
    name = f"Response {response.id}" if response.id else "The response"
    because = f": {said.rstrip(' .')}" if said else ", and the API gave no reason"
    usage = response.body.get("usage")
    return error.because(
        f"{name} {happened}{because}. {advice}.",
        response_id=response.id,
        status=response.status.value,
        code=response.error_code,
        request_id=response.request_id,
        usage=usage if isinstance(usage, dict) else None,
    )


def error_for_call(failed: CallFailed, *, response_id: str | None = None, submitting: bool) -> FreddyError:
    """The error for a call that failed for good, or until its deadline.

    `submitting`: it was the POST, so there is no response to go back to; after it `resumable` marks what a
    correction of the settings, or patience, may still bring to a good end.
    """
    match failed.kind:
        case FailureKind.DENIED:
            return _because(AccessDenied, failed, response_id, "", resumable=not submitting)
        case FailureKind.SPENDING_LIMIT:
            return _because(SpendingLimitReached, failed, response_id, "", resumable=not submitting)
        case FailureKind.UNSUPPORTED:
            return _because(UnsupportedByServer, failed, response_id, "", resumable=not submitting)
        case FailureKind.REFUSED | FailureKind.CONFLICT:
            return _because(InvalidRequest, failed, response_id, "")
        case FailureKind.NOT_FOUND:
            return _because(
                ResponseLost, failed, response_id, "The API has no such response: submit it again."
            )
        case FailureKind.GONE:
            return _because(ResponseExpired, failed, response_id, "Its answer is gone: submit it again.")
        case FailureKind.TRANSIENT if submitting:
            return _because(
                OutcomeUnknown,
                failed,
                response_id,
                "The API may or may not have accepted the request: see `freddy-tasks reconcile`.",
            )
        case FailureKind.TRANSIENT | FailureKind.UNSENT | FailureKind.RATE_LIMITED:
            advice = "Nothing was accepted: call again later." if submitting else "It may still be resumed."
            return _because(ServiceUnavailable, failed, response_id, advice, resumable=not submitting)
    assert_never(failed.kind)


def _because(
    error: type[FreddyError], failed: CallFailed, response_id: str | None, advice: str, **facts: Any
) -> FreddyError:
    return error.because(
        f"{failed.message} {advice}".strip(),
        response_id=response_id,
        http_status=failed.http_status,
        code=failed.code,
        request_id=failed.request_id,
        resumable=facts.get("resumable") or None,
    )
