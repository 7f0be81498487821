"""Between two effects of a step: who dies there, or is slow, or meets somebody else, loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import states
from hops import ENDLESS, LEASE, Killed, Stage, kill_before_the_id_is_on_record
from kombu.exceptions import OperationalError

from freddy_tasks import AccessDenied
from freddy_tasks.cli import status, suspended
from freddy_tasks.continuation import SUBMIT
from freddy_tasks.dispatcher import Dispatcher
from freddy_tasks.records import Phase

ANSWERED = "Whales [emulate: polls=0]"


def fail_resumably(stage: Stage) -> None:
    """A look that the API refuses for the key: a person may take the response up again."""
    stage.api.set_faults(["401@method=GET"])
    stage.deliver(stage.next("t"))
    stage.api.set_faults([])


def test_an_id_that_only_celery_was_shown_is_taken_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of that submit is known, though the ledger was not told."""
    kill_before_the_id_is_on_record(stage, monkeypatch, ANSWERED)
    stage.deliver(stage.next("t"))
    assert stage.phase("t") is Phase.WAITING
    stage.deliver(stage.next("t"))

    assert stage.state("t") == states.SUCCESS
    assert stage.api.counts.posts == 1


def test_an_id_that_only_celery_was_shown_is_cancelled(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left running at the API."""
    kill_before_the_id_is_on_record(stage, monkeypatch, ENDLESS)
    stage.runtime.ledger.cancel("t")
    stage.deliver(stage.next("t"))
    stage.deliver(stage.next("t"))

    assert stage.state("t") == states.REVOKED
    assert [job.status for job in stage.api.jobs()] == ["cancelled"]


def test_a_cancel_that_comes_before_the_shown_id_is_taken_up_uses_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery is in the broker, and the mark of the cancel would overwrite the only copy of the id."""
    kill_before_the_id_is_on_record(stage, monkeypatch, ENDLESS)
    stage.next("t")
    stage.runtime.ledger.cancel("t")
    stage.deliver(stage.next("t"))
    stage.deliver(stage.next("t"))

    assert stage.state("t") == states.REVOKED
    assert stage.phase("t") is Phase.CLOSED
    assert [job.status for job in stage.api.jobs()] == ["cancelled"]


def test_an_id_that_comes_when_its_cancel_is_over_is_cancelled(stage: Stage) -> None:
    """Nobody waits for it, and it runs at the API."""

    def outlive_and_cancel() -> None:
        stage.late = LEASE + 1
        stage.next("t")
        stage.runtime.ledger.cancel("t")
        stage.deliver(stage.next("t"))
        assert stage.phase("t") is Phase.CLOSED

    stage.client.then = outlive_and_cancel
    stage.submit("t")
    stage.deliver(stage.next("t"))

    assert stage.state("t") == states.REVOKED
    assert stage.phase("t") is Phase.CLOSED
    assert [job.status for job in stage.api.jobs()] == ["cancelled"]


def test_a_cancel_while_celery_is_told_of_a_resumable_failure_is_kept(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have been suspended a moment later, and run on at the API."""
    ledger, told = stage.runtime.ledger, []
    close = ledger.close

    def cancel_first(*args: Any) -> bool:
        told.append(ledger.cancel("t"))
        return close(*args)

    stage.submit("t")
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "close", cancel_first)
        fail_resumably(stage)
    stage.deliver(stage.next("t"))

    assert told == [Phase.SETTLED]
    assert stage.state("t") == states.FAILURE
    assert stage.phase("t") is Phase.CLOSED
    assert [job.status for job in stage.api.jobs()] == ["cancelled"]


@pytest.fixture
def member(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], Callable[..., Any]]]:
    """Of a chord, with a callback of its own: the messages that it publishes, by name, and what runs it."""
    app, published = stage.app, []
    fields = {
        "callbacks": [app.signature("gaps.note")],
        "chord": app.signature("gaps.body", task_id="b"),
        "group": "g",
        "group_index": 0,
    }

    def deliver(message: dict[str, Any]) -> Any:
        return stage.run(message["name"], "t", message["args"], headers=message["headers"], **fields)

    with monkeypatch.context() as patch:
        patch.setattr(app.amqp, "send_task_message", lambda _, name, *__, **___: published.append(name))
        app.backend.set_chord_size("g", 1)
        stage.run(SUBMIT, "t", [ANSWERED], **fields)
        yield published, deliver


def test_a_member_s_callback_outlives_a_death_after_its_answer_was_stored(
    stage: Stage, member: tuple[list[str], Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is published first, as Celery has it."""
    published, deliver = member
    mark = stage.app.backend.mark_as_done

    def die(*args: Any, **options: Any) -> None:
        mark(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stage.app.backend, "mark_as_done", die)
        with pytest.raises(Killed):
            deliver(stage.next("t"))
    deliver(stage.next("t"))

    assert published == ["gaps.note", "gaps.body"]


def test_a_member_s_callback_is_not_lost_with_a_connection(
    stage: Stage, member: tuple[list[str], Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is stored, and cannot be counted now."""
    published, deliver = member

    def away(*_: Any, **__: Any) -> None:
        raise redis.exceptions.ConnectionError("the result backend is away")

    with monkeypatch.context() as patch:
        patch.setattr(stage.app.backend, "on_chord_part_return", away)
        deliver(stage.next("t"))
    assert published == ["gaps.note"]
    deliver(stage.next("t"))

    assert published == ["gaps.note", "gaps.body"]


def test_a_member_whose_callback_finds_no_broker_comes_back(
    stage: Stage, member: tuple[list[str], Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored or counted before."""
    published, deliver = member

    def refuse(*_: Any, **__: Any) -> None:
        raise OperationalError("the broker is away")

    with monkeypatch.context() as patch:
        patch.setattr(stage.app.amqp, "send_task_message", refuse)
        deliver(stage.next("t"))
    assert stage.state("t") == "QUEUED"
    deliver(stage.next("t"))

    assert published == ["gaps.note", "gaps.body"]
    assert stage.state("t") == states.SUCCESS


def test_a_resume_beside_a_cancel_leaves_the_task_its_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure was forgotten already: without it the caller would wait for ever."""
    ledger = stage.runtime.ledger
    revive = ledger.revive

    def cancel_first(*args: Any) -> bool:
        ledger.cancel("t")
        return revive(*args)

    stage.submit("t")
    fail_resumably(stage)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "revive", cancel_first)
        is_revived = suspended.revive(stage.app, ledger, "t", Phase.WAITING, 60.0)
    stage.deliver(stage.next("t"))

    assert not is_revived
    assert stage.phase("t") is Phase.CLOSED
    assert isinstance(stage.app.AsyncResult("t").result, AccessDenied)


def test_a_revoke_just_before_a_stop_is_on_record(stage: Stage) -> None:
    """No other worker may have heard of it."""
    stage.submit("t")
    revoked: set[str] = set()
    has_asked = threading.Event()

    def tell() -> set[str]:
        has_asked.set()
        return set(revoked)

    dispatcher = Dispatcher(stage.app, stage.runtime, "here", revoked=tell)
    dispatcher.start()
    assert has_asked.wait(30.0)
    revoked.add("t")
    dispatcher.stop()

    assert stage.phase("t") is Phase.CANCELLING


def test_the_status_of_a_task_that_begins_at_this_moment_is_true(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its record before Celery is told anything."""
    record = stage.runtime.ledger.record

    def begin_after(task_id: str) -> Any:
        found = record(task_id)
        stage.submit(task_id)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(stage.runtime.ledger, "record", begin_after)
        facts = status.facts_of(stage.app, stage.runtime.ledger, "t")

    assert (facts["state"], facts["meaning"]) == (states.PENDING, status.UNKNOWN)


def test_a_wish_to_cancel_that_comes_too_late_ends_no_row(bench_on: Any, stage: Stage) -> None:
    """Whichever way its arguments are given; monitors listen."""
    (result,) = bench_on.waiting(ANSWERED)
    bench_on.finish(result)
    cancel = stage.app.tasks["freddy_tasks.cancel_response"]
    cancel.delay(result.id)
    cancel.delay(task_id=result.id)
    bench_on.work()

    assert bench_on.monitor.of(result.id)[-1] == "succeeded"
