"""What lies on the ledger of a prompt that no message brought: as its message would have left it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group, signals
from celery.app.trace import build_tracer
from kombu import Exchange
from kombu.exceptions import OperationalError
from pydantic import SecretStr
from redis.exceptions import ConnectionError  # noqa: A004  # the one that a client of Redis raises
from shop import DEADLINE, Shop, answer_of, wait_for

from freddy_tasks import (
    ConfigurationError,
    InvalidRequest,
    cancel_response,
    process_ai_response,
    process_batch,
)
from freddy_tasks import desk as desks
from freddy_tasks.batch import Outcome
from freddy_tasks.budget import Budget
from freddy_tasks.calls import read_call
from freddy_tasks.continuation import SUBMIT
from freddy_tasks.desk import desk
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.ledger import ADMISSION_TIMEOUT, Ledger
from freddy_tasks.models import Job
from freddy_tasks.records import Enlisted, Held, Phase
from freddy_tasks.runtime import build, runtime_of, use
from freddy_tasks.settings import Settings

DAY = 86_400.0  # seconds
THREE_WAYS = ["in a message", "at a desk", "told to line up"]
MOMENTS = {"begun", "send_by", "deadline"}
ENDLESS = "Wait [emulate: duration=600]"


@pytest.fixture
def paused(shop: Shop) -> Iterator[Shop]:
    """A shop whose plan has no request free, so that all prompts line up."""
    ledger = shop.runtime.ledger
    ledger.heed(refused=True, retry_in=600.0, per_minute=None, remaining=None)
    yield shop
    for key in ledger.redis.scan_iter(f"{ledger.prefix}:job:*"):
        ledger.cancel(key.rpartition(":")[2], even_unseen=False)
    ledger.redis.delete(*ledger.budget.keys)


def kept(shop: Shop, task_id: str) -> dict[str, Any]:
    """All that the ledger has of a prompt that lines up, but for the nonce of the call that put it there."""
    ledger = shop.runtime.ledger
    wait_for(lambda: ledger.redis.zscore(f"{ledger.prefix}:ready:submit", task_id))
    fields: dict[str, Any] = ledger.redis.hgetall(f"{ledger.prefix}:job:{task_id}")
    fields.pop("nonce", None)
    for name in ("job", "body", "options"):
        fields[name] = json.loads(fields[name])
    # kombu gives each message a priority; only the broker on its way tells 0 from none.
    fields["options"].setdefault("priority", 0)
    return fields


def alike(fields: dict[str, Any], *ids: str) -> dict[str, Any]:
    """The same with names in place of ids, and without what the clock says."""
    text = json.dumps({name: value for name, value in fields.items() if name not in MOMENTS})
    for number, each in enumerate(ids):
        text = text.replace(each, f"id {number}")
    return dict(json.loads(text))


@contextmanager
def lining_up(app: Celery) -> Iterator[None]:
    """As where `FREDDY_LINE_UP` is set."""
    before = runtime_of(app)
    use(app, replace(before, settings=before.settings.model_copy(update={"line_up": True})))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREDDY_LINE_UP", "true")
        yield
    use(app, before)


def going(shop: Shop, way: str) -> AbstractContextManager[Any]:
    """What is published within goes one of `THREE_WAYS`."""
    match way:
        case "at a desk":
            return desk(shop.app, shop.runtime)
        case "told to line up":
            return lining_up(shop.app)
        case _:
            return nullcontext()


def all_ways(shop: Shop, publish: Callable[[str], Any]) -> list[dict[str, Any]]:
    """What the ledger has of the prompt that is published under an id: first by a message."""
    found = []
    for way in THREE_WAYS:
        task_id = str(uuid.uuid4())
        with going(shop, way):
            publish(task_id)
        found.append(alike(kept(shop, task_id), task_id))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "urgent", "priority": 3},
        {"exchange": "celery", "routing_key": "celery"},
        {"exchange": Exchange("celery"), "routing_key": "celery"},
        {"headers": {"tenant": "acme"}, "shadow": "ours", "reply_to": "me"},
        {"time_limit": 60, "soft_time_limit": 50, "ignore_result": True},
        {"compression": "zlib"},
        {"root_id": "root", "parent_id": "parent"},
        {"expires": 600},
        {"expires": datetime.now(UTC) + timedelta(days=1)},
    ],
    ids=lambda options: " ".join(options),
)
def test_options_are_those_of_a_message(paused: Shop, options: dict[str, Any]) -> None:
    """Where it goes, what it carries, and how the task is to be told of in monitors."""

    def publish(task_id: str) -> None:
        process_ai_response.apply_async((ENDLESS,), {"label": "whales"}, task_id=task_id, **options)

    by_message, *others = all_ways(paused, publish)

    assert others == [by_message] * 2


def test_what_follows_is_that_of_a_message(paused: Shop) -> None:
    """Callbacks, errbacks and stamps."""

    def publish(task_id: str) -> None:
        signature = process_ai_response.s(ENDLESS).set(task_id=task_id)
        signature.link(paused.title.s().set(task_id="title"))
        signature.link_error(paused.complain.s().set(task_id="complaint"))
        signature.stamp(order="o-17")
        signature.apply_async()

    by_message, *others = all_ways(paused, publish)

    assert others == [by_message] * 2
    assert by_message["options"]["stamped_headers"] == ["order"]


def test_members_of_a_chord_are_those_of_messages(paused: Shop) -> None:
    """The chord, the group and the place in it."""
    found = []
    for way in THREE_WAYS:
        ids = [str(uuid.uuid4()) for _ in range(4)]
        members = [process_ai_response.s(ENDLESS).set(task_id=task_id) for task_id in ids[:2]]
        with going(paused, way):
            chord(members, task_id=ids[2])(paused.collect.s(), task_id=ids[3])
        found.append([alike(kept(paused, task_id), *ids) for task_id in ids[:2]])

    assert found[1:] == [found[0]] * 2
    assert [fields["options"]["group_index"] for fields in found[0]] == [0, 1]


def test_what_a_handler_puts_into_a_message_is_kept(paused: Shop) -> None:
    """Tracing tools write their headers when a task is about to be published."""

    def trace(headers: dict[str, Any], **_: Any) -> None:
        headers["traceparent"] = "00-1"

    signals.before_task_publish.connect(trace, sender=SUBMIT)
    try:
        by_message, *others = all_ways(
            paused, lambda task_id: process_ai_response.apply_async((ENDLESS,), task_id=task_id)
        )
    finally:
        signals.before_task_publish.disconnect(trace, sender=SUBMIT)

    assert others == [by_message] * 2
    assert by_message["options"]["headers"]["traceparent"] == "00-1"


def test_messages_of_celerys_first_protocol_line_up_too(
    paused: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches over a batch takes a prompt without a record for one that is over."""
    monkeypatch.setitem(vars(paused.app.amqp), "create_task_message", paused.app.amqp.as_task_v1)
    by_message, *others = all_ways(
        paused,
        lambda task_id: process_ai_response.apply_async(
            (ENDLESS,), task_id=task_id, headers={"tenant": "acme"}, link=paused.title.s()
        ),
    )
    by_message["options"]["headers"].pop("meth")  # `celery.worker.strategy` (5.7) adds it

    assert others == [by_message] * 2


