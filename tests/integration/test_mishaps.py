"""What goes wrong around a response in a living app: the broker, the clock, the ledger, a revoke."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from kombu.transport.redis import Channel
from logs import logged
from shop import Shop, answer_of, wait_for

from freddy_tasks import LedgerLost, ServiceUnavailable, cancel_response, process_ai_response, process_batch
from freddy_tasks.client import Client
from freddy_tasks.records import Phase
from freddy_tasks.runtime import Runtime, use
from freddy_tasks.settings import Settings

ENDLESS = "Wait [emulate: duration=600]"


@pytest.fixture
def change(shop: Shop) -> Iterator[Callable[..., Runtime]]:
    """Give the app a changed runtime until the test ends."""

    def put(**changes: Any) -> Runtime:
        runtime = replace(shop.runtime, **changes)
        use(shop.app, runtime)
        return runtime

    yield put
    use(shop.app, shop.runtime)


def waiting(shop: Shop, prompt: str = ENDLESS, **options: Any) -> AsyncResult:
    """A response that is in the waiting room for half a minute."""
    result = process_ai_response.apply_async((prompt,), {"expected": 600}, **options)
    wait_for(lambda: phase_of(shop, result.id) is Phase.WAITING)
    return result


def phase_of(shop: Shop, task_id: str) -> Phase | None:
    """Where the ledger has it."""
    record = shop.runtime.ledger.record(task_id)
    return record and record.phase


def look_now(shop: Shop, task_id: str) -> None:
    """Make a waiting response due."""
    ledger = shop.runtime.ledger
    ledger.redis.zadd(f"{ledger.prefix}:due", {task_id: 0})
    ledger.redis.publish(f"{ledger.prefix}:wake", "")


def test_a_broker_that_takes_no_message_for_a_while_fails_no_task(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three publishes of polls refused; the response ends well, and was submitted once."""
    put, refused = Channel._put, []

    def refuse_polls(self: Channel, queue: str, message: dict[str, Any], **options: Any) -> None:
        if message.get("headers", {}).get("task") == "freddy_tasks.poll_response" and len(refused) < 3:
            refused.append(queue)
            raise OperationalError("the broker is away")
        put(self, queue, message, **options)

    monkeypatch.setattr(Channel, "_put", refuse_polls)
    result = process_ai_response.delay("whales")

    assert answer_of(result)["output_text"] == "About whales"
    assert len(refused) == 3
    assert shop.api.counts.posts == 1


