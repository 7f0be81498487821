"""What follows each look, submit and cancel: every branch by name, then the rules that hold for all input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from freddy_tasks import polling
from freddy_tasks.errors import (
    AccessDenied,
    FreddyError,
    InvalidRequest,
    OutcomeUnknown,
    ResponseCancelled,
    ResponseExpired,
    ResponseFailed,
    ResponseIncomplete,
    ResponseLost,
    ResponseTimeout,
    ServiceUnavailable,
    SpendingLimitReached,
    UnsupportedByServer,
)
from freddy_tasks.models import TERMINAL, CallFailed, FailureKind, Job, Response, Seen, Status
from freddy_tasks.polling import (
    After,
    CancelAgain,
    Cancelled,
    Complete,
    Decision,
    Fail,
    Policy,
    PollAgain,
    SubmitAgain,
)
from freddy_tasks.schedules import Tiers

NOW = 1_700_000_000.0
DEADLINE = NOW + 1_000.0
MIDDLE = 0.5  # the draw that moves a pause by nothing
DRAWS = st.floats(0.0, 1.0)


def job(**fields: object) -> Job:
    return Job(
        **{"deadline": DEADLINE, "model": "m", "response_id": "r", "submitted_at": NOW - 10.0, **fields}
    )


def seen(status: Status, **fields: object) -> Response:
    return Response(**{"id": "r", "status": status, "word": status.value, "body": {}, **fields})


def failed(kind: FailureKind) -> CallFailed:
    return CallFailed(kind, "said the server", http_status=500, request_id="req_1")


def look(
    what: Seen, at: Job | None = None, *, now: float = NOW, retry_in: float | None = None, grace: float = 20.0
) -> Decision:
    policy = Policy(missing_grace=grace)
    return polling.decide(at or job(), what, Tiers(), now, lambda: MIDDLE, policy, retry_in=retry_in)


def after_submit(
    what: Seen,
    at: Job | None = None,
    *,
    now: float = NOW,
    retry_in: float | None = None,
    resubmit: bool = False,
) -> Decision:
    at = at or job(response_id="", submitted_at=0.0)
    policy = Policy(resubmit=resubmit)
    return polling.decide_submit(at, what, Tiers(), now, lambda: MIDDLE, policy, retry_in=retry_in)


def failure(decision: Decision, error: type[FreddyError], after: After) -> Fail:
    assert isinstance(decision, Fail)
    assert type(decision.error) is error
    assert decision.after is after
    return decision


# A look that was answered


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL))
def test_an_unfinished_response_is_looked_at_again_by_the_schedule(status: Status) -> None:
    """Ten seconds after the submit, the first band's pause."""
    decision = look(seen(status))

    assert isinstance(decision, PollAgain)
    assert decision.delay == 2.5
    assert (decision.job.polls, decision.job.failures) == (1, 0)


def test_a_completed_response_is_complete_even_past_its_deadline() -> None:
    """An answer that is there is never thrown away."""
    decision = look(seen(Status.COMPLETED), now=DEADLINE + 1)

    assert isinstance(decision, Complete)
    assert decision.job.polls == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.FAILED, ResponseFailed),
        (Status.INCOMPLETE, ResponseIncomplete),
        (Status.CANCELLED, ResponseCancelled),
        (Status.EXPIRED, ResponseExpired),
    ],
)
def test_a_response_that_ended_without_an_answer_fails_for_good(
    status: Status, error: type[FreddyError]
) -> None:
    """HTTP 200 or not: the status word decides, and nothing is left to resume or cancel."""
    decision = failure(look(seen(status, error_code="c")), error, After.NOTHING)

    assert (decision.error.status, decision.error.code) == (status.value, "c")


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL))
def test_the_deadline_ends_the_wait_whatever_the_word(status: Status) -> None:
    """Unknown words keep polling until the deadline, never past it; the response is cancelled."""
    decision = failure(look(seen(status), now=DEADLINE), ResponseTimeout, After.CANCEL)

    assert decision.error.response_id == "r"
    assert decision.error.info["polls"] == 1


def test_the_last_look_comes_at_the_deadline_not_after() -> None:
    """A pause is cut where the deadline comes first."""
    decision = look(seen(Status.QUEUED), now=DEADLINE - 0.1)

    assert isinstance(decision, PollAgain)
    assert decision.delay == pytest.approx(0.1)


