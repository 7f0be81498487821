"""Requests spent on a batch under a plan's limit: this package against a hand-written loop.

Real worker processes, real HTTP, and the emulator with its limits on; every figure but the package's own is
the server's count. `--scale 4` shortens durations, pauses and limits alike by four: 20 s become 5 s, 100
requests a minute become 400.

    python benchmarks/plan.py                      # 500 responses of 20 s under 100 a minute
    python benchmarks/plan.py --workers 8 --only freddy_tasks
    python benchmarks/plan.py --scale 1            # in real time, about an hour for all three
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from celery import Celery

from freddy_tasks import processes
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator, LogNormal, Options
from freddy_tasks.schedules import Band, Tiers

MINUTE = 60.0
LOOKING = 0.25  # seconds between two readings of the server's journal


@dataclass(frozen=True)
class Plan:
    """What the batch runs under; seconds and rates are scaled already."""

    size: int
    median: float
    sigma: float
    per_minute: int
    burst: int
    scale: float
    workers: int
    seed: int


@dataclass(frozen=True)
class Account:
    """What one way of doing it cost."""

    name: str
    answered: int
    requests: int
    over_limit: int
    seconds: float
    floor: float
    used: float
    worst_window: float

    def row(self) -> str:
        """One line of the table."""
        return (
            f"{self.name:<16}{self.answered:>9}{self.requests / max(1, self.answered):>12.2f}"
            f"{self.over_limit:>12}{100 * self.used:>9.1f} %{100 * self.worst_window:>10.1f} %"
            f"{self.seconds:>9.1f} s{self.seconds / self.floor:>10.2f}"
        )


HEADER = (
    f"{'':<16}{'answered':>9}{'req/answer':>12}{'over limit':>12}{'limit used':>11}"
    f"{'worst min.':>12}{'time':>11}{'x floor':>10}"
)


class Journal(threading.Thread):
    """Reads the server's own record of requests, which is bounded, often enough to miss none."""

    def __init__(self, api: Emulator) -> None:
        super().__init__(daemon=True)
        self.moments: list[float] = []
        self._api = api
        self._stopping = threading.Event()

    def run(self) -> None:
        """Collect until stopped."""
        while not self._stopping.wait(LOOKING):
            self._collect()

    def stop(self) -> list[float]:
        """The moments of all requests, in order."""
        self._stopping.set()
        self.join()
        self._collect()
        return self.moments

    def _collect(self) -> None:
        last = self.moments[-1] if self.moments else -1.0
        self.moments += [record.at for record in self._api.requests() if record.at > last]


@contextmanager
def workers_on(api: Emulator, plan: Plan) -> Iterator[Celery]:
    """A server and the plan's workers; an app that publishes to them."""
    tiers = Tiers(tuple(Band(band.until / plan.scale, band.pause / plan.scale) for band in Tiers().bands))
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        env = {
            **os.environ,
            "CELERY_BROKER_URL": server.url,
            "CELERY_RESULT_BACKEND": server.url,
            "FREDDY_API_KEY": api.key,
            "FREDDY_BASE_URL": api.url,
            "FREDDY_REQUESTS_PER_MINUTE": str(plan.per_minute),
            "FREDDY_REQUESTS_PER_DAY": "0",
            "FREDDY_BURST": str(plan.burst),
            "FREDDY_TIERS": str(tiers),
            "PYTHONWARNINGS": "ignore",
        }
        argv = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "freddy_tasks.app",
            "worker",
            "-P",
            "threads",
            "-c",
            "4",
        ]
        argv += ["--without-gossip", "--without-mingle", "-l", "WARNING"]
        for number in range(plan.workers):
            worker = processes.start([*argv, "-n", f"w{number}@%h"], folder / f"{number}.log", env)
            stack.callback(processes.stop, worker, 20.0)
        app = Celery("freddy_tasks", broker=server.url, backend=server.url)
        app.conf.task_default_queue = "freddy_tasks"
        yield app


def by_this_package(api: Emulator, plan: Plan) -> int:
    """Publish the batch at once; the workers do the rest."""
    with workers_on(api, plan) as app:
        signature = app.signature("freddy_tasks.process_ai_response")
        results = [
            signature.clone(
                (f"prompt {number}",), {"label": "batch", "return_exceptions": True}
            ).apply_async()
            for number in range(plan.size)
        ]
        answers = [result.get(timeout=3600.0) for result in results]
        return sum(answer["status"] == "completed" for answer in answers)


