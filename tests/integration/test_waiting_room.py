"""The waiting room on a running worker: nothing held, nothing late, nothing twice, nothing lost."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chord, signals
from kombu.transport.redis import Channel
from redis import Redis
from shop import Shop, answer_of, wait_for

from freddy_tasks import cancel_response, process_ai_response
from freddy_tasks.dispatcher import Dispatcher
from freddy_tasks.records import Phase

ENDLESS = "Wait {} [emulate: duration=600]"


@pytest.fixture
def broker(shop: Shop) -> Iterator[Redis]:
    """The broker's own database."""
    path, _, database = shop.app.conf.broker_url.removeprefix("redis+socket://").partition("?virtual_host=")
    with Redis(unix_socket_path=path, db=int(database), decode_responses=True) as client:
        yield client


@pytest.fixture
def lateness(shop: Shop) -> Iterator[list[float]]:
    """How long after its due time each poll began to run, in seconds of the state server's clock."""
    late: list[float] = []

    def measure(task: Any, task_id: str, **_: Any) -> None:
        if task.name == "freddy_tasks.poll_response":
            now, microseconds = shop.runtime.ledger.redis.time()
            meta = shop.app.backend.get_task_meta(task_id, cache=False)
            late.append(now + microseconds / 1e6 - meta["result"]["next_poll_at"])

    signals.task_prerun.connect(measure)
    yield late
    signals.task_prerun.disconnect(measure)


@pytest.fixture
def waiting(shop: Shop) -> Iterator[list[str]]:
    """Ids of twenty responses in the waiting room, none of which will end by itself."""
    ids = [process_ai_response.delay(ENDLESS.format(number), expected=600).id for number in range(20)]
    wait_for(lambda: all(is_in(shop, task_id, Phase.WAITING) for task_id in ids))
    yield ids
    for task_id in ids:
        cancel_response(task_id)
    wait_for(lambda: all(is_in(shop, task_id, Phase.CLOSED) for task_id in ids))


def is_in(shop: Shop, task_id: str, phase: Phase) -> bool:
    """Whether the ledger has a response in this phase."""
    record = shop.runtime.ledger.record(task_id)
    return record is not None and record.phase is phase


def test_no_message_is_held_while_responses_wait(shop: Shop, broker: Redis, waiting: list[str]) -> None:
    """Neither in a queue nor unacknowledged in a worker, so a visibility timeout has nothing to give back."""
    wait_for(lambda: broker.hlen("unacked") == 0)

    assert broker.llen("celery") == 0
    ledger = shop.runtime.ledger
    assert all(ledger.redis.zscore(f"{ledger.prefix}:due", task_id) for task_id in waiting)


def test_a_poll_runs_when_it_is_due(shop: Shop, lateness: list[float]) -> None:
    """By the state server's clock: none early, and a tenth of a second late while the machine has time."""
    for number in range(6):
        answer_of(process_ai_response.delay(f"{number} [emulate: polls=3]"))

    assert len(lateness) == 24
    assert min(lateness) > -0.01
    assert statistics.quantiles(lateness)[0] < 0.1  # the quickest quarter: a tick of a second has 0.25


def test_the_waiting_room_is_looked_into_once_a_second_at_most(shop: Shop, waiting: list[str]) -> None:
    """It sleeps until the next due time; a second is the pause in which it notices a stop."""
    state = shop.runtime.ledger.redis
    begin = state.time()[0] + 1
    wait_for(lambda: state.time()[0] >= begin)
    before = calls(state, "evalsha")
    wait_for(lambda: state.time()[0] >= begin + 3)

    assert calls(state, "evalsha") - before <= 10  # some of them are kombu's


def generation_of(hop: dict[str, Any]) -> int | None:
    """Which publish of its response a message is; None for the user's own."""
    return (hop["headers"] or {}).get("freddy_generation")


def calls(state: Redis, command: str) -> int:
    """How often the server has run a command so far."""
    return int(state.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_several_dispatchers_publish_nothing_twice(shop: Shop) -> None:
    """Four of them on one waiting room: one look when one is due."""
    others = [Dispatcher(shop.app, shop.runtime, f"other-{number}") for number in range(3)]
    for dispatcher in others:
        dispatcher.start()
    try:
        results = [process_ai_response.delay(f"{number} [emulate: polls=2]") for number in range(40)]
        polls = sum(answer_of(result)["polls"] for result in results)
    finally:
        for dispatcher in others:
            dispatcher.stop()

    hops = Counter(
        (hop["id"], (hop["headers"] or {}).get("freddy_generation")) for hop in shop.witness.requests
    )
    assert polls == 40 * 3
    assert set(hops.values()) == {1}
    assert shop.api.counts.gets == polls


def test_a_lost_poll_is_looked_at_again(shop: Shop, broker: Redis) -> None:
    """Its message vanishes from the queue; its lease brings another one."""
    control = shop.app.control
    control.add_consumer("leaky", reply=True)
    result = process_ai_response.apply_async(("whales [emulate: polls=1]",), queue="leaky")
    wait_for(lambda: is_in(shop, result.id, Phase.WAITING))
    control.cancel_consumer("leaky", reply=True)
    wait_for(lambda: broker.delete("leaky"))
    control.add_consumer("leaky", reply=True)

    assert answer_of(result)["status"] == "completed"
    assert shop.api.counts.posts == 1
    control.cancel_consumer("leaky", reply=True)


def test_every_message_twice_changes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that delivers each message twice: one submit, one chain of polls, one count a member."""
    put = Channel._put

    def put_twice(self: Channel, queue: str, message: dict[str, Any], **options: Any) -> None:
        put(self, queue, message, **options)
        if str(message.get("headers", {}).get("task", "")).startswith("freddy_tasks."):
            put(self, queue, message, **options)

    monkeypatch.setattr(Channel, "_put", put_twice)
    header = [process_ai_response.s(f"{number} [emulate: polls=2]") for number in range(10)]
    answers = answer_of(chord(header)(shop.collect.s()))

    assert len(set(answers)) == 10
    assert len(shop.witness.calls_of("collect")) == 1
    assert shop.api.counts.posts == 10
    assert shop.api.counts.gets == 30


def test_a_stale_poll_makes_no_request(shop: Shop) -> None:
    """A message that comes back long after its response ended."""
    result = process_ai_response.delay("whales [emulate: polls=0]")
    first = answer_of(result)
    wait_for(lambda: is_in(shop, result.id, Phase.CLOSED))
    gets = shop.api.counts.gets
    shop.app.send_task(
        "freddy_tasks.poll_response", (2,), task_id=result.id, headers={"freddy_generation": 2}
    )
    wait_for(lambda: len(shop.witness.hops(result.id)) == 3)

    assert answer_of(shop.app.AsyncResult(result.id)) == first
    assert shop.api.counts.gets == gets