def test_an_answer_ends_a_row_of_failures() -> None:
    """Failures and 404s count in a row, polls over all."""
    decision = look(seen(Status.QUEUED), job(failures=4, missing_since=NOW - 5, polls=7))

    assert decision.job.failures == 0
    assert decision.job.missing_since is None
    assert decision.job.polls == 8


def test_an_unknown_word_leaves_the_last_known_status() -> None:
    """What is shown meanwhile is a word we know."""
    decision = look(seen(Status.UNKNOWN, word="pondering"), job(status=Status.IN_PROGRESS))

    assert decision.job.status is Status.IN_PROGRESS


def test_an_unknown_word_is_kept_until_the_next_one() -> None:
    """So that it is told once, whichever process sees it again; and no sentence is kept, nor a known word."""
    first = look(seen(Status.UNKNOWN, word="pondering"), job())
    known = look(seen(Status.QUEUED), first.job)
    sentence = look(seen(Status.UNKNOWN, word="about the whales"), known.job)

    assert first.job.unknown_word == "pondering"
    assert known.job.unknown_word == "pondering"
    assert sentence.job.unknown_word == "several words"


def test_the_start_is_remembered_when_the_status_goes_backwards() -> None:
    """First seen running is kept: `in_progress` may be followed by `queued`."""
    running = look(seen(Status.IN_PROGRESS, progress=0.3))
    back = look(seen(Status.QUEUED), running.job, now=NOW + 5)

    assert running.job.started_at == NOW
    assert running.job.progress == 0.3
    assert back.job.started_at == NOW
    assert back.job.status is Status.QUEUED


# A look that was not

PASSING = [FailureKind.TRANSIENT, FailureKind.UNSENT, FailureKind.RATE_LIMITED, FailureKind.CONFLICT]
STOPPING = {
    FailureKind.DENIED: AccessDenied,
    FailureKind.SPENDING_LIMIT: SpendingLimitReached,
    FailureKind.UNSUPPORTED: UnsupportedByServer,
    FailureKind.REFUSED: InvalidRequest,
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_fault_backs_off_and_keeps_the_id(kind: FailureKind) -> None:
    """The second failure in a row: 1.5 s of `backoff`, and no poll counted."""
    decision = look(failed(kind), job(failures=1, polls=3))

    assert isinstance(decision, PollAgain)
    assert decision.delay == 1.5
    assert (decision.job.failures, decision.job.polls, decision.job.response_id) == (2, 3, "r")


@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_fault_at_the_deadline_can_be_resumed(kind: FailureKind) -> None:
    """Nobody knows how the response stands, so it is not cancelled."""
    error = InvalidRequest if kind is FailureKind.CONFLICT else ServiceUnavailable
    decision = failure(look(failed(kind), now=DEADLINE), error, After.RESUMABLE)

    assert decision.error.resumable


@pytest.mark.parametrize(("kind", "error"), STOPPING.items())
def test_a_refused_look_stops_and_can_be_resumed(kind: FailureKind, error: type[FreddyError]) -> None:
    """The response goes on at the API: a corrected key or setting still finds it."""
    decision = failure(look(failed(kind)), error, After.RESUMABLE)

    assert decision.error.resumable
    assert decision.error.response_id == "r"


def test_a_response_that_is_gone_is_expired() -> None:
    """410: it was there, and its answer is lost."""
    failure(look(failed(FailureKind.GONE)), ResponseExpired, After.NOTHING)


def test_a_404_is_looked_at_again_within_the_grace() -> None:
    """Every two seconds at most, so that a short grace holds several looks."""
    decision = look(failed(FailureKind.NOT_FOUND), job(failures=9))

    assert isinstance(decision, PollAgain)
    assert decision.delay == 1.5
    assert decision.job.missing_since == NOW


def test_a_404_past_the_grace_is_lost() -> None:
    """The grace counts from the first 404 in a row."""
    waiting = job(missing_since=NOW)

    assert isinstance(look(failed(FailureKind.NOT_FOUND), waiting, now=NOW + 19.9), PollAgain)
    failure(look(failed(FailureKind.NOT_FOUND), waiting, now=NOW + 20.0), ResponseLost, After.NOTHING)


def test_without_a_grace_the_first_404_is_lost() -> None:
    """FREDDY_MISSING_GRACE=0 believes the API at once."""
    failure(look(failed(FailureKind.NOT_FOUND), grace=0.0), ResponseLost, After.NOTHING)


def test_a_404_at_the_deadline_is_lost() -> None:
    """No grace past the deadline."""
    failure(look(failed(FailureKind.NOT_FOUND), now=DEADLINE), ResponseLost, After.NOTHING)


def test_a_404_after_the_retention_is_expired() -> None:
    """Whoever looks a day too late is told why, grace or not."""
    old = job(submitted_at=NOW - polling.RETENTION - 1)

    failure(look(failed(FailureKind.NOT_FOUND), old), ResponseExpired, After.NOTHING)


def test_another_fault_ends_a_row_of_404s() -> None:
    """An outage that answers 404 here and 503 there does not lose a response."""
    between = look(failed(FailureKind.TRANSIENT), job(missing_since=NOW - 15)).job
    decision = look(failed(FailureKind.NOT_FOUND), between, now=NOW + 10)

    assert isinstance(decision, PollAgain)
    assert decision.job.missing_since == NOW + 10


@pytest.mark.parametrize("ask", [look, after_submit])
def test_the_servers_own_word_on_when_to_call_again_is_kept(ask: Callable[..., Decision]) -> None:
    """Longer than any back-off, up to the deadline, and never before the moment it named."""
    assert ask(failed(FailureKind.RATE_LIMITED), retry_in=300.0).delay == pytest.approx(300.0, rel=0.06)
    assert ask(failed(FailureKind.RATE_LIMITED), retry_in=300.0).delay >= 300.0
    assert ask(failed(FailureKind.RATE_LIMITED), retry_in=9_999.0).delay == 1_000.0
    assert ask(failed(FailureKind.RATE_LIMITED), retry_in=0.0).delay == 0.75


# Submits


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL))
def test_an_accepted_submit_is_polled(status: Status) -> None:
    """The id is on record, the submit dated, no poll counted."""
    decision = after_submit(seen(status, id="resp_9"), job(response_id="", failures=3))

    assert isinstance(decision, PollAgain)
    assert (decision.job.response_id, decision.job.submitted_at) == ("resp_9", NOW)
    assert (decision.job.polls, decision.job.failures) == (0, 0)