def by_a_loop(pause: Callable[[float], float]) -> Callable[[Emulator, Plan], int]:
    """What the page shows: submit, look every so often, obey Retry-After. One thread a response."""

    def answer(api: Emulator, plan: Plan, number: int) -> bool:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {api.key}"
            body = {
                "model": "gpt-4.1",
                "background": True,
                "inputs": [{"role": "user", "texts": [{"text": f"prompt {number}"}]}],
            }

            def call(method: str, url: str, json: object = None) -> dict[str, object]:
                while True:
                    reply = session.request(method, url, json=json, timeout=30)
                    if reply.status_code != 429:
                        reply.raise_for_status()
                        found: dict[str, object] = reply.json()
                        return found
                    time.sleep(float(reply.headers.get("Retry-After", 1)))

            url = f"{api.url}/v1/model/response"
            response = call("POST", url, body)
            began = time.monotonic()
            while response["status"] in {"queued", "in_progress"}:
                time.sleep(pause((time.monotonic() - began) * plan.scale) / plan.scale)
                response = call("GET", f"{url}/{response['id']}")
            return response["status"] == "completed"

    def run(api: Emulator, plan: Plan) -> int:
        with ThreadPoolExecutor(plan.size) as pool:
            return sum(pool.map(lambda number: answer(api, plan, number), range(plan.size)))

    return run


WAYS: dict[str, Callable[[Emulator, Plan], int]] = {
    "freddy_tasks": by_this_package,
    "loop, 5 s": by_a_loop(lambda _: 5.0),
    "loop, tiers": by_a_loop(lambda elapsed: Tiers().pause(elapsed)),
}


def account(name: str, plan: Plan) -> Account:
    """Run one way on a fresh server."""
    # A plan of 100 a minute with a burst of 120 allows 120 in the first minute: 20 more than its rate.
    extra = plan.burst - plan.per_minute
    options = Options(
        durations=LogNormal(plan.median, plan.sigma),
        queue_seconds=0.0,
        per_minute=plan.per_minute,
        burst=extra,
        per_day=None,
        seed=plan.seed,
    )
    with Emulator(options) as api:
        journal = Journal(api)
        journal.start()
        answered = WAYS[name](api, plan)
        moments = journal.stop()
        counts = api.counts
    seen = counts.posts + counts.gets + counts.deletes
    accepted = seen - counts.over_limit
    seconds = moments[-1] - moments[0]
    floor = max(plan.median, (2 * plan.size - extra) * MINUTE / plan.per_minute)
    # While the last responses only think, nobody can use the limit.
    busy = moments[: int(0.9 * len(moments))]
    allowed = extra + plan.per_minute * (busy[-1] - busy[0]) / MINUTE
    return Account(
        name=name,
        answered=answered,
        requests=accepted,
        over_limit=counts.over_limit,
        seconds=seconds,
        floor=floor,
        used=len(busy) / allowed,
        worst_window=most_within(moments, MINUTE) / plan.burst,
    )


def most_within(moments: list[float], window: float) -> int:
    """The most requests in any window of so many seconds."""
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - window:
            first += 1
        most = max(most, last - first + 1)
    return most


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=500, help="responses (500)")
    parser.add_argument(
        "--median", type=float, default=20.0, help="median duration, seconds before scaling (20)"
    )
    parser.add_argument("--sigma", type=float, default=0.5, help="spread of the durations, log scale (0.5)")
    parser.add_argument("--per-minute", type=int, default=100, help="the plan's limit, before scaling (100)")
    parser.add_argument("--scale", type=float, default=4.0, help="how many times faster than life (4)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(WAYS), action="append", help="only this way")
    given = parser.parse_args()
    per_minute = round(given.per_minute * given.scale)
    plan = Plan(
        given.size, given.median / given.scale, given.sigma, per_minute, per_minute * 6 // 5, given.scale,
        given.workers, given.seed,
    )  # fmt: skip
    print(
        f"{plan.size} responses, median {plan.median:g} s, sigma {plan.sigma:g}, {plan.per_minute} requests "
        f"a minute (burst {plan.burst}), {plan.workers} workers; scaled by {plan.scale:g}"
    )
    print(HEADER)
    for name in given.only or WAYS:
        print(account(name, plan).row(), flush=True)


if __name__ == "__main__":
    main()
