"""Batches whose last message the broker loses: they end, and nothing that may yet come is sent twice."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
from celery import Celery, states
from kombu.transport.redis import Channel
from redis.exceptions import ConnectionError  # noqa: A004  # the one that a client of Redis raises
from shop import Shop, wait_for

from freddy_tasks import (
    Batch,
    BatchResult,
    ResponseFailed,
    process_batch,
)
from freddy_tasks.batch import Outcome, broker
from freddy_tasks.batch import look as looking
from freddy_tasks.batch.record import Record
from freddy_tasks.batch.register import Register
from freddy_tasks.batch.tasks import COLLECT_BATCH, SALVAGE_BATCH
from freddy_tasks.batch.watch import LOOKS, Watch, WatchStep
from freddy_tasks.continuation import SUBMIT
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.records import Phase

DEADLINE = 40.0  # seconds: a test that has to wait longer has failed
ENDLESS = "Wait {} [emulate: duration=600]"


@pytest.fixture
def watch(shop: Shop) -> Iterator[Watch]:
    """A watch that looks when it is told to; no batch of another test is on the register."""
    key, client = register_of(shop).key, shop.runtime.ledger.redis
    client.delete(key)
    yield Watch(shop.app, shop.runtime, every=60.0)
    client.delete(f"{key}:watch")


class Late:
    """A queue that the worker reads when a test lets it."""

    def __init__(self, shop: Shop) -> None:
        # No test has another's: a BRPOP under way takes a message even after its consumer is cancelled.
        self.name = f"late-{uuid.uuid4().hex[:8]}"
        self.options = {"queue": self.name}
        self.client = shop.runtime.ledger.redis
        self._control = shop.app.control

    def read(self) -> None:
        """Let the worker read it."""
        self._control.add_consumer(self.name, reply=True, limit=1)

    def messages(self) -> dict[str, tuple[str, str]]:
        """What is in it: by task id, the key and the message."""
        found = [(key, each) for key in self._keys() for each in self.client.lrange(key, 0, -1)]
        return {json.loads(message)["headers"]["id"]: (key, message) for key, message in found}

    def lose(self, task_id: str) -> tuple[str, str]:
        """Take a message away, as BRPOP does for a worker that is dead; its key and the message."""
        key, message = self.messages()[task_id]
        assert self.client.lrem(key, 1, message) == 1
        return key, message

    def close(self) -> None:
        """Leave nothing behind."""
        self._control.cancel_consumer(self.name, reply=True, limit=1)
        self.client.delete(*self._keys(), "nothing")

    def _keys(self) -> list[str]:
        return self.client.keys(f"{self.name}*")


@pytest.fixture
def late(shop: Shop) -> Iterator[Late]:
    """A queue that nobody reads yet."""
    queue = Late(shop)
    yield queue
    queue.close()


def look(watch: Watch, times: int = LOOKS) -> None:
    """Look so often."""
    for _ in range(times):
        watch.look()


def callback_of(shop: Shop) -> BatchResult:
    """What the callback was given, by its one call."""
    [(given,)] = wait_for(lambda: shop.witness.calls_of("note"))
    return BatchResult.from_result(given)


def register_of(shop: Shop) -> Register:
    """The register of its batches."""
    return Register(shop.app, shop.runtime.ledger)


def is_open(shop: Shop, batch: Batch) -> bool:
    """Whether a batch is on the register."""
    return batch.id in register_of(shop).open_ids()


def running(shop: Shop) -> list[dict[str, Any]]:
    """What the worker has in hand."""
    replies = shop.app.control.inspect(timeout=DEADLINE, limit=1).active()
    assert replies, "the worker was too slow to say"
    return [task for tasks in replies.values() for task in tasks]


@contextmanager
def losing(name: str) -> Iterator[list[Mapping[str, Any]]]:
    """Let the broker lose the first message of this name."""
    lost: list[Mapping[str, Any]] = []
    put = Channel._put

    def take(self: Channel, queue: str, message: dict[str, Any], **options: Any) -> None:
        if message.get("headers", {}).get("task") == name and not lost:
            lost.append(message)
        else:
            put(self, queue, message, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Channel, "_put", take)
        yield lost


@pytest.mark.parametrize("on_error", ["collect", "fail_fast"])
def test_a_batch_whose_chord_celery_has_forgotten_ends(
    shop: Shop, watch: Watch, late: Late, on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers were further apart than `result_chord_expires`: no count of Celery's starts its body."""
    monkeypatch.setattr(looking, "CHUNK", 1)  # it is not looked at in one go
    prompts = ["ants", "Fail [emulate: status=failed code=model_error]"]
    batch = process_batch(
        prompts,
        on_error=on_error,
        callback=shop.note.s(),
        errback=shop.complain.s(),
        group_options=late.options,
    )
    late.client.delete(*late.client.keys(f"*{batch.group.id}.s"))
    late.read()
    wait_for(lambda: batch.progress().done and not running(shop))

    look(watch)
    if on_error == "collect":
        assert callback_of(shop).counts == {"completed": 1, "failed": 1, "cancelled": 0, "unknown": 0}
    else:
        assert len(wait_for(lambda: shop.witness.calls_of("complain"))) == 1
        assert shop.witness.calls_of("note") == []
        with pytest.raises(ResponseFailed):
            batch.get(DEADLINE)
    look(watch, LOOKS)
    assert not is_open(shop, batch)


