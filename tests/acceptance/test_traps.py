"""Workers that are killed, stopped and cut off: nothing lost, nothing submitted or counted twice."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chord
from celery.result import AsyncResult
from nodes import DEADLINE, StartWorker, Valkey, wait_for
from pytest_celery import CeleryTestSetup
from redis import Redis

from freddy_tasks import OutcomeUnknown, cancel_response, process_ai_response
from freddy_tasks.emulator import Emulator
from freddy_tasks.runtime import build, use
from freddy_tasks.settings import Settings

SLOW = "{} [emulate: duration=1.5]"
HELD = 4  # messages that a worker takes for each of its slots


def send(count: int, prompt: str = SLOW) -> list[AsyncResult]:
    """So many responses that take a while."""
    return [process_ai_response.delay(prompt.format(number)) for number in range(count)]


def batch(desk: Celery, count: int = 5) -> AsyncResult:
    """A chord of them."""
    header = [process_ai_response.s(SLOW.format(f"member {number}")) for number in range(count)]
    return chord(header)(desk.tasks["press.collect"].s())


def complete(results: list[AsyncResult]) -> int:
    """How many ended with an answer; it asks, as a subscription may have gone with the server."""
    wait_for(lambda: all(result.ready() for result in results))
    return sum(result.get(timeout=DEADLINE)["status"] == "completed" for result in results)


def all_submitted(api: Emulator, count: int) -> Callable[[], bool]:
    """Whether so many prompts have arrived at the API."""
    return lambda: api.counts.jobs >= count


def test_a_killed_worker_loses_nothing(setup: CeleryTestSetup, api: Emulator, server: Valkey) -> None:
    """SIGKILL of the whole group with 25 responses in flight and a visibility timeout far away."""
    results, body = send(20), batch(setup.app)
    ledger = build(setup.app, settings_for(api)).ledger
    ids = [result.id for result in [*results, *body.parent.results]]
    wait_for(lambda: all((record := ledger.record(id_)) and record.job.response_id for id_ in ids))
    setup.worker.kill()
    setup.worker.restart()

    assert complete(results) == 20
    assert len(body.get(timeout=DEADLINE)) == 5
    with Redis.from_url(server.url) as probe:
        assert int(probe.get("press.collected")) == 1
    assert api.counts.posts == 25


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_restarted_server_loses_nothing(
    pool: str, start_worker: StartWorker, desk: Celery, server: Valkey, api: Emulator
) -> None:
    """Broker, backend and ledger go and come back; the worker stays, with a countdown of the user's."""
    worker = start_worker(pool=pool, concurrency=2)
    desk.send_task("press.work", (0.0,), countdown=600)
    results = send(10)
    wait_for(all_submitted(api, 10))
    wait_for(lambda: all(result.state in {"QUEUED", "IN_PROGRESS"} for result in results))
    with Redis.from_url(server.url) as probe:
        probe.execute_command("WAITAOF", 1, 0, 1_000)  # everysec: what was written is on disk
    server.kill()
    server.restart()

    assert complete(results) == 10
    assert api.counts.posts == 10
    assert worker.status == "running"


@contextlib.contextmanager
def refusing(probe: Redis) -> Iterator[None]:
    """Its server refuses every write meanwhile."""
    probe.config_set("min-replicas-to-write", 1)
    yield
    probe.config_set("min-replicas-to-write", 0)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_whose_acknowledgements_are_refused_takes_the_next_messages(
    pool: str, start_worker: StartWorker, desk: Celery, server: Valkey
) -> None:
    """All that it may hold: it asks for no other, so nothing else tells it that its server refused."""
    start_worker(pool=pool, concurrency=1)
    for _ in range(2 * HELD):
        desk.send_task("press.work_late", (0.5,))
    with Redis.from_url(server.url) as probe:
        wait_for(lambda: probe.hlen("unacked") == HELD)
        with refusing(probe):
            time.sleep(HELD * 0.5 + 1.0)

        wait_for(lambda: not probe.llen("freddy_tasks"))


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_message_whose_acknowledgement_is_refused_does_not_come_again(
    pool: str, start_worker: StartWorker, desk: Celery, server: Valkey
) -> None:
    """It would, when its visibility timeout is over, and the user's task would run twice."""
    start_worker(pool=pool, concurrency=1)
    desk.send_task("press.work_late", (1.0,))
    with Redis.from_url(server.url) as probe:
        wait_for(lambda: probe.hlen("unacked"))
        with refusing(probe):
            time.sleep(2.0)

        wait_for(lambda: not probe.hlen("unacked"))
        assert not probe.llen("freddy_tasks")


