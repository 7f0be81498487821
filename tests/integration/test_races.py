"""Hops that meet: each test runs messages one by one and lets something happen in the middle of a call."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis
from celery import Celery, states
from celery.backends.redis import RedisBackend
from hops import LEASE, Stage, stage_of
from kombu.exceptions import OperationalError
from logs import logged
from pydantic import SecretStr

from freddy_tasks import LedgerLost, OutcomeUnknown
from freddy_tasks.budget import Budget
from freddy_tasks.continuation import POLL
from freddy_tasks.dispatcher import Dispatcher
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Constant, Emulator, Options
from freddy_tasks.records import Phase
from freddy_tasks.runtime import build, use


def test_a_hop_that_outlived_its_lease_revokes_nothing(stage: Stage) -> None:
    """Its answer is not taken, and the hop that took over brings it."""
    stage.submit("t", "Whales [emulate: polls=0]")
    slow = stage.next("t")
    successor: dict[str, Any] = {}
    stage.client.then = lambda: successor.update(stage.next("t"))
    stage.deliver(slow)

    assert stage.state("t") == "QUEUED"
    stage.deliver(successor)
    assert stage.state("t") == states.SUCCESS
    assert stage.phase("t") is Phase.CLOSED
    assert stage.api.counts.deletes == 0


def test_no_state_follows_the_last(stage: Stage) -> None:
    """A hop that slept through its lease does not show QUEUED over a failure that came meanwhile."""
    stage.submit("t")
    slow = stage.next("t")

    def fail_meanwhile() -> None:
        stage.late = LEASE + 1
        stage.api.set_faults(["410@method=GET"])
        stage.deliver(stage.next("t"))

    stage.client.then = fail_meanwhile
    stage.deliver(slow)
    stage.api.set_faults([])

    assert stage.state("t") == states.FAILURE
    assert stage.phase("t") is Phase.CLOSED


def test_a_cancel_during_a_poll_ends_the_task_once(stage: Stage) -> None:
    """The poll's state does not outlive the cancel, and the API is told once."""
    stage.submit("t")
    poll = stage.next("t")

    def cancel_meanwhile() -> None:
        stage.runtime.ledger.cancel("t")
        stage.deliver(stage.next("t"))

    stage.client.then = cancel_meanwhile
    stage.deliver(poll)

    assert stage.state("t") == states.REVOKED
    assert stage.phase("t") is Phase.CLOSED
    assert stage.api.counts.deletes == 1


def test_a_cancel_during_the_submit_uses_the_id_that_it_brings(stage: Stage) -> None:
    """Nothing is left running at the API."""
    stage.client.then = lambda: stage.runtime.ledger.cancel("t")
    stage.submit("t")
    stage.deliver(stage.next("t"))

    assert stage.state("t") == states.REVOKED
    assert [job.status for job in stage.api.jobs()] == ["cancelled"]


