"""What a caller asks of the first message holds for every hop of the response."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain, signals
from shop import Shop, answer_of, wait_for

from freddy_tasks import process_ai_response

THREE_HOPS = "whales [emulate: polls=1]"
SMALL = 2_000  # bytes of a message without the prompt


@pytest.fixture
def published() -> Iterator[list[dict[str, Any]]]:
    """Every task message sent by this process meanwhile: its name, id and size in bytes."""
    messages: list[dict[str, Any]] = []

    def record(sender: str, body: Any, headers: dict[str, Any], **_: Any) -> None:
        size = len(json.dumps(body, default=str)) + len(json.dumps(headers, default=str))
        messages.append({"name": sender, "id": headers["id"], "size": size})

    signals.before_task_publish.connect(record)
    yield messages
    signals.before_task_publish.disconnect(record)


def test_every_hop_carries_the_options_of_the_first(shop: Shop) -> None:
    """Queue, priority, headers, time limits, shadow, stamps, reply_to: what Celery delivers, hop by hop."""
    signature = process_ai_response.s(THREE_HOPS).set(
        queue="urgent",
        priority=3,
        headers={"tenant": "acme"},
        time_limit=60,
        soft_time_limit=50,
        shadow="summaries",
    )
    signature.stamp(order="o-17")
    result = signature.apply_async()
    answer_of(result)

    hops = shop.witness.hops(result.id)
    assert [hop["task"].rpartition(".")[2] for hop in hops] == [
        "process_ai_response",
        "poll_response",
        "poll_response",
    ]
    for hop in hops:
        assert hop["delivery_info"]["routing_key"] == "urgent"
        assert hop["delivery_info"]["priority"] == 3
        assert hop["headers"]["tenant"] == "acme"
        assert tuple(hop["timelimit"]) == (60, 50)
        assert hop["shadow"] == "summaries"
        assert hop["stamped_headers"] == ["order"]
        assert hop["stamps"] == {"order": "o-17"}
        assert hop["reply_to"] == hops[0]["reply_to"]
        assert hop["ignore_result"] is False
        assert hop["root_id"] == result.id


def test_ignore_result_holds_for_every_hop(shop: Shop) -> None:
    """Nothing is stored, the callback runs all the same."""
    result = process_ai_response.apply_async((THREE_HOPS,), ignore_result=True, link=shop.title.s())
    wait_for(lambda: shop.witness.calls_of("title"))

    assert [hop["ignore_result"] for hop in shop.witness.hops(result.id)] == [True] * 3
    assert result.backend.get_task_meta(result.id)["status"] == "PENDING"


def test_no_hop_is_its_own_parent(shop: Shop) -> None:
    """A tracing tool sees the tree of the workflow as it was called."""
    result = chain(shop.rewrite.s(THREE_HOPS), process_ai_response.s())()
    answer_of(result)

    hops = shop.witness.hops(result.id)
    assert len(hops) == 3
    assert {hop["parent_id"] for hop in hops} == {result.parent.id}
    assert {hop["root_id"] for hop in hops} == {result.parent.id}


def test_expires_belongs_to_the_start(shop: Shop) -> None:
    """A response that was submitted in time is awaited past the moment its message would have expired."""
    result = process_ai_response.apply_async(("whales [emulate: duration=0.8]",), expires=0.4)

    assert answer_of(result)["status"] == "completed"
    first, *polls = [bool(hop["expires"]) for hop in shop.witness.hops(result.id)]
    assert first is True
    assert polls
    assert not any(polls)


def test_a_message_that_expired_in_the_queue_costs_nothing(shop: Shop) -> None:
    """It is revoked before its prompt is sent."""
    result = process_ai_response.apply_async(("whales",), expires=-1)
    wait_for(lambda: result.state == "REVOKED")

    assert shop.api.counts.posts == 0


def test_countdown_belongs_to_the_start(shop: Shop) -> None:
    """It puts off the submit, and no poll."""
    result = process_ai_response.apply_async((THREE_HOPS,), countdown=0.5)
    answer_of(result)

    assert [bool(hop["eta"]) for hop in shop.witness.hops(result.id)] == [True, False, False]


def test_the_prompt_travels_once(shop: Shop, published: list[dict[str, Any]]) -> None:
    """The message of a poll is small, however long the prompt."""
    result = process_ai_response.delay("whales [emulate: polls=1] " + "and so on " * 12_000)
    answer_of(result)

    sizes = [message["size"] for message in published if message["id"] == result.id]
    assert sizes[0] > 100_000
    assert len(sizes) == 3
    assert max(sizes[1:]) < SMALL


def test_many_polls_are_no_retries(shop: Shop) -> None:
    """Celery's limit of three retries has no say in how long a response takes."""
    result = process_ai_response.delay("whales [emulate: polls=4]")

    assert answer_of(result)["polls"] == 5
    assert [hop["retries"] for hop in shop.witness.hops(result.id)] == [0] * 6
