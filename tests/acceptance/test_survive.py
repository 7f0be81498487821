"""Each campaign in a short form; `benchmarks/survive.py` runs them at any size."""

from __future__ import annotations

from collections import Counter

import pytest
from campaigns import cancelling, deaths, failover, faulty, kill, servers, soak, stopping
from campaigns.book import Verdict, judge
from campaigns.stage import Plan, Stage

from freddy_tasks.emulator import Constant, Options

pytestmark = pytest.mark.campaign

FAULTS = (
    "reset_after@method=POST",
    "cut@method=GET@first=2",
    "failed=string",
    "410",
)


def told(verdict: Verdict) -> str:
    """All that a failed test has to say."""
    return f"{verdict}\n{verdict.details()}"


@pytest.mark.parametrize("line_up", [False, True], ids=["messages", "lined up"])
def test_killed_workers_lose_and_repeat_nothing(line_up: bool) -> None:
    """A worker with its threads, under twenty responses, ten of them a chord."""
    verdict = kill.run(Plan(size=20, seed=3), line_up=line_up)

    assert verdict.good, told(verdict)
    assert verdict.responses == 20


@pytest.mark.parametrize("resubmit", [False, True], ids=["fail", "resubmit"])
def test_a_crash_at_a_point_leaves_what_is_promised(resubmit: bool) -> None:
    """Between the reply to a submit and its record, where nobody can know."""
    verdict, rows = deaths.run(Plan(), resubmit=resubmit, points=["reply received"])
    ends = Counter(completed=4) if resubmit else Counter(completed=3, OutcomeUnknown=1)

    assert verdict.good, told(verdict)
    assert rows[0].ends == ends
    assert (rows[0].posts, rows[0].jobs) == (5 if resubmit else 4, 4)


def test_a_crash_at_a_point_where_the_id_is_known_costs_nothing() -> None:
    """Told to Celery only, or on its way to a look; the other points are in the script."""
    verdict, rows = deaths.run(Plan(), points=["id shown", "published"])

    assert verdict.good, told(verdict)
    assert [(row.ends, row.posts) for row in rows] == 2 * [(Counter(completed=4), 4)]


def test_a_server_that_crashes_loses_nothing_in_silence() -> None:
    """SIGKILL with an append-only file, and back at once."""
    verdict = servers.restart(Plan(size=20), rounds=1)

    assert verdict.good, told(verdict)


def test_a_server_that_is_away_for_a_while_loses_nothing_in_silence() -> None:
    """A second without broker, result backend and ledger."""
    verdict = servers.restart(Plan(size=20, pool="threads"), 1.0, rounds=1)

    assert verdict.good, told(verdict)


def test_connections_that_are_cut_lose_and_repeat_nothing() -> None:
    """All of all clients, ten times."""
    verdict = servers.drop(Plan(size=30))

    assert verdict.good, told(verdict)


@pytest.mark.parametrize("setting", servers.REFUSALS)
def test_a_server_that_refuses_to_write_ends_no_worker_and_loses_no_message(setting: str) -> None:
    """For want of memory, or of replicas; with more messages than a worker takes at once."""
    verdict = servers.refuse(Plan(size=60, workers=1, concurrency=1), setting, rounds=1)

    assert verdict.good, told(verdict)


def test_a_failover_leaves_no_answer_behind() -> None:
    """SIGKILL of the master, a replica in its place, and all three addresses by Sentinel."""
    verdict = failover.run(Plan(size=20), rounds=1)

    assert verdict.good, told(verdict)


def test_each_fault_leads_to_its_end() -> None:
    """A few of the table; all of them are in the script."""
    verdict, table = faulty.run(Plan(), FAULTS)

    assert verdict.good, told(verdict)
    assert {fault: set(ends) for fault, ends in table.items()} == {
        "reset_after@method=POST": {"OutcomeUnknown"},
        "cut@method=GET@first=2": {"completed"},
        "failed=string": {"ResponseFailed"},
        "410": {"ResponseExpired"},
    }


def test_faults_on_a_fifth_of_the_calls_leave_each_response_its_right_end() -> None:
    """Fifteen of them, mixed."""
    verdict = faulty.mix(Plan(size=40, pool="threads"))

    assert verdict.good, told(verdict)


@pytest.mark.parametrize("way", stopping.WAYS)
def test_a_worker_that_is_stopped_loses_and_delays_nothing(way: str) -> None:
    """One worker after the other, with prompts in flight."""
    verdict = stopping.run(Plan(size=16), way, most_late=3.0)  # on a machine that may have other work

    assert verdict.good, told(verdict)


def test_many_responses_leave_nothing_behind() -> None:
    """No job that waits, no message unacknowledged, no key without an end, no worker that grew."""
    verdict = soak.run(Plan(size=400, pool="threads"))

    assert verdict.good, told(verdict)


def test_an_outcome_that_celery_could_not_store_is_stored_later() -> None:
    """Neither the answer, nor the failure that Celery makes of that, finds the result backend."""
    options = Options(durations=Constant(0.2), queue_seconds=0.1, answer="About {}".format)
    with Stage(Plan(pool="prefork", workers=1), options, SURVIVE_CUT="2") as stage:
        stage.open()
        stage.submit(["one"])
        stage.wait()
        stage.book.look_again(stage.desk)
        verdict = judge("cut off", stage.book, stage.api)

        assert verdict.good, told(verdict)
        assert "comes back by its lease" in stage.logs()


def test_each_way_to_cancel_ends_at_the_api_and_here_once() -> None:
    """By Celery, call, command and Ctrl-C, past the deadline, in a chord, and while it ends by itself."""
    verdict = cancelling.run(Plan(size=16))

    assert verdict.good, told(verdict)
