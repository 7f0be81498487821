"""Batches whose messages the broker loses: they end, and nothing that may yet come is given up."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import Celery
from celery.backends.redis import RedisBackend
from kombu.transport.redis import Channel
from redis.exceptions import ConnectionError  # noqa: A004  # the one that a client of Redis raises
from shop import Shop, wait_for

from freddy_tasks import (
    Batch,
    BatchResult,
    MessageLost,
    ResponseFailed,
    cancel_response,
    process_batch,
)
from freddy_tasks.batch import Outcome, broker
from freddy_tasks.batch import look as looking
from freddy_tasks.batch.record import Record
from freddy_tasks.batch.register import Register
from freddy_tasks.batch.tasks import COLLECT_BATCH, SALVAGE_BATCH
from freddy_tasks.batch.watch import LOOKS, MEMORY, Watch, WatchStep
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


@pytest.mark.parametrize("on_error", ["collect", 0.5])
def test_a_batch_ends_without_the_prompt_whose_message_was_lost(
    shop: Shop, watch: Watch, late: Late, on_error: str | float
) -> None:
    """Nobody looks at its handle: the callback runs once, the prompt has failed, and can be sent again."""
    prompts = [f"prompt {number}" for number in range(4)]
    batch = process_batch(prompts, callback=shop.note.s(), on_error=on_error, group_options=late.options)
    late.lose(batch.task_ids[1])
    late.read()
    wait_for(lambda: batch.progress().completed == 3)

    look(watch, LOOKS - 1)
    assert batch.progress().ended == 3
    look(watch, 1)
    result = callback_of(shop)
    assert [item.outcome for item in result.items] == [
        Outcome.COMPLETED,
        Outcome.FAILED,
        Outcome.COMPLETED,
        Outcome.COMPLETED,
    ]
    assert isinstance(result.failed[0].error, MessageLost)
    assert batch.get(DEADLINE).to_result() == result.to_result()
    wait_for(lambda: not is_open(shop, batch))
    look(watch)
    again = batch.retry_failed(group_options={})
    assert [item.output_text for item in again.get(DEADLINE).items] == ["About prompt 1"]
    assert shop.api.counts.posts == 4
    wait_for(lambda: len(shop.witness.calls_of("note")) == 2)  # one for each batch


def test_a_lost_message_is_the_failure_that_ends_a_batch_at_once(
    shop: Shop, watch: Watch, late: Late
) -> None:
    """The first failure of a "fail_fast" one: the rest is cancelled, and its errback is called."""
    batch = process_batch(
        ["ants", ENDLESS.format(1), "bees", ENDLESS.format(2)],
        on_error="fail_fast",
        callback=shop.note.s(),
        errback=shop.complain.s(),
        group_options=late.options,
    )
    for lost in (0, 2):
        late.lose(batch.task_ids[lost])
    late.read()
    wait_for(lambda: shop.api.counts.posts == 2)

    look(watch)
    wait_for(lambda: shop.api.counts.deletes == 2)
    look(watch, 1)
    assert len(wait_for(lambda: shop.witness.calls_of("complain"))) == 1
    with pytest.raises(MessageLost):
        batch.get(DEADLINE)
    assert [item.outcome for item in batch.results(DEADLINE)] == [Outcome.FAILED] + 3 * [Outcome.CANCELLED]
    look(watch, 1)
    assert not is_open(shop, batch)
    assert shop.witness.calls_of("note") == []


def test_a_message_that_a_dead_worker_holds_is_waited_for(shop: Shop, watch: Watch, late: Late) -> None:
    """It comes back with the visibility timeout, however long that is; its prompt is answered."""
    batch = process_batch(["ants", "bees", "cats"], callback=shop.note.s(), group_options=late.options)
    with shop.app.connection_for_read() as connection:
        dead = connection.channel()
        held = dead.basic_get(late.name)
        late.read()
        wait_for(lambda: batch.progress().completed == 2)

        look(watch, 3 * LOOKS)
        assert batch.progress().waiting == 1
        dead.qos.restore_by_tag(held.delivery_tag)
        assert callback_of(shop).counts["completed"] == 3
    assert shop.api.counts.posts == 3


def test_a_message_that_waits_is_waited_for(shop: Shop, watch: Watch, late: Late) -> None:
    """No worker reads the queue, for as long as it likes; so with those before and behind it."""
    batch = process_batch(["ants", "bees"], callback=shop.note.s(), group_options=late.options)
    look(watch, 3 * LOOKS)
    late.read()

    assert callback_of(shop).counts["completed"] == 2
    assert batch.get(DEADLINE).counts["completed"] == 2


def test_a_purged_batch_ends(shop: Shop, watch: Watch, late: Late) -> None:
    """All its prompts have failed, in order."""
    batch = process_batch(
        [{"id": "a", "prompt": "ants"}, {"id": "b", "prompt": "bees"}],
        callback=shop.note.s(),
        group_options=late.options,
    )
    with shop.app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge(late.name) == 2
    late.read()
    look(watch)

    result = callback_of(shop)
    assert [(item.id, type(item.error)) for item in result.failed] == [("a", MessageLost), ("b", MessageLost)]
    assert batch.get(DEADLINE).to_result() == result.to_result()
    assert shop.api.counts.posts == 0


def test_a_message_that_turns_up_after_all_changes_nothing(shop: Shop, watch: Watch, late: Late) -> None:
    """It was given up, and may have been sent again: it makes no request, and calls nobody."""
    batch = process_batch(["ants"], callback=shop.note.s(), group_options=late.options)
    key, message = late.lose(batch.task_ids[0])
    look(watch)
    late.read()
    result = callback_of(shop)
    late.client.lpush(key, message)
    wait_for(lambda: shop.witness.hops(batch.task_ids[0]))
    wait_for(lambda: not late.messages() and not late.client.hlen("unacked"))

    assert shop.app.AsyncResult(batch.task_ids[0]).result == result.items[0].error.to_result()
    assert shop.api.counts.posts == 0
    assert len(shop.witness.calls_of("note")) == 1


def test_a_prompt_that_begins_at_the_last_moment_is_left_alone(
    shop: Shop, watch: Watch, late: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look into the ledger and the fence: the fence is not put up."""
    batch = process_batch(["ants"], callback=shop.note.s(), group_options=late.options)
    key, message = late.lose(batch.task_ids[0])
    late.read()
    look(watch, LOOKS - 1)
    held = broker.held

    def hold(*args: Any) -> frozenset[str] | None:
        found = held(*args)
        late.client.lpush(key, message)
        wait_for(lambda: shop.runtime.ledger.record(batch.task_ids[0]))
        return found

    monkeypatch.setattr(broker, "held", hold)
    look(watch, 1)

    assert callback_of(shop).counts["completed"] == 1