def test_a_submit_answered_at_once_is_complete() -> None:
    """Background mode was ignored: there is nothing to poll, with or without an id."""
    for response_id in ("resp_9", None):
        decision = after_submit(seen(Status.COMPLETED, id=response_id))

        assert isinstance(decision, Complete)
        assert decision.job.status is Status.COMPLETED


def test_a_submit_that_failed_at_once_fails() -> None:
    """A terminal reply to the POST is an end like any other."""
    failure(after_submit(seen(Status.FAILED)), ResponseFailed, After.NOTHING)


def test_a_submit_accepted_past_its_deadline_is_cancelled_with_its_id() -> None:
    """The cancel needs the id that came too late."""
    decision = failure(after_submit(seen(Status.QUEUED), now=DEADLINE), ResponseTimeout, After.CANCEL)

    assert decision.job.response_id == "r"


@pytest.mark.parametrize("kind", [FailureKind.UNSENT, FailureKind.RATE_LIMITED])
def test_a_submit_that_was_not_accepted_is_sent_again(kind: FailureKind) -> None:
    """Nothing was created, so repeating costs nothing."""
    decision = after_submit(failed(kind), job(response_id="", failures=2))

    assert isinstance(decision, SubmitAgain)
    assert decision.delay == 3.0
    assert decision.job.failures == 3
    assert decision.job.unknown_submits == 0


@pytest.mark.parametrize("kind", [FailureKind.UNSENT, FailureKind.RATE_LIMITED])
def test_a_submit_never_accepted_is_unsent_at_its_deadline(kind: FailureKind) -> None:
    """The prompt costs nothing, and the error says so."""
    decision = failure(after_submit(failed(kind), now=DEADLINE), ServiceUnavailable, After.NOTHING)

    assert "costs nothing" in decision.error.message


UNKNOWN = [failed(FailureKind.TRANSIENT), failed(FailureKind.CONFLICT), seen(Status.QUEUED, id=None)]


@pytest.mark.parametrize("what", UNKNOWN, ids=["transient", "conflict", "no-id"])
def test_a_submit_without_an_answer_is_unknown_and_waits_for_a_person(what: Seen) -> None:
    """It is never repeated by default: it may have been accepted."""
    decision = failure(after_submit(what), OutcomeUnknown, After.RESUMABLE)

    assert decision.error.resumable