def test_a_batch_in_a_task_has_that_task_as_its_parent(paused: Shop) -> None:
    """A tracing tool sees who called it."""

    @paused.app.task(name="shop.buy", shared=False)
    def buy() -> list[str]:
        return process_batch([ENDLESS, ENDLESS]).task_ids

    request = {"id": "buy-1", "root_id": "root-1", "delivery_info": {"priority": 0}, "headers": {}}
    ids = build_tracer("shop.buy", buy, app=paused.app)("buy-1", [], {}, request).retval

    for task_id in ids:
        options = kept(paused, task_id)["options"]
        assert (options["parent_id"], options["root_id"]) == ("buy-1", "root-1")


@pytest.fixture
def ledger(state: redis.Redis, prefix: str) -> Ledger:
    """One without limits."""
    return Ledger(state, prefix, Budget.of(prefix, 0, 0, 0), lease=30.0)


def prompt(task_id: str, timeout: float = 100.0, *, whole: bool = False, **options: Any) -> Enlisted:
    """What a caller puts on record."""
    return Enlisted(task_id, Job(deadline=0.0, model="m"), timeout, whole, options={}, body={}, **options)


def ring(ledger: Ledger, task_id: str) -> None:
    """Its moment comes."""
    assert ledger.redis.zadd(f"{ledger.prefix}:due", {task_id: 0}, xx=True, ch=True) == 1


def submitted(ledger: Ledger, task_id: str) -> Held:
    """Let it leave, and a worker have it."""
    (hop,) = ledger.pop().hops
    assert hop.task_id == task_id
    held = ledger.claim(task_id, hop.generation)
    assert isinstance(held, Held)
    return held


def moments(ledger: Ledger, task_id: str) -> tuple[float, float]:
    """The moment of its alarm, and its deadline, in seconds from now."""
    seconds, micros = ledger.redis.time()
    now = seconds + micros / 1e6
    deadline = float(ledger.redis.hget(f"{ledger.prefix}:job:{task_id}", "deadline"))
    return ledger.redis.zscore(f"{ledger.prefix}:due", task_id) - now, deadline - now


