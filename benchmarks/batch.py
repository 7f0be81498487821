"""How near a batch comes to what Celery itself can do: prints each figure, and whether it reaches its mark.

    python benchmarks/batch.py [--items 10000] [--seconds 20] [--lines 50000] [--naive 16] [--workers 1]
                               [--quick]

Side by side on this machine: a chord of tasks that do nothing (the floor), the two requests of each answer by
eight threads and no task at all, a chord whose members are one message that submits and one that looks, with
no care taken (the bare way), a batch whose answers are there at once, one whose answers take `--seconds`, the
naive way (a task that submits and sleeps in a loop, 8 slots), and the command line with a file of `--lines`.
Server, emulator, worker and caller share its cores; so does whatever else runs, which is why the marks are
ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import redis
import requests
from celery import Celery, chord, group
from celery.signals import task_prerun

from freddy_tasks import process_batch, processes
from freddy_tasks.batch.look import ready_metas
from freddy_tasks.batch.tasks import COLLECT_BATCH
from freddy_tasks.embedded import EmbeddedServer

HERE = Path(__file__).resolve().parent
KEY = "local"
BODY_BEGAN = "benchmark.body_began"  # where the worker notes it
SLOTS = 8
POLL_EVERY = 2.0  # seconds, of the naive way
FEW = 500  # tasks: a measurement of fewer says nothing of a rate
MOST_LAG = 2.0  # seconds from the last answer to the chord's body
LEAST_RATIO = 0.8  # of the floor's tasks a second
MOST_MEMORY = 150  # MB, of the command line
START_TIMEOUT = 60.0  # seconds
TIMEOUT = 3_600.0

_session = requests.Session()  # connections are opened after the fork, and shared by threads
app = Celery("batch")
app.config_from_object("celeryconfig")


@app.task(name="benchmark.nothing")
def nothing(number: int) -> int:
    """What any task costs at the least."""
    return number


@app.task(name="benchmark.ask")
def ask(prompt: str) -> str:
    """The first half of the least that a response takes: one message and one request, and no care taken."""
    return _ask(prompt)


@app.task(name="benchmark.fetch")
def fetch(response_id: str) -> Any:
    """The second half."""
    return _fetch(response_id)


@app.task(name="benchmark.arrived")
def arrived(results: Any) -> float:
    """When the end of a chord began."""
    del results
    return time.time()


@app.task(name="benchmark.naive")
def naive(prompt: str) -> str:
    """Hold a slot until the answer is there."""
    place, body, headers = _question(prompt)
    response = requests.post(place, json=body, headers=headers, timeout=30).json()
    while response["status"] not in {"completed", "failed"}:
        time.sleep(POLL_EVERY)
        response = requests.get(f"{place}/{response['id']}", headers=headers, timeout=30).json()
    return str(response["status"])


def _ask(prompt: str) -> str:
    place, body, headers = _question(prompt)
    return str(_session.post(place, json=body, headers=headers, timeout=30).json()["id"])


def _fetch(response_id: str) -> Any:
    place, _, headers = _question("")
    return _session.get(f"{place}/{response_id}", headers=headers, timeout=30).json()


def _question(prompt: str) -> tuple[str, dict[str, Any], dict[str, str]]:
    body = {
        "model": "m",
        "inputs": [{"role": "user", "texts": [{"text": prompt}]}],
        "background": True,
        "stream": False,
    }
    place = f"{os.environ['FREDDY_BASE_URL']}/v1/model/response"
    return place, body, {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class Figure:
    """One measurement, and whether its mark is reached; None where there is none."""

    name: str
    value: str
    reached: bool | None = None


@dataclass(frozen=True)
class Measured:
    """One way to get `count` tasks or responses done."""

    count: int
    seconds: float
    lag: float  # seconds from the last end to the start of what follows it
    server_bytes: float  # each, at the peak
    worker_bytes: float  # of the first worker
    worker_seconds: float  # each, of CPU time
    commands: float  # each, those in scripts included

    @property
    def rate(self) -> float:
        """Tasks or responses a second, from the first publish to the last end."""
        return self.count / self.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all figures; the exit status is 1 when one of them misses its mark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000, help="tasks, or prompts, of each chord")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the slow answers take")
    parser.add_argument(
        "--lines", type=int, default=50_000, help="of the command line's file; 0: leave it out"
    )
    parser.add_argument("--naive", type=int, default=16, help="prompts of the naive way; 0: none")
    parser.add_argument("--workers", type=int, default=1, help=f"of {SLOTS} slots each")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run at all?")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.way == "requests":
        print(time_of_requests(options.items))
        return 0
    if options.way:
        print(json.dumps(time_of(options.way, options.items)))
        return 0
    durations = [0.0, options.seconds]
    if options.quick:
        options.items, durations, options.lines, options.naive = 20, [0.2], 0, 0
    missed = 0
    for figure in figures(options.items, durations, options.lines, options.naive, options.workers):
        missed += figure.reached is False
        verdict = {True: "reached", False: "NOT REACHED", None: ""}[figure.reached]
        print(f"{figure.name:<52} {figure.value:<40} {verdict}", flush=True)
    return 1 if missed else 0


def figures(
    items: int, durations: Sequence[float], lines: int, naive_items: int, workers: int
) -> Iterator[Figure]:
    """All of them, as they come."""
    floor = measure(items, "0", "floor", workers)
    yield Figure("no-op tasks in a chord", f"{floor.rate:.0f}/s")
    yield from _costs(floor)
    requests_rate = rate_of_requests(items)
    yield Figure(
        "the requests alone, no tasks",
        f"{requests_rate:.0f}/s, {requests_rate / floor.rate:.2f} of the floor",
    )
    bare = measure(items, "0", "bare", workers)
    yield Figure("bare way, answers at once", f"{bare.rate:.0f}/s, {bare.rate / floor.rate:.2f} of the floor")
    yield from _costs(bare)
    for duration in durations:
        batch = measure(items, f"{duration:g}", "batch", workers)
        rate = batch.count / (batch.seconds - duration)
        yield Figure(
            f"batch, answers after {duration:g} s", f"{batch.rate:.0f}/s, {batch.seconds:.1f} s in all"
        )
        of_floor = rate / floor.rate
        is_enough = of_floor >= LEAST_RATIO if items >= FEW else None
        yield Figure("  of the floor, answering time left out", f"{of_floor:.2f}", is_enough)
        yield Figure("  of the bare way", f"{rate / bare.rate:.2f}")
        yield Figure("  last answer to the chord's body", f"{batch.lag:.2f} s", batch.lag <= MOST_LAG)
        yield from _costs(batch)
    if naive_items:
        held = measure(naive_items, f"{durations[-1]:g}", "naive", workers)
        yield Figure(
            f"naive way, {SLOTS} slots", f"{held.rate:.2f}/s, {batch.rate / held.rate:.0f} times slower"
        )
    if lines:
        megabytes, rate = run_command(lines, workers)
        yield Figure(f"command line, {lines} lines", f"{rate:.0f}/s")
        yield Figure("  its memory at the peak", f"{megabytes:.0f} MB", megabytes <= MOST_MEMORY)


def measure(count: int, durations: str, way: str, workers: int) -> Measured:
    """Get `count` of something done in one of the `WAYS`, on fresh servers and from a process of its own."""
    with stack(durations, workers) as (server, pids), Peak(server, pids[0]) as peak:
        commands, busy = _commands(server), _cpu_seconds(pids)
        argv = [sys.executable, __file__, "--way", way, "--items", str(count)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        seconds, lag = json.loads(done.stdout)
        commands, busy = _commands(server) - commands, _cpu_seconds(pids) - busy
        costs = (peak.server, peak.worker, busy, commands)
        return Measured(count, seconds, lag, *(cost / count for cost in costs))


def rate_of_requests(count: int) -> float:
    """Answers a second by two requests each, from as many threads of one process as a worker has slots."""
    with stack("0", 0):
        argv = [sys.executable, __file__, "--way", "requests", "--items", str(count)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        return count / float(done.stdout)


def time_of_requests(count: int) -> float:
    """Seconds for `count` answers."""
    began = time.monotonic()
    with ThreadPoolExecutor(SLOTS) as pool:
        answers = pool.map(lambda number: _fetch(_ask(f"prompt {number}")), range(count))
        assert all("id" in answer for answer in answers)
    return time.monotonic() - began


def time_of(way: str, count: int) -> tuple[float, float]:
    """Seconds from the first publish to the last end, and from there to the chord's body."""
    app.set_current()
    nothing.delay(0).get(timeout=30)  # the worker is up
    began = time.time()
    task_ids, followed = WAYS[way](count)
    ends = [meta["date_done"] for _, meta in ready_metas(app.backend, task_ids)]
    assert len(ends) == count
    last = max(datetime.fromisoformat(end) for end in ends).timestamp()
    return last - began, 0.0 if followed is None else followed - last