@pytest.mark.parametrize("what", UNKNOWN, ids=["transient", "conflict", "no-id"])
def test_the_policy_may_repeat_an_unknown_submit_a_few_times(what: Seen) -> None:
    """Up to `MOST_RESUBMITS`, and not at the deadline."""
    decision, repeats = after_submit(what, resubmit=True), 0
    while isinstance(decision, SubmitAgain):
        repeats += 1
        decision = after_submit(what, decision.job, resubmit=True)

    assert repeats == polling.MOST_RESUBMITS
    failure(decision, OutcomeUnknown, After.RESUMABLE)
    failure(after_submit(what, now=DEADLINE, resubmit=True), OutcomeUnknown, After.RESUMABLE)


def test_refusals_do_not_use_up_the_resubmits() -> None:
    """Twenty 429s, then a lost reply: the policy still has its say."""
    patient = job(response_id="", failures=20)

    assert isinstance(after_submit(failed(FailureKind.TRANSIENT), patient, resubmit=True), SubmitAgain)


@pytest.mark.parametrize("kind", [FailureKind.UNSENT, FailureKind.RATE_LIMITED, FailureKind.DENIED])
def test_a_resubmit_that_fails_leaves_the_first_submit_unknown(kind: FailureKind) -> None:
    """Nobody is told that a prompt costs nothing while an earlier submit of it may run."""
    again = job(response_id="", unknown_submits=1)

    failure(after_submit(failed(kind), again, now=DEADLINE), OutcomeUnknown, After.RESUMABLE)
    failure(polling.unsent(again), OutcomeUnknown, After.RESUMABLE)


@pytest.mark.parametrize(
    ("kind", "error"),
    [*STOPPING.items(), (FailureKind.NOT_FOUND, ResponseLost), (FailureKind.GONE, ResponseExpired)],
)
def test_a_refused_submit_fails_for_good(kind: FailureKind, error: type[FreddyError]) -> None:
    """There is no response to go back to."""
    decision = failure(after_submit(failed(kind)), error, After.NOTHING)

    assert not decision.error.resumable


def test_a_prompt_without_a_free_request_is_unsent() -> None:
    """The plan had no room until the deadline."""
    failure(polling.unsent(job(response_id="")), ServiceUnavailable, After.NOTHING)


def test_a_passed_deadline_tells_how_it_stood() -> None:
    """Without another request: the last status and the polls so far."""
    decision = failure(
        polling.unanswered(job(polls=5, status=Status.IN_PROGRESS)), ResponseTimeout, After.CANCEL
    )

    assert decision.error.info == {"response_id": "r", "status": "in_progress", "polls": 5}


# Cancels


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_cancel_is_settled_by_any_end(status: Status) -> None:
    """A response that completed meanwhile needs no cancel."""
    decision = polling.decide_cancel(job(), seen(status), NOW, lambda: MIDDLE)

    assert decision == Cancelled(f"ended as {status.value}")


@pytest.mark.parametrize(
    "kind",
    [FailureKind.NOT_FOUND, FailureKind.GONE, FailureKind.UNSUPPORTED, FailureKind.REFUSED],
)
def test_a_cancel_that_cannot_be_is_settled(kind: FailureKind) -> None:
    """Nothing is left to cancel, or nothing is left to try."""
    assert isinstance(polling.decide_cancel(job(), failed(kind), NOW, lambda: MIDDLE), Cancelled)


UNSETTLED = [
    *(seen(status) for status in sorted(set(Status) - TERMINAL)),
    *(
        failed(kind)
        for kind in (
            FailureKind.UNSENT,
            FailureKind.TRANSIENT,
            FailureKind.RATE_LIMITED,
            FailureKind.SPENDING_LIMIT,
            FailureKind.DENIED,
            FailureKind.CONFLICT,
        )
    ),
]


@pytest.mark.parametrize(
    "what", UNSETTLED, ids=lambda what: what.status if isinstance(what, Response) else what.kind
)
def test_a_cancel_goes_on_until_it_is_settled(what: Seen) -> None:
    """A cancel and a look in turns, further and further apart, until an hour past the deadline."""
    first = polling.decide_cancel(job(), what, NOW, lambda: MIDDLE)
    assert isinstance(first, CancelAgain)
    second = polling.decide_cancel(first.job, what, NOW, lambda: MIDDLE)
    assert isinstance(second, CancelAgain)

    assert (first.delay, second.delay) == (0.75, 1.5)
    assert [polling.cancels_next(each) for each in (job(), first.job, second.job)] == [True, False, True]
    assert isinstance(polling.decide_cancel(job(), what, DEADLINE + 3_601, lambda: MIDDLE), Cancelled)