def test_a_prompt_that_was_cancelled_before_its_message_was_lost_is_cancelled(
    shop: Shop, watch: Watch, late: Late
) -> None:
    """Only a message could have told Celery."""
    batch = process_batch(["ants", "bees"], callback=shop.note.s(), group_options=late.options)
    cancel_response(batch.task_ids[0])
    late.lose(batch.task_ids[0])
    late.read()
    wait_for(lambda: batch.progress().completed == 1)
    look(watch)

    assert callback_of(shop).counts == {"completed": 1, "failed": 0, "cancelled": 1, "unknown": 0}


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
    wait_for(lambda: batch.progress().completed == batch.progress().failed == 1)
    wait_for(lambda: not running(shop))

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
        wait_for(lambda: batch.progress().done)
    wait_for(lambda: not running(shop))

    look(watch, LOOKS - 1)
    assert shop.witness.calls_of("note") == []
    look(watch, 1)
    result = callback_of(shop)
    assert result.counts["completed"] == 1
    assert result.counts["cancelled"] == cancelled
    wait_for(lambda: not is_open(shop, batch))
    assert len(shop.witness.hops(lost[0]["headers"]["id"])) == 1


def test_a_callback_that_is_called_twice_has_one_task_id(shop: Shop, watch: Watch, late: Late) -> None:
    """A worker that dies between publishing it and storing the end leaves no trace of having done so."""
    register = register_of(shop)
    batch = process_batch(["ants"], callback=shop.note.s(), group_options=late.options)
    entry = register.read(batch.id)
    late.read()
    wait_for(lambda: shop.witness.calls_of("note") and not is_open(shop, batch))
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


def test_forgotten_prompts_of_an_old_batch_are_unknown_and_it_ends(
    shop: Shop, watch: Watch, late: Late
) -> None:
    """After days the silence of the ledger proves nothing: they may have been answered, and paid for."""
    batch = process_batch(["ants", "bees"], callback=shop.note.s(), group_options=late.options)
    [key] = late.client.keys(f"*:batch:{batch.id}")
    kept = json.loads(late.client.get(key))
    late.client.set(key, json.dumps({**kept, "created_at": kept["created_at"] - MEMORY}))
    late.lose(batch.task_ids[0])
    late.read()
    wait_for(lambda: batch.progress().completed == 1)

    look(watch, LOOKS)
    assert shop.runtime.ledger.record(batch.task_ids[0]) is None
    look(watch, LOOKS)
    assert callback_of(shop).counts == {"completed": 1, "failed": 0, "cancelled": 0, "unknown": 1}


