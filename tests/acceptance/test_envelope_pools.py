"""Several steps in one message, in real workers: in every pool, and when one is killed in the middle."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections import Counter

import pytest
from celery import Celery
from celery.result import AsyncResult
from nodes import StartWorker, Worker, wait_for
from pydantic import SecretStr

from freddy_tasks import process_ai_response
from freddy_tasks.continuation import ADVANCE
from freddy_tasks.emulator import Emulator
from freddy_tasks.ledger import Ledger
from freddy_tasks.models import Job
from freddy_tasks.records import Enlisted, Phase
from freddy_tasks.runtime import open_ledger
from freddy_tasks.settings import Settings

LATER = {"FREDDY_TIERS": "inf:25"}  # no look comes before a test says so
TALKATIVE = "-l", "DEBUG", "-E"
COUNT = 12


@pytest.fixture
def ledger(desk: Celery, api: Emulator) -> Ledger:
    """The workers' own."""
    settings = Settings(api_key=SecretStr(api.key), base_url=api.url, plan="unlimited", lease=2.0)
    return open_ledger(desk, settings)


def waiting(ledger: Ledger, api: Emulator) -> list[AsyncResult]:
    """Responses that are complete, and have not been looked at."""
    results = [process_ai_response.delay(f"whales {number}") for number in range(COUNT)]
    for result in results:
        wait_for(lambda: (one := ledger.record(result.id)) and one.phase is Phase.WAITING)  # noqa: B023
    wait_for(lambda: {job.status for job in api.jobs()} == {"completed"})
    return results


def make_due(ledger: Ledger, results: list[AsyncResult]) -> None:
    """All at once."""
    ledger.redis.zadd(f"{ledger.prefix}:due", {result.id: 0 for result in results})
    ledger.wake()


def line_up(desk: Celery, ledger: Ledger) -> list[AsyncResult]:
    """Prompts that no message brings."""
    ids = [uuid.uuid4().hex for _ in range(COUNT)]
    route = {"exchange": "", "routing_key": "freddy_tasks"}
    job = Job(deadline=0.0, model="m")
    ledger.enlist(
        Enlisted(task_id, job, 600.0, False, route, {"args": [f"whales {task_id}"], "kwargs": {}})
        for task_id in ids
    )
    return [desk.AsyncResult(task_id) for task_id in ids]


def envelopes(worker: Worker) -> int:
    """How many messages of several steps a worker has taken."""
    return len(re.findall(rf"{ADVANCE}\[\S+\] received", worker.logs()))


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_pool_takes_several_steps_out_of_one_message(
    pool: str, start_worker: StartWorker, api: Emulator, ledger: Ledger
) -> None:
    """Each task has its own answer, at one look; a log at DEBUG level tells neither prompts nor answers."""
    worker = start_worker(pool=pool, concurrency=2, env=LATER, options=TALKATIVE)
    results = waiting(ledger, api)
    make_due(ledger, results)
    texts = [result.get(timeout=30)["output_text"] for result in results]

    assert texts == [f"About whales {number}" for number in range(COUNT)]
    assert 1 <= envelopes(worker) < COUNT
    assert "whales" not in worker.logs()
    assert api.counts.posts == api.counts.gets == COUNT


@pytest.mark.campaign
@pytest.mark.parametrize("victim", ["worker", "child"])
def test_a_kill_among_looks_loses_none(
    victim: str, start_worker: StartWorker, api: Emulator, ledger: Ledger, desk: Celery
) -> None:
    """SIGKILL of a worker, or of one process of its pool, with a message half done."""
    worker = start_worker(pool="prefork", concurrency=1, env=LATER)
    results = waiting(ledger, api)
    api.set_faults(["delay=0.2@method=GET"])
    make_due(ledger, results)
    wait_for(lambda: api.counts.gets >= 2)
    if victim == "worker":
        worker.kill()
        start_worker(env=LATER)
    else:
        (child,) = worker.children()
        os.kill(child, signal.SIGKILL)

    assert [result.get(timeout=30)["status"] for result in results] == ["completed"] * COUNT
    assert api.counts.posts == COUNT


@pytest.mark.campaign
def test_a_kill_among_submits_leaves_one_in_doubt_for_each_slot(
    start_worker: StartWorker, api: Emulator, ledger: Ledger, desk: Celery
) -> None:
    """SIGKILL between two of them, or within one: no prompt is sent twice, and none is lost."""
    api.set_faults(["delay=0.1@method=POST"])
    worker = start_worker(pool="prefork", concurrency=2, options=TALKATIVE)
    results = line_up(desk, ledger)
    wait_for(lambda: envelopes(worker))
    worker.kill()
    start_worker(options=TALKATIVE)
    outcomes = [result.get(timeout=30, propagate=False) for result in results]

    kinds = Counter(type(outcome).__name__ for outcome in outcomes)
    assert kinds["dict"] + kinds["OutcomeUnknown"] == COUNT
    assert kinds["OutcomeUnknown"] <= 2
    assert "whales" not in worker.logs()
    assert set(api.counts.submits.values()) == {1}
