"""One plan, several worker processes: never over the limit, none before Retry-After, nobody starved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery
from nodes import StartWorker, wait_for

from freddy_tasks.emulator import Constant, Emulator, Fault, Options

PER_MINUTE, BURST = 1200, 1212  # 20 requests a second, and 12 at once
PLAN = {
    "FREDDY_PLAN": "standard",
    "FREDDY_REQUESTS_PER_MINUTE": str(PER_MINUTE),
    "FREDDY_REQUESTS_PER_DAY": "0",
    "FREDDY_BURST": str(BURST),
}


@pytest.fixture
def api() -> Iterator[Emulator]:
    """An emulator that keeps the plan itself."""
    # At twelve times the Standard plan's rate a request that is 0.2 s on its way is four requests late.
    at_once = BURST - PER_MINUTE + 4
    options = Options(
        durations=Constant(0.3), queue_seconds=0.1, per_minute=PER_MINUTE, burst=at_once, per_day=None
    )
    with Emulator(options) as emulator:
        yield emulator


def submit(desk: Celery, count: int, lane: str = "batch") -> list[object]:
    signature = desk.signature("freddy_tasks.process_ai_response")
    return [
        signature.clone((f"prompt {number}",), {"lane": lane, "label": "plan"}).apply_async()
        for number in range(count)
    ]


def test_two_workers_stay_within_one_limit_and_use_it(
    api: Emulator, start_worker: StartWorker, desk: Celery
) -> None:
    """By the server's own count: no request refused, and about two for each answer."""
    for _ in range(2):
        start_worker(env=PLAN, wait=False)
    results = submit(desk, 60)
    for result in results:
        result.get(timeout=60)

    counts = api.counts
    assert counts.over_limit == 0
    assert counts.posts == 60
    assert (counts.posts + counts.gets) / 60 <= 3.5


def test_a_429_pauses_every_worker_until_the_moment_it_names(
    api: Emulator, start_worker: StartWorker, desk: Celery
) -> None:
    """The first submit is refused for four seconds; what was under way arrives, nothing else leaves."""
    api.set_faults([Fault.parse("429=retry-after:4@method=POST@times=1")])
    for _ in range(2):
        start_worker(env=PLAN, wait=False)
    results = submit(desk, 30)
    answers = [result.get(timeout=60) for result in results]

    records = api.requests()
    refused = next(record.at for record in records if record.method == "POST")
    under_way = 1.5  # seconds, for a machine that is busy
    early = [record.at - refused for record in records if under_way < record.at - refused < 4.0 - 0.01]
    assert len(answers) == 30
    assert api.counts.posts == 31
    assert early == []


def test_an_interactive_prompt_passes_a_batch_that_came_before_it(
    api: Emulator, start_worker: StartWorker, desk: Celery
) -> None:
    """It is submitted with the next free request, though hundreds wait."""
    del api
    start_worker(env={**PLAN, "FREDDY_REQUESTS_PER_MINUTE": "300", "FREDDY_BURST": "301"})
    batch = submit(desk, 150)
    wait_for(lambda: sum(result.state == "QUEUED" for result in batch) > 100)
    (prompt,) = submit(desk, 1, lane="interactive")
    prompt.get(timeout=30)

    assert sum(result.ready() for result in batch) < 75
    desk.control.purge()
    for result in batch:
        result.forget()


def test_a_spending_cap_fails_at_once(api: Emulator, start_worker: StartWorker, desk: Celery) -> None:
    """Waiting does not help, so nobody waits and nobody else is paused."""
    api.set_faults([Fault.parse("429=spend@method=POST@times=1")])
    start_worker(env=PLAN)
    results = submit(desk, 3)
    ended = [result.get(timeout=30, propagate=False) for result in results]

    assert sum(type(answer).__name__ == "SpendingLimitReached" for answer in ended) == 1
    assert sum(isinstance(answer, dict) for answer in ended) == 2