def test_a_watch_that_died_between_fence_and_outcome_is_made_up_for(
    shop: Shop, watch: Watch, late: Late
) -> None:
    """Nobody cancelled that prompt: it was lost, and can be sent again."""
    ledger = shop.runtime.ledger
    batch = process_batch(["ants"], group_options=late.options)
    late.lose(batch.task_ids[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisBackend, "mark_as_done", die)
        look(watch)
    assert ledger.record(batch.task_ids[0]).phase is Phase.CANCELLED
    assert batch.progress().waiting == 1

    look(watch)
    assert [type(item.error) for item in batch.results(DEADLINE)] == [MessageLost]


def die(*_: Any, **__: Any) -> None:
    """The end of whoever does this."""
    raise RuntimeError("killed")


def test_looks_before_a_server_was_away_do_not_count(
    shop: Shop, watch: Watch, late: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile workers may have kept messages that they could not put back."""
    batch = process_batch(["ants"], group_options=late.options)
    late.lose(batch.task_ids[0])
    look(watch, LOOKS - 1)
    with monkeypatch.context() as patch:
        patch.setattr(broker, "held", lose_connection)
        with pytest.raises(ConnectionError):
            watch.look()

    look(watch, LOOKS - 1)
    assert batch.progress().waiting == 1
    look(watch, 1)
    assert batch.progress().failed == 1


def lose_connection(*_: Any) -> None:
    """As a client of Redis does."""
    raise ConnectionError("the broker is away")


def test_a_batch_that_cannot_be_looked_at_holds_no_other_up(shop: Shop, watch: Watch, late: Late) -> None:
    """What is kept of its end cannot be read."""
    spoilt, batch = (process_batch(["ants"], group_options=late.options) for _ in range(2))
    late.lose(batch.task_ids[0])
    late.client.set(shop.app.backend.get_key_for_task(spoilt.id), "no JSON")
    look(watch)

    assert batch.progress().failed == 1
    assert is_open(shop, spoilt)
    late.client.delete(shop.app.backend.get_key_for_task(spoilt.id))


@pytest.mark.parametrize("route", ["queue", "exchange"])
def test_where_the_broker_cannot_tell_nothing_is_given_up(
    shop: Shop, watch: Watch, late: Late, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    """Behind more messages than are read, or by a route that may lead anywhere."""
    options = late.options if route == "queue" else {"exchange": late.name, "routing_key": late.name}
    batch = process_batch(["ants"], group_options=options)
    if route == "queue":
        late.lose(batch.task_ids[0])
        shop.note.apply_async((0,), queue=late.name)
        monkeypatch.setattr(broker, "MOST", 0)
    look(watch, 3 * LOOKS)

    assert batch.progress().waiting == 1
    assert is_open(shop, batch)


def test_one_watch_at_a_time_looks(shop: Shop, watch: Watch, late: Late) -> None:
    """A second one stands by, and begins from nothing when the first has stopped."""
    second = Watch(shop.app, shop.runtime, every=60.0)
    batch = process_batch(["ants"], group_options=late.options)
    late.lose(batch.task_ids[0])
    look(watch, 1)
    look(second, 2 * LOOKS)
    assert batch.progress().waiting == 1

    watch.start()
    watch.stop()
    look(second, LOOKS - 1)
    assert batch.progress().waiting == 1
    look(second, 1)
    assert batch.progress().failed == 1


def test_a_watch_works_by_itself(shop: Shop, late: Late, valkey: EmbeddedServer) -> None:
    """Its thread looks, ends what is lost, and leaves the lead to others when it stops."""
    lead = f"{register_of(shop).key}:watch"
    batch = process_batch(["ants"], group_options=late.options)
    late.lose(batch.task_ids[0])
    alone = Watch(shop.app, shop.runtime, every=0.02)
    alone.start()
    wait_for(lambda: batch.progress().failed == 1)
    alone.stop()

    assert late.client.get(lead) is None


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


@pytest.mark.parametrize(
    ("on_error", "name", "called"),
    [("collect", SUBMIT, "note"), ("collect", COLLECT_BATCH, "note"), ("fail_fast", SUBMIT, "complain")],
)
def test_a_worker_of_an_app_that_routes_otherwise_ends_a_batch(
    shop: Shop, watch: Watch, on_error: str, name: str, called: str
) -> None:
    """Its own queue has nobody who knows the callback: what it publishes goes where the batch's app reads."""
    url = shop.app.conf.broker_url
    other = Celery("other", broker=url, backend=url, include=["freddy_tasks.tasks"], set_as_current=False)
    other.conf.task_default_queue = "others"
    other.loader.import_default_modules()
    other.finalize()
    with losing(name) as lost:
        process_batch(["ants"], on_error=on_error, callback=shop.note.s(), errback=shop.complain.s())
        wait_for(lambda: lost and not running(shop))
    look(Watch(other, shop.runtime, every=60.0))

    assert len(wait_for(lambda: shop.witness.calls_of(called))) == 1
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