@pytest.mark.parametrize(("name", "cancelled"), [(COLLECT_BATCH, 0), (SALVAGE_BATCH, 1)])
def test_an_end_whose_message_was_lost_is_sent_again(
    shop: Shop, watch: Watch, name: str, cancelled: int
) -> None:
    """The body of the chord, or what stands in for one that failed; its callback runs once."""
    with losing(name) as lost:
        batch = process_batch(["ants", ENDLESS.format(0)][: 1 + cancelled], callback=shop.note.s())
        if cancelled:
            wait_for(lambda: batch.progress().completed == 1)
            batch.cancel()
        wait_for(lambda: lost)
        wait_for(lambda: {shop.runtime.ledger.record(one).phase for one in batch.task_ids} == {Phase.CLOSED})
    wait_for(lambda: not running(shop))

    look(watch, LOOKS - 1)
    assert shop.witness.calls_of("note") == []
    look(watch, 1)
    result = callback_of(shop)
    assert result.counts["completed"] == 1
    assert result.counts["cancelled"] == cancelled
    wait_for(lambda: not is_open(shop, batch))
    assert len(shop.witness.hops(lost[0]["headers"]["id"])) == 1


def test_a_prompt_that_the_state_server_lost_is_unknown_and_holds_nothing_up(
    shop: Shop, watch: Watch
) -> None:
    """As a failover may: nobody waits for it, and the batch ends with the others' answers."""
    batch = process_batch(["ants", ENDLESS.format(0)], callback=shop.note.s())
    ledger, (answered, lost) = shop.runtime.ledger, batch.task_ids
    wait_for(lambda: ledger.record(answered).phase is Phase.CLOSED)
    wait_for(lambda: ledger.record(lost).phase is Phase.WAITING and not running(shop))
    ledger.redis.zrem(f"{ledger.prefix}:due", lost)
    ledger.redis.delete(f"{ledger.prefix}:job:{lost}")

    assert [item.outcome for item in batch.results(DEADLINE)] == [Outcome.COMPLETED, Outcome.UNKNOWN]
    assert batch.progress().done
    look(watch)
    assert callback_of(shop).counts == {"completed": 1, "failed": 0, "cancelled": 0, "unknown": 1}


def test_a_callback_that_is_called_twice_has_one_task_id(shop: Shop, watch: Watch, late: Late) -> None:
    """A worker that dies between publishing it and storing the end leaves no trace of having done so."""
    register = register_of(shop)
    batch = process_batch(["ants"], callback=shop.note.s(), group_options=late.options)
    entry = register.read(batch.id)
    late.read()
    wait_for(lambda: shop.witness.calls_of("note") and not is_open(shop, batch))
    wait_for(lambda: shop.app.backend.get_state(batch.id) == states.SUCCESS)  # or it comes later
    shop.app.backend.forget(batch.id)
    register.enter(entry)
    look(watch)
    wait_for(lambda: len(shop.witness.calls_of("note")) == 2)

    ids = [request["id"] for request in shop.witness.requests if request["task"] == "shop.note"]
    assert ids == 2 * [Record(batch.id, 1).callback_id]
    first, second = shop.witness.calls_of("note")
    assert first == second


def test_a_callback_keeps_the_task_id_that_it_has(shop: Shop) -> None:
    """Somebody chose it to find its result."""
    process_batch(["ants"], callback=shop.note.s().set(task_id="chosen"))

    wait_for(lambda: [request for request in shop.witness.requests if request["id"] == "chosen"])