# Whatever the input

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
MOMENTS = st.floats(-1e12, 1e12) | st.just(NOW) | st.just(DEADLINE)
JOBS = st.builds(
    Job,
    deadline=MOMENTS,
    model=st.just("m"),
    submitted_at=MOMENTS,
    response_id=st.sampled_from(["", "r"]),
    status=st.sampled_from(Status),
    expected=st.none() | st.floats(1e-3, 1e9),
    polls=st.integers(0, 10**9),
    failures=st.integers(0, 10**9),
    unknown_submits=st.integers(0, 20),
    missing_since=st.none() | MOMENTS,
    started_at=st.none() | MOMENTS,
    progress=st.none() | NUMBERS,
)
RESPONSES = st.builds(
    Response,
    id=st.sampled_from([None, "", "r", "other"]),
    status=st.sampled_from(Status),
    word=st.text(max_size=3),
    body=st.just({}),
    progress=st.none() | NUMBERS,
    error_message=st.none() | st.text(max_size=9),
)
FAILURES = st.builds(
    CallFailed, kind=st.sampled_from(FailureKind), message=st.text(max_size=9), code=st.none() | st.text()
)
ANYTHING = RESPONSES | FAILURES
POLICIES = st.builds(Policy, missing_grace=st.floats(0, 1e6), resubmit=st.booleans())
HINTS = st.none() | NUMBERS


@given(JOBS, ANYTHING, MOMENTS, DRAWS, POLICIES, HINTS, NUMBERS, st.booleans())
def test_a_decision_is_total_bounded_and_never_waits_past_the_deadline(
    before: Job,
    what: Seen,
    now: float,
    draw: float,
    policy: Policy,
    retry_in: float | None,
    stretch: float,
    submitting: bool,
) -> None:
    """For any job, at any moment, after anything the API may say."""
    decide = polling.decide_submit if submitting else polling.decide
    decision = decide(before, what, Tiers(), now, lambda: draw, policy, retry_in=retry_in, stretch=stretch)

    if isinstance(decision, PollAgain | SubmitAgain):
        assert math.isfinite(decision.delay)
        assert 0 <= decision.delay <= before.deadline - now
        assert now < before.deadline
        assert isinstance(what, CallFailed) or not what.terminal
    assert isinstance(decision, Complete) == (isinstance(what, Response) and what.status is Status.COMPLETED)
    assert Job.from_message(decision.job.to_message()).polls == decision.job.polls


@given(JOBS, ANYTHING, MOMENTS, DRAWS, POLICIES)
def test_polls_and_failures_are_counted_apart(
    before: Job, what: Seen, now: float, draw: float, policy: Policy
) -> None:
    """An answer is a poll and ends the row of failures; a failed call is never a poll."""
    after = polling.decide(before, what, Tiers(), now, lambda: draw, policy).job

    if isinstance(what, Response):
        assert (after.polls, after.failures) == (before.polls + 1, 0)
    else:
        assert after.polls == before.polls
        assert after.failures in {before.failures, before.failures + 1}


@given(JOBS, ANYTHING, MOMENTS, DRAWS)
def test_only_the_policy_repeats_a_submit_that_may_have_been_accepted(
    before: Job, what: Seen, now: float, draw: float
) -> None:
    """Without it a submit is repeated only when nothing was accepted."""
    decision = polling.decide_submit(before, what, Tiers(), now, lambda: draw, Policy())

    if isinstance(decision, SubmitAgain):
        assert isinstance(what, CallFailed)
        assert what.kind in {FailureKind.UNSENT, FailureKind.RATE_LIMITED}


@given(JOBS, ANYTHING, MOMENTS, DRAWS)
def test_a_cancel_ends_in_bounded_time(before: Job, what: Seen, now: float, draw: float) -> None:
    """For any job and any reply, and within the hour after the deadline at the latest."""
    decision = polling.decide_cancel(before, what, now, lambda: draw)

    if isinstance(decision, CancelAgain):
        assert 0 < decision.delay <= 60
        assert now <= before.deadline + 3_600
        assert decision.job.failures == before.failures + 1


@given(JOBS, st.floats(0.01, 1e5), DRAWS)
def test_a_finished_response_stays_finished(before: Job, later: float, draw: float) -> None:
    """The same terminal body gives the same end, whenever it is seen."""
    assume(before.deadline < 1e11)
    body = seen(Status.FAILED)
    ends = [
        polling.decide(replace(before, polls=0), body, Tiers(), now, lambda: draw, Policy())
        for now in (before.deadline - later, before.deadline, before.deadline + later)
    ]

    assert all(isinstance(end, Fail) and isinstance(end.error, ResponseFailed) for end in ends)