def limit_messages(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let the broker refuse larger ones, as Amazon SQS and RabbitMQ do."""
    put = Channel._put

    def refuse_large(self: Channel, queue: str, message: dict[str, Any], **options: Any) -> None:
        if len(message["body"]) > most:
            raise ValueError("too large")
        put(self, queue, message, **options)

    monkeypatch.setattr(Channel, "_put", refuse_large)


def test_a_message_that_the_broker_refuses_holds_up_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of; its task can be cancelled."""
    limit_messages(monkeypatch, 10_000)
    with logged("freddy_tasks.outbox") as records:
        batch = process_batch(["ants", "whales" * 2_000, "bees"])
        wait_for(lambda: batch.progress().completed == 2)
    refused = batch.task_ids[1]
    cancel_response(refused)

    assert batch.get(30.0).counts == {"completed": 2, "failed": 0, "cancelled": 1, "unknown": 0}
    (told,) = {record.getMessage() for record in records}
    assert f"freddy-tasks cancel {refused}" in told
    assert "whales" not in told


def test_a_prompt_that_the_broker_refuses_ends_at_its_deadline(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a message without the prompt; nothing was sent."""
    limit_messages(monkeypatch, 10_000)
    end = process_batch(["whales" * 2_000, "bees"], timeout=1.0).get(30.0)

    assert end.counts == {"completed": 1, "failed": 1, "cancelled": 0, "unknown": 0}
    with pytest.raises(ServiceUnavailable, match="the broker refused its message"):
        raise end.failed[0].error or AssertionError
    assert shop.api.counts.posts == 1


def test_a_message_that_is_too_large_for_several_steps_is_sent_in_parts(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step in a message of its own, as without any sharing."""
    limit_messages(monkeypatch, 10_000)
    with logged("freddy_tasks.outbox") as records:
        batch = process_batch([f"whale {number} " * 200 for number in range(40)])
        counts = batch.get(30.0).counts

    assert counts["completed"] == 40
    assert not records
    assert shop.api.counts.posts == 40


def test_a_record_that_was_evicted_ends_in_a_clear_error(shop: Shop) -> None:
    """A state server that throws keys away: its due time is left, its record is not."""
    result = waiting(shop)
    ledger = shop.runtime.ledger
    ledger.redis.delete(f"{ledger.prefix}:job:{result.id}")
    look_now(shop, result.id)

    with pytest.raises(LedgerLost, match="noeviction"):
        answer_of(result)
    assert ledger.redis.zscore(f"{ledger.prefix}:due", result.id) is None


def test_a_flushed_ledger_ends_a_poll_on_its_way_in_a_clear_error(shop: Shop) -> None:
    """The message finds no record of its response."""
    result = shop.app.AsyncResult("never-seen-here")
    headers = {"freddy_generation": 3}
    shop.app.send_task("freddy_tasks.poll_response", (3,), task_id=result.id, headers=headers)

    with pytest.raises(LedgerLost, match="no record"):
        answer_of(result)


def test_a_revoke_cancels_at_the_api_and_holds_nobody_up(shop: Shop) -> None:
    """While its DELETE hangs, other responses go on: nothing of it runs in the worker's event loop."""
    shop.api.set_faults(["delay=1@method=DELETE"])
    revoked = waiting(shop)
    revoked.revoke()
    wait_for(lambda: phase_of(shop, revoked.id) is Phase.CANCELLING)

    assert answer_of(process_ai_response.delay("whales"))["output_text"] == "About whales"
    assert phase_of(shop, revoked.id) is Phase.CANCELLING
    wait_for(lambda: phase_of(shop, revoked.id) is Phase.CLOSED)
    assert revoked.state == "REVOKED"
    assert shop.api.counts.deletes == 1
    assert shop.api.jobs()[0].status == "cancelled"


def test_an_api_that_never_answers_holds_a_thread_no_longer_than_its_timeout(
    shop: Shop, settings: Settings, change: Callable[..., Runtime]
) -> None:
    """A pool of threads knows no time limits; the call has one."""
    hasty = settings.model_copy(update={"read_timeout": 0.3})
    change(client=Client.from_settings(hasty))
    shop.api.set_faults(["hang@method=GET@first=1"])

    assert answer_of(process_ai_response.delay("whales"))["output_text"] == "About whales"
    assert shop.api.counts.faults["hang"] == 1


@pytest.mark.parametrize("skew", [-600.0, 600.0])
def test_a_worker_s_clock_that_is_wrong_changes_nothing(
    shop: Shop, change: Callable[..., Runtime], skew: float
) -> None:
    """The ledger goes by the state server's clock: ten minutes either way, three polls as ever."""
    change(clock=lambda: time.time() + skew)
    result = process_ai_response.delay("whales [emulate: polls=2]", timeout=60)

    assert answer_of(result)["polls"] == 3
    assert shop.api.counts.gets == 3


def test_the_names_of_the_tasks_are_for_ever(shop: Shop) -> None:
    """Messages in flight carry them, and a worker throws a message away whose task it does not know."""
    names = {name for name in shop.app.tasks if name.startswith("freddy_tasks.")}

    assert names >= {
        "freddy_tasks.process_ai_response",
        "freddy_tasks.poll_response",
        "freddy_tasks.cancel_response",
    }


def test_callbacks_hear_of_nothing_before_the_answer(shop: Shop) -> None:
    """Neither a submit nor a poll counts as success, in signals that apps hang metrics on."""
    result = process_ai_response.apply_async(("whales [emulate: polls=1]",), link=shop.note.s())
    answer_of(result)
    [(response,)] = wait_for(lambda: shop.witness.calls_of("note"))

    assert response["output_text"].startswith("About whales")