def run_floor(count: int) -> tuple[list[str], float]:
    """A chord of tasks that do nothing."""
    result = chord(nothing.s(number) for number in range(count))(arrived.s())
    followed = result.get(timeout=TIMEOUT, follow_parents=False)
    return [member.id for member in result.parent.results], followed


def run_batch(count: int) -> tuple[list[str], float]:
    """A batch of prompts."""
    batch = process_batch(f"prompt {number}" for number in range(count))
    result = batch.get(TIMEOUT)
    assert len(result.completed) == count, result.counts
    return batch.task_ids, float(app.backend.client.get(BODY_BEGAN))


@task_prerun.connect
def _note(task: Any = None, **_: Any) -> None:
    if task.name == COLLECT_BATCH:
        app.backend.client.set(BODY_BEGAN, time.time())


def run_naive(count: int) -> tuple[list[str], None]:
    """A group of tasks that each wait for their answer."""
    results = group(naive.s(f"prompt {number}") for number in range(count))()
    results.get(timeout=TIMEOUT)
    return [result.id for result in results], None


def run_bare(count: int) -> tuple[list[str], float]:
    """A chord whose members are a message that submits and one that looks, each once."""
    result = chord(ask.s(f"prompt {number}") | fetch.s() for number in range(count))(arrived.s())
    followed = result.get(timeout=TIMEOUT, follow_parents=False)
    return [member.id for member in result.parent.results], followed