def test_a_state_server_that_is_away_when_an_id_arrives_loses_none(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API tells an id once: the worker keeps at it, and nothing is submitted again."""
    park, refused = stage.runtime.ledger.park, []

    def refuse_some(*args: Any) -> Any:
        if len(refused) < 3:
            refused.append(args)
            raise redis.exceptions.ConnectionError("the state server is away")
        return park(*args)

    monkeypatch.setattr(stage.runtime.ledger, "park", refuse_some)
    stage.submit("t")

    assert len(refused) == 3
    assert stage.phase("t") is Phase.WAITING
    assert stage.api.counts.posts == 1


def test_a_worker_does_not_hold_an_id_for_ever(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five minutes it names the response in the log; where Celery has no id, the outcome is unknown."""

    def refuse(*_: Any) -> Any:
        stage.late += 100.0
        raise redis.exceptions.ConnectionError("the state server is away")

    def fail_to_store(*_: Any, **__: Any) -> None:
        raise OperationalError("the result backend is away")

    with monkeypatch.context() as patch, logged("freddy_tasks.responses") as records:
        patch.setattr(stage.runtime.ledger, "park", refuse)
        patch.setattr(stage.app.backend, "store_result", fail_to_store)
        stage.submit("t")
    (response,) = stage.api.jobs()

    assert f"Response {response.id} of task t is not on record" in records[-1].getMessage()
    assert stage.late == 300.0
    stage.deliver(stage.next("t"))
    assert isinstance(stage.app.AsyncResult("t").result, OutcomeUnknown)


def test_an_id_that_comes_after_the_lease_is_kept(stage: Stage) -> None:
    """The hop that was to judge the submit finds that it need not."""
    messages: list[dict[str, Any]] = []
    stage.client.then = lambda: messages.append(stage.next("t"))
    stage.submit("t", "Whales [emulate: polls=0]")

    assert stage.phase("t") is Phase.WAITING
    stage.deliver(messages[0])
    assert stage.phase("t") is Phase.WAITING
    stage.deliver(stage.next("t"))
    assert stage.state("t") == states.SUCCESS
    assert stage.api.counts.posts == 1


def test_an_id_that_comes_after_the_end_can_be_resumed(stage: Stage) -> None:
    """Its task has ended in an unknown outcome; it is known now, and the answer may still be had."""

    def end_meanwhile() -> None:
        stage.late = LEASE + 1
        stage.deliver(stage.next("t"))

    stage.client.then = end_meanwhile
    with logged("freddy_tasks.responses") as records:
        stage.submit("t", "Whales [emulate: polls=0]")

    assert isinstance(stage.app.AsyncResult("t").result, OutcomeUnknown)
    assert stage.phase("t") is Phase.SUSPENDED
    assert "freddy-tasks resume t" in records[-1].getMessage()
    assert stage.runtime.ledger.revive("t", Phase.WAITING, 60.0)
    stage.app.backend.forget("t")
    stage.deliver(stage.next("t"))
    assert stage.state("t") == states.SUCCESS
    assert stage.api.counts.posts == 1


def test_an_id_that_comes_after_a_cancel_is_cancelled(stage: Stage) -> None:
    """Also when its lease has run out: nothing is left running at the API."""

    def outlive_and_cancel() -> None:
        stage.next("t")
        stage.runtime.ledger.cancel("t")

    stage.client.then = outlive_and_cancel
    stage.submit("t")
    stage.deliver(stage.next("t"))

    assert stage.state("t") == states.REVOKED
    assert stage.phase("t") is Phase.CLOSED
    assert [job.status for job in stage.api.jobs()] == ["cancelled"]


def test_an_id_that_comes_during_its_cancel_is_cancelled(stage: Stage) -> None:
    """The hop that is about to end it knows of no response at the API: another one does."""
    ledger = stage.runtime.ledger
    under_way: list[Any] = []

    def begin_to_cancel() -> None:
        stage.next("t")
        ledger.cancel("t")
        under_way.append(ledger.claim("t", stage.next("t")["args"][1]))

    stage.client.then = begin_to_cancel
    stage.submit("t")

    assert not ledger.close("t", under_way[0].generation)
    stage.deliver(stage.next("t"))
    assert stage.phase("t") is Phase.CLOSED
    assert [job.status for job in stage.api.jobs()] == ["cancelled"]


def test_a_cancel_tells_celery_at_once_and_the_api_when_the_plan_allows(stage: Stage) -> None:
    """A task whose day's requests are spent is revoked now, not tomorrow."""
    ledger = stage.runtime.ledger
    ledger.budget = Budget.of("races", 60, 0, 61)
    bucket = ledger.budget.keys[0]
    ledger.redis.delete(*ledger.budget.keys)
    stage.submit("t")
    ledger.redis.hset(bucket, "tokens", -100)
    ledger.cancel("t")
    stage.deliver(stage.next("t"))

    assert stage.state("t") == states.REVOKED
    assert stage.phase("t") is Phase.CANCELLING
    assert ledger.pop().lined_up == 1
    assert stage.api.counts.deletes == 0
    ledger.redis.hset(bucket, "tokens", 1)
    stage.deliver(stage.next("t"))
    assert stage.phase("t") is Phase.CLOSED
    assert stage.api.counts.deletes == 1


def test_a_kept_answer_outlives_a_failure_that_celery_made(stage: Stage) -> None:
    """A time limit, or a callback that the broker did not take, struck after the answer was kept."""
    stage.submit("t", "Whales [emulate: polls=0]")
    message = stage.next("t")
    stage.client.then = None
    ledger = stage.runtime.ledger
    held = ledger.claim("t", message["args"][0])
    ledger.settle(held, {"result": {"output_text": "About whales"}}, held.job)
    stage.app.backend.mark_as_failure("t", TimeoutError("hard time limit"))
    gets = stage.api.counts.gets
    stage.deliver(stage.next("t"))

    assert stage.app.AsyncResult("t").get() == {"output_text": "About whales"}
    assert stage.phase("t") is Phase.CLOSED
    assert stage.api.counts.gets == gets


def test_a_failure_that_celery_made_in_mid_wait_cancels_the_response(stage: Stage) -> None:
    """Celery's outcome stands; the API is told that nobody waits any more."""
    stage.submit("t")
    stage.next("t")  # lost with its worker, which had hit a time limit
    stage.app.backend.mark_as_failure("t", TimeoutError("hard time limit"))
    stage.deliver(stage.next("t"))
    stage.deliver(stage.next("t"))

    assert stage.state("t") == states.FAILURE
    assert stage.phase("t") is Phase.CLOSED
    assert stage.api.counts.deletes == 1


def test_a_result_backend_away_while_a_lost_poll_comes_back_costs_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll ends without an outcome, and the next lease brings another."""
    stage.submit("t", "Whales [emulate: polls=0]")
    stage.next("t")
    away = stage.next("t")

    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("the result backend is away")

    with monkeypatch.context() as patch:
        patch.setattr(RedisBackend, "get_task_meta", refuse)
        stage.deliver(away)

    assert stage.state("t") == "QUEUED"
    stage.deliver(stage.next("t"))
    assert stage.state("t") == states.SUCCESS


def test_the_state_server_away_after_an_answer_was_stored_repeats_no_call(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is closed by the next lease, with the outcome that Celery has."""
    stage.submit("t", "Whales [emulate: polls=0]")
    ledger = stage.runtime.ledger

    def refuse(*_: Any) -> bool:
        raise redis.exceptions.ConnectionError("the state server is away")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "close", refuse)
        stage.deliver(stage.next("t"))

    assert stage.state("t") == states.SUCCESS
    assert stage.phase("t") is Phase.SETTLED
    gets = stage.api.counts.gets
    stage.deliver(stage.next("t"))
    assert stage.phase("t") is Phase.CLOSED
    assert stage.api.counts.gets == gets


