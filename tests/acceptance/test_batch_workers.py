"""A batch whose workers are killed, and some of whose prompts are taken back or lost: it has one end."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from celery import Celery, signature
from nodes import StartWorker, Valkey, wait_for
from redis import Redis

from freddy_tasks import MessageLost, cancel_response, process_batch
from freddy_tasks.batch import Outcome
from freddy_tasks.emulator import Emulator

SIZE = 40
FAILING = " [emulate: status=failed code=model_error]"
ENDLESS = " [emulate: duration=600]"


@pytest.fixture(autouse=True)
def caller(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process publishes batches, with the settings of the workers."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_killed_workers_and_lost_members_leave_one_end(
    pool: str,
    start_worker: StartWorker,
    desk: Celery,
    server: Valkey,
    api: Emulator,
) -> None:
    """A fifth fails, one is revoked, one cancelled, and two workers die: every prompt is in one place."""
    prompts = [f"prompt {number}{FAILING if number % 5 == 2 else ''}" for number in range(SIZE - 2)]
    callback = signature("bindery.bind", app=desk).set(task_id="bound")
    batch = process_batch([*prompts, f"revoke{ENDLESS}", f"cancel{ENDLESS}"], callback=callback)

    worker = start_worker(app="bindery", pool=pool, concurrency=2 if pool == "prefork" else 8)
    # A prompt that the broker hands to a process at the moment of its death is the broker's to lose.
    wait_for(lambda: batch.progress().waiting == 0)
    for ended in (5, 15):
        wait_for(lambda wanted=ended: batch.progress().ended >= wanted)
        worker.kill()
        worker = start_worker(app="bindery", pool=pool, concurrency=2)
    desk.control.revoke(batch.task_ids[-2])
    cancel_response(batch.task_ids[-1])
    counts = desk.AsyncResult("bound").get(timeout=60)

    outcomes = Counter(item.outcome.value for item in batch.results(10))
    with Redis.from_url(server.url) as probe:
        bound = int(probe.get("bindery.bound") or 0)
    assert bound == 1
    assert sum(counts.values()) == SIZE
    assert {name: count for name, count in counts.items() if count} == outcomes
    assert counts["cancelled"] == 2
    # A worker that died between a submit and its record leaves an unknown outcome, never a second submit.
    assert counts["completed"] + counts["failed"] + counts["unknown"] == SIZE - 2
    assert counts["unknown"] <= 16
    assert set(api.counts.submits.values()) == {1}


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_what_the_broker_lost_ends_and_what_a_dead_worker_holds_is_waited_for(
    pool: str,
    start_worker: StartWorker,
    desk: Celery,
    server: Valkey,
    api: Emulator,
) -> None:
    """Of five prompts a killed worker had noted one and not the other; nobody looks at the handle."""
    callback = signature("bindery.bind", app=desk).set(task_id="bound")
    batch = process_batch([f"prompt {number}" for number in range(5)], callback=callback)
    with Redis.from_url(server.url) as probe, desk.connection_for_read() as connection:
        [(queue, messages)] = queued(probe)
        lost = json.loads(probe.rpop(queue))["headers"]["id"]
        dead = connection.channel()
        held = dead.basic_get(desk.conf.task_default_queue)
        start_worker(app="loom", pool=pool, concurrency=2 if pool == "prefork" else 8)
        counts = desk.AsyncResult("bound").get(timeout=60)

        assert messages == 5
        assert held.headers["id"] == batch.task_ids[1]
        assert int(probe.get("bindery.bound") or 0) == 1
    items = {item.task_id: item for item in batch.results(10)}
    assert counts == {"completed": 4, "failed": 1, "cancelled": 0, "unknown": 0}
    assert isinstance(items.pop(lost).error, MessageLost)
    assert {item.outcome for item in items.values()} == {Outcome.COMPLETED}
    assert set(api.counts.submits.values()) == {1}
    assert api.counts.posts == 4


def queued(probe: Redis) -> list[tuple[Any, int]]:
    """The lists of messages that the broker has, and how long each is."""
    return [(key, probe.llen(key)) for key in probe.scan_iter("*", _type="list")]