@pytest.mark.parametrize(
    ("options", "rings_in", "send_in"),
    [
        ({}, ADMISSION_TIMEOUT, ADMISSION_TIMEOUT),
        ({"whole": True}, 100.0, 100.0),
        ({"delay": 500.0}, 500.0, 500.0 + ADMISSION_TIMEOUT),
        ({"delay": 500.0, "whole": True}, 500.0, 600.0),
        ({"delay": 30 * DAY}, 30 * DAY, 30 * DAY + ADMISSION_TIMEOUT),
        ({"patience": 10.0}, 10.0, 10.0),
        ({"patience": 10.0, "whole": True}, 10.0, 10.0),
        ({"patience": 200.0, "whole": True}, 100.0, 100.0),
        ({"patience": 10.0, "delay": 500.0}, 10.0, 10.0),
        ({"patience": 0.0}, 0.0, 0.0),
    ],
    ids=str,
)
def test_a_prompt_is_sent_in_its_time_or_fails(
    ledger: Ledger, options: dict[str, Any], rings_in: float, send_in: float
) -> None:
    """A countdown puts off its timeout, too; what expires first is what counts."""
    ledger.enlist([prompt("a", **options)])

    assert moments(ledger, "a") == pytest.approx((rings_in, send_in), abs=5.0)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"patience": 10.0}, 100.0),
        ({"patience": 10.0, "whole": True}, 100.0),
        ({"delay": 500.0, "whole": True}, 600.0),
        ({"delay": 500.0}, 100.0),
    ],
    ids=str,
)
def test_expires_and_countdown_belong_to_the_start(
    ledger: Ledger, options: dict[str, Any], left: float
) -> None:
    """Once it is sent, only its timeout counts: from then, or from when it lined up."""
    ledger.enlist([prompt("a", **options)])
    if "delay" in options:
        ring(ledger, "a")
    held = submitted(ledger, "a")

    assert held.phase is Phase.QUEUED
    assert held.job.deadline - held.now == pytest.approx(left, abs=5.0)


@pytest.mark.parametrize("whole", [False, True])
def test_a_prompt_that_was_not_sent_after_all_expires_as_before(ledger: Ledger, whole: bool) -> None:
    """It was given back, as the replicas lacked it: it has as long as it had."""
    ledger.enlist([prompt("a", patience=10.0, whole=whole)])
    ledger.unsend(submitted(ledger, "a"))

    assert moments(ledger, "a")[1] == pytest.approx(10.0, abs=5.0)


def test_a_prompt_that_has_expired_takes_no_request(state: redis.Redis, prefix: str) -> None:
    """The plan's are for those that may yet be sent."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 60, 1_000, 100))
    ledger.enlist([prompt("a", patience=0.0)])
    held = submitted(ledger, "a")

    assert held.now >= held.job.deadline
    assert state.hgetall(ledger.budget.keys[1]) == {}


def test_prompts_that_are_to_wait_hold_no_others_up(state: redis.Redis, prefix: str) -> None:
    """They need none of the day's requests yet, which are kept for looks at what is in flight."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 0, 10, 0))
    ledger.enlist([prompt(f"later-{number}", delay=500.0) for number in range(20)])
    ledger.enlist([prompt("a"), prompt("b")])
    popped = ledger.pop()

    assert [hop.task_id for hop in popped.hops] == ["a", "b"]
    assert popped.lined_up == 0


def test_prompts_whose_moment_comes_line_up(ledger: Ledger) -> None:
    """However many have the same, they fill no queue: no more leave than are asked for."""
    ledger.enlist([prompt(f"later-{number}", delay=500.0) for number in range(5)])
    for number in range(5):
        ring(ledger, f"later-{number}")
    popped = ledger.pop(submits=2)

    assert len(popped.hops) == 2
    assert popped.lined_up == 3


def test_a_prompt_that_is_to_be_sent_again_keeps_its_place(ledger: Ledger) -> None:
    """Behind a line of thousands its timeout, which runs already, would run out."""
    ledger.enlist([prompt("a")])
    held = submitted(ledger, "a")
    ledger.enlist([prompt("b"), prompt("c")])
    ledger.park(held, Phase.QUEUED, held.job, 0.0)

    assert [hop.task_id for hop in ledger.pop(submits=1).hops] == ["a"]