@pytest.mark.parametrize(
    ("policy", "posts"), [pytest.param("fail", 1, id="fail"), pytest.param("resubmit", 2, id="resubmit")]
)
def test_a_child_killed_in_mid_submit_never_guesses(
    policy: str, posts: int, start_worker: StartWorker, desk: Celery, api: Emulator, server: Valkey
) -> None:
    """Between POST and reply: an error that says so, or the same idempotency key again."""
    api.set_faults(["hang_after@method=POST@times=1"])
    start_worker(
        pool="prefork", concurrency=2, env={"FREDDY_ON_UNKNOWN_OUTCOME": policy, "FREDDY_LEASE": "1"}
    )
    result = process_ai_response.delay("whales")
    wait_for(all_submitted(api, 1))
    with Redis.from_url(server.url) as probe:
        [child] = probe.hkeys("press.pids")
    os.kill(int(child), signal.SIGKILL)

    if policy == "fail":
        with pytest.raises(OutcomeUnknown, match="reconcile"):
            result.get(timeout=DEADLINE)
    else:
        assert result.get(timeout=DEADLINE)["status"] == "completed"
    assert api.counts.posts == posts
    assert len(api.counts.submits) == 1


def test_a_cancel_outlives_the_worker(
    start_worker: StartWorker, desk: Celery, api: Emulator, server: Valkey
) -> None:
    """Cancelled while no worker runs; the next one, without a state file, tells the API and asks no more."""
    worker = start_worker()
    result = process_ai_response.delay("whales [emulate: duration=600]")
    wait_for(lambda: result.state in {"QUEUED", "IN_PROGRESS"})
    worker.kill()
    gets = api.counts.gets
    use(desk, build(desk, settings_for(api)))
    assert cancel_response(result.id)
    start_worker()
    wait_for(lambda: api.counts.deletes)

    wait_for(lambda: result.state == "REVOKED")
    wait_for(lambda: api.jobs()[0].status == "cancelled")  # the request is counted before it is answered
    assert api.counts.deletes == 1
    assert api.counts.gets <= gets + 1


def settings_for(api: Emulator) -> Settings:
    """What the caller's process needs to cancel."""
    values: dict[str, Any] = {"api_key": api.key, "base_url": api.url, "plan": "unlimited"}
    return Settings(**values)


def test_a_short_visibility_timeout_doubles_no_poll(
    start_worker: StartWorker, desk: Celery, api: Emulator
) -> None:
    """One second, on two workers, with responses of several: each is polled as often as it counts."""
    for _ in range(2):
        start_worker(env={"PRESS_VISIBILITY_TIMEOUT": "1"}, wait=False)
    results = send(10, "{} [emulate: polls=3]")
    polls = sum(result.get(timeout=DEADLINE)["polls"] for result in results)

    assert polls == 10 * 4
    assert api.counts.gets == polls
    assert api.counts.posts == 10


def test_a_warm_shutdown_delays_no_poll(start_worker: StartWorker, desk: Celery, api: Emulator) -> None:
    """One worker finishes a long task of the user's; the other one looks after all responses meanwhile."""
    leaving = start_worker(concurrency=2)
    results = send(10)
    desk.send_task("press.work", (4.0,))
    wait_for(all_submitted(api, 10))
    start_worker(concurrency=4)
    leaving.send("SIGTERM")

    assert complete(results) == 10
    assert leaving.status == "running"
    assert leaving.wait() == 0
    assert api.counts.posts == 10