WAYS: dict[str, Callable[[int], tuple[list[str], float | None]]] = {
    "floor": run_floor,
    "bare": run_bare,
    "batch": run_batch,
    "naive": run_naive,
}
"""What each returns: the task ids, and the moment at which what follows them began."""


def run_command(lines: int, workers: int) -> tuple[float, float]:
    """`freddy-tasks batch`: its peak in MB, and lines a second."""
    with stack("0", workers), tempfile.TemporaryDirectory() as folder:
        prompts, output = Path(folder, "prompts.jsonl"), Path(folder, "answers.jsonl")
        with prompts.open("w") as file:
            file.writelines(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(lines))
        argv = [sys.executable, "-m", "freddy_tasks", "batch", str(prompts), "-o", str(output)]
        began = time.monotonic()
        process = processes.start([*argv, "-A", "batch"], Path(folder, "log"))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, Path(folder, "log").read_text()
        with output.open() as file:
            assert sum(1 for _ in file) == lines
        return usage.ru_maxrss / 1024, lines / (time.monotonic() - began)


class Peak:
    """How much memory a server and a worker took at the most, over what they took before."""

    def __init__(self, server: redis.Redis, worker: int) -> None:
        self._server = server
        self._worker = worker
        self._before = self._look()
        self.server, self.worker = 0, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(0.5):
            server, worker = self._look()
            self.server = max(self.server, server - self._before[0])
            self.worker = max(self.worker, worker - self._before[1])

    def _look(self) -> tuple[int, int]:
        pages = int(Path(f"/proc/{self._worker}/statm").read_text().split()[1])
        return int(self._server.info("memory")["used_memory"]), pages * os.sysconf("SC_PAGESIZE")


@contextmanager
def stack(durations: str, workers: int) -> Iterator[tuple[redis.Redis, list[int]]]:
    """A server, an emulator whose answers take so long, and workers; the workers' process ids."""
    with ExitStack() as opened:
        server = opened.enter_context(EmbeddedServer())
        port = _free_port()
        settings = {
            "CELERY_BROKER_URL": server.url,
            "CELERY_RESULT_BACKEND": server.url,
            "FREDDY_API_KEY": KEY,
            "FREDDY_BASE_URL": f"http://127.0.0.1:{port}",
            "FREDDY_PLAN": "unlimited",
            "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}",
        }
        os.environ.update(settings)
        off = ["--per-minute", "off", "--per-day", "off"]
        emulator = [sys.executable, "-m", "freddy_tasks", "emulator", "--port", str(port), *off]
        worker = [sys.executable, "-m", "celery", "-A", "batch", "worker", "-P", "threads", "-c", str(SLOTS)]
        worker += ["--without-gossip", "--without-mingle", "-l", "WARNING"]
        running = []
        named = [[*worker, "-n", f"{number}@%h"] for number in range(workers)]
        for argv in ([*emulator, "--durations", durations], *named):
            process = processes.start(argv, server.directory / f"{len(running)}.log")
            opened.callback(processes.stop, process, 0.1)
            running.append(process)
        client = opened.enter_context(redis.Redis(unix_socket_path=str(server.socket)))
        until = time.monotonic() + START_TIMEOUT
        # What a worker takes to start is no task's memory.
        while _ready(client) < workers or not _listens(port):
            assert time.monotonic() < until, (server.directory / "1.log").read_text()
            time.sleep(0.1)
        yield client, [process.pid for process in running[1:]]


def _ready(client: redis.Redis) -> int:
    return sum(client.zcard(key) for key in client.scan_iter("*:dispatchers"))


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _commands(server: redis.Redis) -> int:
    return sum(command["calls"] for command in server.info("commandstats").values())


def _cpu_seconds(pids: Sequence[int]) -> float:
    ticks = 0
    for pid in pids:
        _, _, facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")  # the name may have blanks
        ticks += sum(map(int, facts.split()[11:13]))  # proc(5): utime and stime
    return ticks / os.sysconf("SC_CLK_TCK")


def _costs(measured: Measured) -> Iterator[Figure]:
    memory = f"{measured.server_bytes / 1024:.1f} KB, {measured.worker_bytes / 1024:.1f} KB"
    yield Figure("  memory each: server, worker", memory)
    work = f"{1_000 * measured.worker_seconds:.1f} ms, {measured.commands:.0f}"
    yield Figure("  each: workers' CPU time, Redis commands", work)


if __name__ == "__main__":
    sys.exit(main())
