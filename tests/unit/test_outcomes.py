"""The errors that a wait may end with."""

from __future__ import annotations

import pytest

from freddy_tasks import errors
from freddy_tasks.models import TERMINAL, CallFailed, FailureKind, Response, Status
from freddy_tasks.outcomes import error_for, error_for_call


def ended(status: Status, **facts: object) -> Response:
    """A response that ended in this status."""
    body = {"id": "resp_1", "status": status.value, "usage": {"total_tokens": 3}}
    return Response(id="resp_1", status=status, word=status.value, body=body, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.FAILED, errors.ResponseFailed),
        (Status.INCOMPLETE, errors.ResponseIncomplete),
        (Status.CANCELLED, errors.ResponseCancelled),
        (Status.EXPIRED, errors.ResponseExpired),
    ],
)
def test_each_ending_has_its_error_with_the_facts(status: Status, kind: type[errors.FreddyError]) -> None:
    """Class, message and facts, ready for the result backend."""
    response = ended(status, error_code="model_error", error_message="No GPU.", request_id="req-1")

    error = error_for(response)

    assert type(error) is kind
    assert error.message.startswith("Response resp_1 ")
    assert ": No GPU. " in error.message
    assert error.info == {
        "response_id": "resp_1",
        "status": status.value,
        "code": "model_error",
        "request_id": "req-1",
        "usage": {"total_tokens": 3},
    }


def test_ending_without_a_reason_says_so() -> None:
    """`failed` with no error at all is still a sentence."""
    assert "gave no reason" in error_for(ended(Status.FAILED)).message


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL | {Status.COMPLETED}))
def test_response_that_did_not_fail_is_no_error(status: Status) -> None:
    """Asking is a bug of ours, and is told as one."""
    with pytest.raises(ValueError, match=status.value):
        error_for(ended(status))


@pytest.mark.parametrize(
    ("kind", "submitting", "waiting", "resumable"),
    [
        (FailureKind.UNSENT, errors.ServiceUnavailable, errors.ServiceUnavailable, True),
        (FailureKind.TRANSIENT, errors.OutcomeUnknown, errors.ServiceUnavailable, True),
        (FailureKind.RATE_LIMITED, errors.ServiceUnavailable, errors.ServiceUnavailable, True),
        (FailureKind.SPENDING_LIMIT, errors.SpendingLimitReached, errors.SpendingLimitReached, True),
        (FailureKind.DENIED, errors.AccessDenied, errors.AccessDenied, True),
        (FailureKind.NOT_FOUND, errors.ResponseLost, errors.ResponseLost, False),
        (FailureKind.GONE, errors.ResponseExpired, errors.ResponseExpired, False),
        (FailureKind.UNSUPPORTED, errors.UnsupportedByServer, errors.UnsupportedByServer, True),
        (FailureKind.REFUSED, errors.InvalidRequest, errors.InvalidRequest, False),
        (FailureKind.CONFLICT, errors.InvalidRequest, errors.InvalidRequest, False),
    ],
)
def test_each_failed_call_has_its_error(
    kind: FailureKind,
    submitting: type[errors.FreddyError],
    waiting: type[errors.FreddyError],
    resumable: bool,
) -> None:
    """One row for each kind: when submitting, and with a response to go back to."""
    failed = CallFailed(kind, "The API said no.", http_status=418, code="TEAPOT", request_id="req-1")

    first = error_for_call(failed, submitting=True)
    later = error_for_call(failed, response_id="resp_1", submitting=False)

    assert (type(first), type(later)) == (submitting, waiting)
    assert (first.resumable, later.resumable) == (False, resumable)
    assert (first.response_id, later.response_id) == (None, "resp_1")
    assert (later.http_status, later.code, later.request_id) == (418, "TEAPOT", "req-1")
    assert later.message.startswith("The API said no.")


def test_no_kind_of_failure_is_forgotten() -> None:
    """A new kind without an error fails here, not in a worker."""
    made = {kind: error_for_call(CallFailed(kind, "x"), submitting=True) for kind in FailureKind}

    assert all(isinstance(error, errors.FreddyError) for error in made.values())
