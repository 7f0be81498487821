"""What a later message of a task carries, made from the first one's request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from freddy_tasks.continuation import (
    GENERATION_HEADER,
    HIDDEN,
    POLL,
    SUBMIT,
    context_of,
    generation_of,
    options_of,
    publish,
    sealed,
    yields,
)

REQUEST: dict[str, Any] = {
    "id": "t",
    "root_id": "root",
    "parent_id": "parent",
    "group": "g",
    "group_index": 3,
    "chord": {"task": "body", "args": [], "kwargs": {}, "options": {}},
    "chain": [{"task": "next", "args": [], "kwargs": {}, "options": {}}],
    "callbacks": [{"task": "link"}],
    "errbacks": [{"task": "errback"}],
    "timelimit": [10, 5],
    "expires": "2030-01-01T00:00:00+00:00",
    "shadow": "letters",
    "reply_to": "client",
    "ignore_result": False,
    "replaced_task_nesting": 1,
    "stamped_headers": ["customer"],
    "stamps": {"customer": "c1"},
    "headers": {"tenant": "x", GENERATION_HEADER: 4},
    "delivery_info": {"exchange": "", "routing_key": "urgent", "priority": 7},
}


class Producer:
    """Takes what would be sent. Kombu's interface, no network."""

    auto_declare = False

    def __init__(self) -> None:
        self.sent: list[tuple[Any, dict[str, Any]]] = []

    def publish(self, body: Any, **properties: Any) -> None:
        """Keep one message."""
        self.sent.append((body, properties))


@pytest.fixture
def app() -> Celery:
    app = Celery("continuation", broker="memory://", include=["freddy_tasks.tasks"], set_as_current=False)
    app.loader.import_default_modules()
    app.finalize()
    return app


def task_of(broker: str, **settings: Any) -> Any:
    app = Celery("yielding", broker=broker, include=["freddy_tasks.tasks"], set_as_current=False)
    app.conf.update(settings)
    app.loader.import_default_modules()
    app.finalize()
    return app.tasks[SUBMIT]


def options(app: Celery, **changes: Any) -> dict[str, Any]:
    task = app.tasks[SUBMIT]
    task.push_request(**{**REQUEST, **changes})
    try:
        return options_of(task, task.request)
    finally:
        task.pop_request()


def sent(app: Celery, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    producer: Any = Producer()
    publish(app, producer, POLL, "t", [5], {}, given, {GENERATION_HEADER: 5})
    ((body, properties),) = producer.sent
    return body, properties


def test_options_are_plain_json_without_what_belongs_to_the_start(app: Celery) -> None:
    """Neither the id, nor when the prompt was too old to begin, nor an earlier hop's generation."""
    kept = options(app)

    assert json.loads(json.dumps(kept)) == kept
    assert not {"task_id", "expires", "eta", "countdown", "argsrepr", "kwargsrepr"} & set(kept)
    assert kept["headers"].get("tenant") == "x"
    assert GENERATION_HEADER not in kept["headers"]


def test_a_later_message_is_the_first_ones_continuation(app: Celery) -> None:
    """Canvas, limits, headers, stamps, name and queue: as the user's own message had them."""
    (args, kwargs, embed), properties = sent(app, options(app))
    headers = properties["headers"]

    assert (args, kwargs) == ([5], {})
    assert embed["chord"] == REQUEST["chord"]
    assert embed["chain"] == REQUEST["chain"]
    assert embed["callbacks"] == REQUEST["callbacks"]
    assert embed["errbacks"] == REQUEST["errbacks"]
    assert headers["id"] == "t"
    assert headers["task"] == POLL
    assert headers["shadow"] == "letters"
    assert (headers["root_id"], headers["parent_id"]) == ("root", "parent")
    assert (headers["group"], headers["group_index"]) == ("g", 3)
    assert headers["timelimit"] == [10, 5]
    assert headers["tenant"] == "x"
    assert headers["stamps"] == {"customer": "c1"}
    assert headers["stamped_headers"] == ["customer"]
    assert headers[GENERATION_HEADER] == 5
    assert headers["expires"] is None
    assert headers["eta"] is None
    assert (properties["routing_key"], properties["priority"]) == ("urgent", 7)
    assert properties["reply_to"] == "client"


def test_arguments_are_hidden_from_monitors(app: Celery) -> None:
    """A prompt is nothing for events and logs."""
    _, properties = sent(app, options(app))

    assert (properties["headers"]["argsrepr"], properties["headers"]["kwargsrepr"]) == (HIDDEN, HIDDEN)


def test_an_exchange_of_ones_own_is_published_to(app: Celery) -> None:
    """With RabbitMQ the queue is found by exchange and routing key."""
    delivery = {"exchange": "orders", "routing_key": "ai.urgent", "priority": None}
    _, properties = sent(app, options(app, delivery_info=delivery))

    assert str(properties["exchange"]).startswith("orders") or properties["exchange"] == "orders"
    assert properties["routing_key"] == "ai.urgent"
    assert properties.get("priority") is None


def test_a_sealed_message_is_the_one_that_would_be_published(app: Celery) -> None:
    """But for where it goes: that is its envelope's."""
    given = options(app)
    body, properties = sent(app, given)
    sealed_headers, sealed_body = json.loads(
        json.dumps(sealed(app, POLL, "t", [5], {}, given, {GENERATION_HEADER: 5}))
    )

    assert sealed_body == json.loads(json.dumps(body))
    assert sealed_headers == {**properties["headers"], "reply_to": properties["reply_to"]}


def test_batches_yield_on_redis() -> None:
    """Low numbers go first there; elsewhere they might mean the opposite."""
    assert yields(task_of("redis://"), "batch", {"queue": "q"})
    assert not yields(task_of("amqp://"), "batch", {"queue": "q"})


@pytest.mark.parametrize(
    ("lane", "given", "settings"),
    [
        ("normal", {}, {}),
        (None, {}, {}),
        ("batch", {"priority": 0}, {}),
        ("batch", {}, {"task_default_priority": 3}),
        ("batch", {}, {"task_routes": {SUBMIT: {"priority": 3}}}),
    ],
)
def test_a_chosen_priority_and_other_lanes_stand(
    lane: str | None, given: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Only a batch whose priority nobody chose gives way."""
    assert not yields(task_of("redis://", **settings), lane, given)


@pytest.mark.parametrize("word", [True, False])
def test_the_messages_word_on_its_result_is_kept(app: Celery, word: bool) -> None:
    """`ignore_result` of one call holds for every hop of it."""
    assert options(app, ignore_result=word)["ignore_result"] is word


def test_a_task_is_shown_under_one_name(app: Celery) -> None:
    """A poll is part of its prompt's task."""
    assert options(app, shadow=None)["shadow"] == SUBMIT


def test_a_user_message_has_no_generation() -> None:
    """Only the waiting room's messages have, as text where a broker made it one."""
    assert generation_of(Context(headers=None)) is None
    assert generation_of(Context(headers={"tenant": "x"})) is None
    assert generation_of(Context(headers={GENERATION_HEADER: "12"})) == 12


def test_a_context_is_enough_to_end_a_task_from_outside(app: Celery) -> None:
    """Chord, chain, callbacks and errbacks, as the backend reads them."""
    context = context_of("t", options(app))

    assert (context.id, context.group, context.group_index) == ("t", "g", 3)
    assert context.chord == REQUEST["chord"]
    assert context.chain == REQUEST["chain"]
    assert context.callbacks == REQUEST["callbacks"]
    assert context.errbacks == REQUEST["errbacks"]
    assert context.ignore_result is False