def test_an_id_that_was_here_before_lines_up_once(ledger: Ledger) -> None:
    """Whatever has become of it, it is left as it is."""
    ledger.cancel("cancelled")
    phases = ledger.enlist([prompt("a"), prompt("cancelled"), prompt("a")])
    held = submitted(ledger, "a")

    assert phases == [Phase.QUEUED, Phase.CANCELLED, Phase.QUEUED]
    assert ledger.enlist([prompt("a")]) == [Phase.SENT]
    assert held.phase is Phase.QUEUED
    assert ledger.pop().hops == ()


def test_a_prompt_that_was_cancelled_before_it_lined_up_ends(shop: Shop) -> None:
    """Only a worker can tell Celery so: it is sent a message after all."""
    task_id = str(uuid.uuid4())
    cancel_response(task_id)
    with desk(shop.app, shop.runtime):
        result = process_ai_response.apply_async((ENDLESS,), task_id=task_id)

    wait_for(lambda: result.state == "REVOKED")
    assert shop.api.counts.posts == 0


def test_what_goes_on_after_a_desk_has_closed_publishes_as_ever(shop: Shop) -> None:
    """A greenlet has the context of the one that began it, as that which waits for Celery's results."""
    with desk(shop.app, shop.runtime):
        context = copy_context()
    result = context.run(process_ai_response.delay, "whales")

    assert answer_of(result)["output_text"] == "About whales"


@pytest.mark.parametrize("options", [{"model": 7}, {"return_exceptions": "no"}, {"timeout": -1.0}], ids=str)
def test_a_call_from_within_a_task_is_checked_as_any(shop: Shop, options: dict[str, Any]) -> None:
    """What is published there is not looked at; it is whoever reads the call that refuses."""
    with pytest.raises(InvalidRequest):
        read_call(shop.app, shop.runtime.settings, None, "whales", **options)


def test_told_to_line_up_no_prompt_is_in_the_broker(paused: Shop) -> None:
    """Whoever publishes it: it can neither be purged there nor go down with a worker."""
    with lining_up(paused.app):
        header = [process_ai_response.s(ENDLESS), chain(paused.drop.s(1), process_ai_response.si(ENDLESS))]
        results = [
            process_ai_response.delay(ENDLESS),
            chord(header, paused.collect.s()).apply_async().parent[1],
            chain(paused.drop.s(1), process_ai_response.si(ENDLESS)).delay(),
        ]
        for result in results:
            assert kept(paused, result.id)["phase"] == Phase.QUEUED

    assert not [request for request in paused.witness.requests if request["task"] == SUBMIT]


def test_told_to_line_up_a_chord_ends_as_ever(shop: Shop) -> None:
    """With its members' answers, in order."""
    with lining_up(shop.app):
        result = chord([process_ai_response.s(animal) for animal in ("ants", "bees")])(shop.collect.s())
        assert answer_of(result) == ["About ants", "About bees"]

    assert shop.api.counts.posts == 2


@pytest.mark.parametrize("given", ["connection", "producer", "producer by position"])
def test_told_to_line_up_the_callers_connection_serves(paused: Shop, given: str) -> None:
    """It is for what the broker must know; the prompt is not sent by it."""
    app, task_id = paused.app, str(uuid.uuid4())
    with app.connection_for_write() as connection, lining_up(app):
        others = [app.producer_pool.acquire() for _ in range(app.producer_pool.limit)]
        producer = app.amqp.Producer(connection)
        match given:
            case "connection":
                process_ai_response.apply_async((ENDLESS,), task_id=task_id, connection=connection)
            case "producer":
                process_ai_response.apply_async((ENDLESS,), task_id=task_id, producer=producer)
            case _:
                process_ai_response.apply_async((ENDLESS,), {}, task_id, producer)
        for other in others:
            other.release()

    assert kept(paused, task_id)["phase"] == Phase.QUEUED
    assert not [request for request in paused.witness.requests if request["task"] == SUBMIT]