def test_an_app_without_a_result_backend_recovers_a_lost_poll(
    valkey: EmbeddedServer, state: redis.Redis, prompt_api: Emulator
) -> None:
    """Its answers go to callbacks: that nothing is stored is no failure."""
    prompt_api.reset()
    app = Celery("bare", broker=valkey.url, backend="disabled://", set_as_current=False)
    app.finalize()
    stage = stage_of(app, prompt_api, valkey.url)
    stage.submit("t", "Whales [emulate: polls=0]")
    stage.next("t")
    stage.deliver(stage.next("t"))

    assert stage.phase("t") is Phase.CLOSED
    assert prompt_api.counts.gets == 1


def test_a_message_delivered_twice_makes_one_call(stage: Stage) -> None:
    """The user's own message, and a poll's, from a broker that delivers at least once."""
    stage.submit("t")
    stage.submit("t")
    poll = stage.next("t")
    stage.deliver(poll)
    stage.deliver(poll)

    assert (stage.api.counts.posts, stage.api.counts.gets) == (1, 1)
    assert poll["name"] == POLL


def test_an_api_that_ignores_background_mode_answers_at_once_with_a_warning(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is good; that it came in the submit is worth a line in the log."""
    with Emulator(Options(profile="current", durations=Constant(0.0))) as current:
        settings = stage.runtime.settings.model_copy(
            update={
                "base_url": current.url,
                "api_key": SecretStr(current.key),
                "auth_scheme": "x-api-key",
                "message_shape": "content",
            }
        )
        use(stage.app, build(stage.app, settings))
        with caplog.at_level(logging.WARNING, "freddy_tasks"):
            stage.submit("t", "Whales")

    assert stage.state("t") == states.SUCCESS
    assert "ignores background mode" in caplog.text
    assert "Whales" not in caplog.text


def test_a_broker_that_is_away_is_fed_nothing_more(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be published stays where every dispatcher can take it, and uses up no request."""
    dispatcher = Dispatcher(stage.app, stage.runtime, "here")
    ledger = stage.runtime.ledger
    for task_id in ("first", "second"):
        stage.submit(task_id)

    def refuse(*_: Any, **__: Any) -> None:
        raise OperationalError("the broker is away")

    with monkeypatch.context() as patch:
        patch.setattr(stage.app.amqp, "send_task_message", refuse)
        for task_id in ("first", "second"):
            ledger.redis.zadd(f"{ledger.prefix}:due", {task_id: 0})
            dispatcher.dispatch()

    records = [ledger.record(task_id) for task_id in ("first", "second")]
    assert [record.generation for record in records if record] == [2, 1]
    dispatcher.dispatch()
    assert ledger.redis.llen("celery") == 2


@pytest.mark.parametrize("step", ["submit", "poll"])
def test_a_record_lost_during_a_call_ends_in_a_clear_error(stage: Stage, step: str) -> None:
    """An append-only file may lack the last second: without a record nobody would ever look again."""
    record = f"{stage.runtime.ledger.prefix}:job:t"

    def lose() -> None:
        stage.runtime.ledger.redis.delete(record)

    if step == "submit":
        stage.client.then = lose
        stage.submit("t")
    else:
        stage.submit("t")
        poll = stage.next("t")
        stage.client.then = lose
        stage.deliver(poll)

    error = stage.app.AsyncResult("t").result
    assert isinstance(error, LedgerLost)
    assert error.response_id == stage.api.jobs()[0].id


def test_an_answer_outlives_its_record(stage: Stage) -> None:
    """It is in the hop's hands, and nobody else's."""
    stage.submit("t", "Whales [emulate: polls=0]")
    poll = stage.next("t")
    record = f"{stage.runtime.ledger.prefix}:job:t"
    stage.client.then = lambda: stage.runtime.ledger.redis.delete(record)
    stage.deliver(poll)

    assert stage.state("t") == states.SUCCESS
