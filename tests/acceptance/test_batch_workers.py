"""A batch whose workers are killed, and some of whose prompts are taken back or lost: it has one end."""

from __future__ import annotations

from collections import Counter

import pytest
from celery import Celery, signature
from nodes import StartWorker, Valkey, wait_for
from redis import Redis

from freddy_tasks import cancel_response, process_batch
from freddy_tasks.emulator import Emulator

SIZE = 40
FAILING = " [emulate: status=failed code=model_error]"
ENDLESS = " [emulate: duration=600]"
NOBODYS = "nobodys"  # a queue that no worker reads


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
def test_a_purged_queue_and_a_dead_workers_messages_lose_no_prompt(
    pool: str, start_worker: StartWorker, desk: Celery, server: Valkey, api: Emulator
) -> None:
    """Of five prompts on their way one is in dead hands, the others are gone; nobody looks at the handle."""
    start_worker(app="loom", pool=pool, concurrency=2 if pool == "prefork" else 8)
    callback = signature("bindery.bind", app=desk).set(task_id="bound", queue="freddy_tasks")
    batch = process_batch(
        [f"prompt {number}" for number in range(5)], callback=callback, group_options={"queue": NOBODYS}
    )
    with Redis.from_url(server.url) as probe, desk.connection_for_read() as connection:
        wait_for(lambda: queued(probe))
        dead = connection.channel()
        held = next(filter(None, (dead.basic_get(NOBODYS) for _ in range(5))))
        wait_for(lambda: batch.progress().waiting == 5 and queued(probe))
        probe.delete(*queued(probe))
        desk.control.add_consumer(NOBODYS, reply=True, limit=1)
        counts = desk.AsyncResult("bound").get(timeout=60)

        assert held is not None
        assert int(probe.get("bindery.bound") or 0) == 1
    assert counts == {"completed": 5, "failed": 0, "cancelled": 0, "unknown": 0}
    assert set(api.counts.submits.values()) == {1}
    assert api.counts.posts == 5


def queued(probe: Redis) -> list[bytes]:
    """The lists of messages for the queue that nobody reads."""
    return list(probe.scan_iter(f"{NOBODYS}*", _type="list"))
