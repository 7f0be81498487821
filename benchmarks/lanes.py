"""How long a person's prompt waits while a batch of thousands has the plan's requests to itself.

The batch is published first, by `process_batch`. Then come prompts of the other lanes, one after the other:
some while the workers still take the batch out of the queue, some when all of it stands in line for the
plan's requests. Timed is the way from `apply_async` to the moment at which the server creates the response,
and to the answer, a second later at the least.

    python benchmarks/lanes.py                     # 10,000 prompts under 100 requests a minute
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from celery import Celery
from plan import Plan, workers_on

from freddy_tasks import process_batch
from freddy_tasks.emulator import Constant, Emulator, Options
from freddy_tasks.runtime import runtime_of

LANES = ("interactive", "normal")
DURATION = 1.0  # seconds of every response
TIMEOUT = 3_600.0
HEADER = f"{'':<30}{'lane':<14}{'created after':>24}{'answered after':>24}"


@dataclass(frozen=True)
class Wait:
    """What became of one prompt, in seconds since it was published."""

    created: float
    answered: float


def waits(app: Celery, api: Emulator, lane: str, count: int) -> Iterator[Wait]:
    """Send so many prompts of a lane, each when the one before is answered."""
    signature = app.signature("freddy_tasks.process_ai_response")
    for number in range(count):
        began = time.time()
        sent = signature.clone((f"{lane} {number}",), {"lane": lane, "label": "person"}).apply_async()
        answer = sent.get(timeout=TIMEOUT)
        answered = time.time() - began
        created = next(job.created_at for job in api.jobs() if job.id == answer["id"])
        yield Wait(created - began, answered)


def wait_while_it_grows(length: Callable[[], int]) -> None:
    """Return when a line has not become longer for two seconds."""
    before, now = -1, length()
    while now > before:
        time.sleep(2.0)
        before, now = now, length()


def report(when: str, lane: str, measured: list[Wait]) -> str:
    """One line of the table: the median and the longest."""
    columns = ([wait.created for wait in measured], [wait.answered for wait in measured])
    told = (f"{statistics.median(column):.2f} s, {max(column):.2f} s" for column in columns)
    return f"{when:<30}{lane:<14}" + "".join(f"{each:>24}" for each in told)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=10_000, help="prompts of the batch (10000)")
    parser.add_argument("--per-minute", type=int, default=100, help="the plan's limit (100)")
    parser.add_argument("--count", type=int, default=10, help="prompts of each lane, each time (10)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    given = parser.parse_args()
    burst = given.per_minute * 6 // 5
    plan = Plan(given.size, DURATION, 0.0, given.per_minute, burst, 1.0, given.workers, 1)
    options = Options(
        durations=Constant(DURATION), queue_seconds=0.0, per_minute=plan.per_minute,
        burst=burst - plan.per_minute, per_day=None,
    )  # fmt: skip
    with Emulator(options) as api:
        os.environ.update(FREDDY_API_KEY=api.key, FREDDY_BASE_URL=api.url)
        with workers_on(api, plan) as app:
            app.set_current()
            process_batch(f"prompt {number}" for number in range(plan.size))
            ledger = runtime_of(app).ledger
            print(f"{plan.size} prompts before them, {plan.per_minute} requests a minute; median, longest")
            print(HEADER)
            for lane in LANES:
                measured = list(waits(app, api, lane, given.count))
                print(report("the batch is in the queue", lane, measured), flush=True)
            wait_while_it_grows(lambda: ledger.redis.zcard(f"{ledger.prefix}:ready:submit"))
            for lane in LANES:
                measured = list(waits(app, api, lane, given.count))
                print(report("the batch is in line", lane, measured), flush=True)
        print(f"{api.counts.over_limit} requests over the limit")


if __name__ == "__main__":
    main()