def test_what_is_not_told_to_line_up_needs_no_settings(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that publishes single prompts needs the broker alone; told so, it hears what is wrong."""
    monkeypatch.setenv("FREDDY_STATE_REPLICAS", "many")
    web = Celery("web", broker=shop.app.conf.broker_url, set_as_current=False)
    web.conf.include = ["freddy_tasks.tasks"]
    web.finalize()
    prompt = web.tasks[SUBMIT]

    task_id = prompt.delay("whales").id
    monkeypatch.setenv("FREDDY_LINE_UP", "true")
    with pytest.raises(ConfigurationError, match="FREDDY_STATE_REPLICAS"):
        prompt.delay("whales")
    assert answer_of(shop.app.AsyncResult(task_id))["output_text"] == "About whales"


def test_told_to_line_up_eager_mode_is_eager(shop: Shop) -> None:
    """It has no state server."""
    shop.app.conf.task_always_eager = True
    try:
        with lining_up(shop.app):
            assert process_ai_response.delay("whales").get()["output_text"] == "About whales"
    finally:
        shop.app.conf.task_always_eager = False


@pytest.mark.parametrize("cancel", ["revoke", "cancel"])
def test_what_lines_up_can_be_cancelled(paused: Shop, cancel: str) -> None:
    """No worker has seen it: neither a request nor its message is needed."""
    batch = process_batch([ENDLESS] * 3)
    if cancel == "cancel":
        assert batch.cancel() == 3
    else:
        paused.app.control.revoke(batch.task_ids)

    assert [item.outcome for item in batch.results(DEADLINE)] == [Outcome.CANCELLED] * 3
    assert paused.api.counts.posts == 0


def test_what_lines_up_is_counted_as_waiting(paused: Shop) -> None:
    """Whether its moment has come or not."""
    first = process_batch([ENDLESS] * 2)
    later = process_batch([ENDLESS] * 3, group_options={"countdown": 600})

    assert first.progress().waiting == 2
    assert later.progress().waiting == 3


@pytest.fixture
def elsewhere(valkey: EmbeddedServer, settings: Settings) -> Iterator[Callable[[str], Celery]]:
    """Makes an app with that broker, and its ledger in a database of its own."""
    url, made = f"{valkey.url}?virtual_host=2", []

    def make(broker: str = "") -> Celery:
        app = Celery("elsewhere", broker=broker or url, backend=url, set_as_current=False)
        app.loader.import_module("freddy_tasks.tasks")
        app.finalize()
        use(app, build(app, settings.model_copy(update={"state_url": SecretStr(url)})))
        made.append(app)
        return app

    yield make
    for app in made:  # a result that outlives the server is not to ask it
        app.backend.result_consumer.subscribed_to.clear()
    with redis.Redis(unix_socket_path=str(valkey.socket), db=2) as client:
        client.flushdb()


def line_up(app: Celery, count: int) -> list[str]:
    """Let so many prompts line up as a group; their ids."""
    with desk(app, runtime_of(app)):
        result = group([app.tasks[SUBMIT].s(ENDLESS)] * count, app=app).apply_async()
    return [member.id for member in result.children]


def test_a_desk_needs_no_producer_of_the_pool(elsewhere: Callable[..., Celery]) -> None:
    """Celery takes one for the group, here the last; it would wait for a second for ever."""
    app, ids = elsewhere(), []
    others = [app.producer_pool.acquire() for _ in range(app.producer_pool.limit - 1)]
    publisher = Thread(target=lambda: ids.extend(line_up(app, 3)), daemon=True)
    publisher.start()
    publisher.join(DEADLINE)
    for producer in others:
        producer.release()

    assert [runtime_of(app).ledger.record(task_id).phase for task_id in ids] == [Phase.QUEUED] * 3


def test_a_broker_that_is_away_is_told_at_once(elsewhere: Callable[..., Celery]) -> None:
    """Nobody would publish a prompt to a queue that is not declared; nothing lines up."""
    app = elsewhere("redis://localhost:1")
    with pytest.raises(OperationalError):
        line_up(app, 3)

    assert runtime_of(app).ledger.pop().hops == ()


@pytest.mark.parametrize("count", [3, desks.CHUNK + 1])
def test_a_state_server_that_is_away_is_told_as_such(
    elsewhere: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Celery takes an error of any Redis, in the middle of a publish, for one of the broker."""
    app = elsewhere()

    def refuse(*_: Any) -> None:
        raise ConnectionError("the state server is away")

    monkeypatch.setattr(runtime_of(app).ledger, "enlist", refuse)

    with pytest.raises(ConnectionError):
        line_up(app, count)


def test_the_broker_may_be_another_kind_of_server(elsewhere: Callable[..., Celery]) -> None:
    """Its queue is declared, so that the first prompt that leaves finds it."""
    app = elsewhere("memory://")
    (task_id,) = line_up(app, 1)

    assert kept_options(app, task_id)["routing_key"] == "celery"
    with app.connection_for_read() as connection:
        assert connection.default_channel.queue_declare("celery", passive=True).message_count == 0


def kept_options(app: Celery, task_id: str) -> dict[str, Any]:
    """The options on record of a prompt."""
    ledger = runtime_of(app).ledger
    options: dict[str, Any] = json.loads(ledger.redis.hget(f"{ledger.prefix}:job:{task_id}", "options"))
    return options