@contextmanager
def without_its_end(shop: Shop, **options: Any) -> Iterator[Batch]:
    """A batch whose prompt was answered, and the message that ends it lost."""
    with losing(COLLECT_BATCH) as lost:
        batch = process_batch(["ants"], **options)
        wait_for(lambda: lost)
    wait_for(lambda: batch.progress().done and not running(shop))
    yield batch


def has_ended(shop: Shop, batch: Batch) -> bool:
    """Whether its body has a result."""
    return bool(wait_for(lambda: not running(shop)) and batch.body.ready())


def test_looks_before_a_server_was_away_do_not_count(
    shop: Shop, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile workers may have kept messages that they could not put back."""
    with without_its_end(shop) as batch:
        look(watch, LOOKS - 1)
        with monkeypatch.context() as patch:
            patch.setattr(broker, "held", lose_connection)
            with pytest.raises(ConnectionError):
                watch.look()

        look(watch, LOOKS - 1)
        assert not has_ended(shop, batch)
        look(watch, 1)
        wait_for(batch.body.ready)


def lose_connection(*_: Any) -> None:
    """As a client of Redis does."""
    raise ConnectionError("the broker is away")


def test_a_batch_that_cannot_be_looked_at_holds_no_other_up(shop: Shop, watch: Watch) -> None:
    """What is kept of its end cannot be read."""
    client = shop.runtime.ledger.redis
    with without_its_end(shop) as spoilt, without_its_end(shop) as batch:
        client.set(shop.app.backend.get_key_for_task(spoilt.id), "no JSON")
        look(watch)

        wait_for(batch.body.ready)
        assert is_open(shop, spoilt)
        client.delete(shop.app.backend.get_key_for_task(spoilt.id))


@pytest.mark.parametrize("place", ["behind", "anywhere"])
def test_where_the_broker_cannot_tell_nothing_is_sent_again(
    shop: Shop, watch: Watch, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Behind more messages than are read, or by a route that may lead anywhere."""
    register = register_of(shop)
    with without_its_end(shop) as batch:
        if place == "behind":
            monkeypatch.setattr(broker, "MOST", -1)
        else:
            register.enter(replace(register.read(batch.id), queues=None))
        look(watch, 3 * LOOKS)

        assert not has_ended(shop, batch)
        assert is_open(shop, batch)


def test_one_watch_at_a_time_looks(shop: Shop, watch: Watch) -> None:
    """A second one stands by, and begins from nothing when the first has stopped."""
    second = Watch(shop.app, shop.runtime, every=60.0)
    with without_its_end(shop) as batch:
        look(watch, 1)
        look(second, 2 * LOOKS)
        assert not has_ended(shop, batch)

        watch.start()
        watch.stop()
        look(second, LOOKS - 1)
        assert not has_ended(shop, batch)
        look(second, 1)
        wait_for(batch.body.ready)


def test_a_watch_works_by_itself(shop: Shop) -> None:
    """Its thread looks, sends what is lost again, and leaves the lead to others when it stops."""
    lead = f"{register_of(shop).key}:watch"
    with without_its_end(shop) as batch:
        alone = Watch(shop.app, shop.runtime, every=0.02)
        alone.start()
        wait_for(batch.body.ready)
        alone.stop()

        assert shop.runtime.ledger.redis.get(lead) is None


def test_apps_that_keep_their_results_apart_watch_over_their_own(shop: Shop, late: Late) -> None:
    """They share a broker and its ledger; to another's watch, each batch would be one without an end."""
    other = Celery("other", broker=shop.app.conf.broker_url, backend="cache+memory://", set_as_current=False)
    batch = process_batch(["ants"], group_options=late.options)

    assert batch.id not in Register(other, shop.runtime.ledger).open_ids()


@pytest.mark.parametrize(
    ("urls", "places"),
    [
        (["redis://results", "redis://web:one@results:6379/0", "redis://:two@results/"], 1),
        (["redis://results/0", "redis://results/1", "redis://results:6380/0", "redis://others/0"], 4),
        (["redis+socket:///run/valkey?virtual_host=0", "redis+socket:///run/valkey?virtual_host=1"], 2),
        (
            [
                "sentinel://one:26379/1;sentinel://two:26379/1",
                "sentinel://:three@one:26379/1;sentinel://two:26379/1",
            ],
            1,
        ),
        (["rpc://", "disabled://"], 2),
    ],
)
def test_a_register_is_of_the_place_where_results_are(shop: Shop, urls: list[str], places: int) -> None:
    """However callers and workers spell it, or log in there."""
    apps = [Celery("shop", backend=url, set_as_current=False) for url in urls]

    assert len({Register(app, shop.runtime.ledger).key for app in apps}) == places


@pytest.mark.parametrize(("name", "cancelled"), [(COLLECT_BATCH, 0), (SALVAGE_BATCH, 1)])
def test_a_worker_of_an_app_that_routes_otherwise_ends_a_batch(
    shop: Shop, watch: Watch, name: str, cancelled: int
) -> None:
    """Its own queue has nobody who knows the callback: what it publishes goes where the batch's app reads."""
    url = shop.app.conf.broker_url
    other = Celery("other", broker=url, backend=url, include=["freddy_tasks.tasks"], set_as_current=False)
    other.conf.task_default_queue = "others"
    other.loader.import_default_modules()
    other.finalize()
    with losing(name) as lost:
        batch = process_batch(["ants", ENDLESS.format(0)][: 1 + cancelled], callback=shop.note.s())
        if cancelled:
            wait_for(lambda: batch.progress().completed == 1)
            batch.cancel()
        wait_for(lambda: lost and batch.progress().done and not running(shop))
    look(Watch(other, shop.runtime, every=60.0))

    assert len(wait_for(lambda: shop.witness.calls_of("note"))) == 1
    assert shop.runtime.ledger.redis.llen("others") == 0


def test_a_watch_joins_every_worker(shop: Shop) -> None:
    """Nobody has to ask for it."""
    assert WatchStep in shop.app.steps["worker"]


@pytest.fixture
def elsewhere(valkey: EmbeddedServer, state: redis.Redis) -> Iterator[Celery]:
    """An app with other names for everything that a broker keeps."""
    options = {
        "global_keyprefix": "mine:",
        "unacked_key": "taken",
        "priority_steps": [0, 5],
        "sep": ":",
        "queue_order_strategy": "priority",
    }
    app = Celery("elsewhere", broker=valkey.url, broker_transport_options=options, set_as_current=False)
    yield app
    app.close()


def test_every_message_that_a_broker_has_is_found(elsewhere: Celery, state: redis.Redis) -> None:
    """Of each priority, in each queue, and in the hands of a worker, whatever their keys are called."""
    ids = {
        elsewhere.send_task("any", queue=queue, priority=priority).id
        for queue in ("one", "two")
        for priority in (0, 7)
    }
    other = elsewhere.send_task("any", queue="three").id
    with elsewhere.connection_for_read() as connection:
        channel = connection.channel()
        taken = [channel.basic_get("one") for _ in range(2)]

        assert all(taken)
        assert broker.held(elsewhere, ("one", "two")) == ids
        assert broker.held(elsewhere, ("three",)) == {
            other,
            *(message.properties["correlation_id"] for message in taken),
        }
    assert state.keys("taken") == []


@pytest.mark.parametrize(
    ("conf", "options", "queue"),
    [
        ({}, {}, "celery"),
        ({"task_default_queue": "ours"}, {}, "ours"),
        ({"task_routes": {"freddy_tasks.*": {"queue": "ai"}}}, {}, "ai"),
        ({"task_routes": {"freddy_tasks.*": {"queue": "ai"}}}, {"queue": "mine"}, "mine"),
        ({"task_routes": {"freddy_tasks.*": {"exchange": "x", "routing_key": "y"}}}, {}, None),
        ({"task_routes": [lambda *_, **__: {"queue": "anywhere"}]}, {}, None),
        ({"task_annotations": {SUBMIT: {"queue": "noted"}}}, {}, "noted"),
        ({}, {"routing_key": "somewhere"}, None),
    ],
)
def test_the_queue_of_a_message_is_the_one_it_is_sent_to(
    state: redis.Redis,
    valkey: EmbeddedServer,
    conf: dict[str, Any],
    options: dict[str, str],
    queue: str | None,
) -> None:
    """By the app's settings and the call's options; where only the broker knows, nobody guesses."""
    app = Celery("routed", broker=valkey.url, include=["freddy_tasks.tasks"], set_as_current=False)
    app.conf.update(conf)
    app.loader.import_default_modules()
    sent = app.tasks[SUBMIT].apply_async(("ants",), **options)

    assert broker.queue_of(app, SUBMIT, options) == queue
    if queue is not None:
        assert broker.held(app, (queue,)) == {sent.id}
    app.close()


def test_another_broker_is_not_asked() -> None:
    """It would have to tell what its consumers hold, and none does."""
    app = Celery("elsewhere", broker="memory://", set_as_current=False)

    assert broker.held(app, ("celery",)) is None
