"""Workers that are told to stop: nothing waits in them, and they end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from celery import Celery
from celery.result import AsyncResult
from nodes import DEADLINE, StartWorker, Valkey, Worker, wait_for
from redis import Redis

from freddy_tasks import process_ai_response
from freddy_tasks.emulator import Emulator

SOFT = 60.0  # seconds; longer than any test waits
SLEEPS = "Initiating Soft Shutdown"
CANCELS = "Waiting gracefully for cold shutdown"
READING = "closing.reading"  # as in `closing`, which is for workers' processes alone

ORDER = """
from celery import Celery
from freddy_tasks.worker import DispatcherStep

app = Celery("order", broker="redis://", set_as_current=False)
app.steps["worker"].add(DispatcherStep)
print(*(step.name.rpartition(".")[2] for step in app.Worker(pool="prefork", concurrency=1).steps))
"""

BusyWorker = Callable[[str], Worker]

of_each_pool = pytest.mark.parametrize("pool", ["prefork", "threads"])
warm_or_soft = pytest.mark.parametrize("signal", ["SIGTERM", "SIGQUIT"])

pytestmark = pytest.mark.campaign


@pytest.fixture
def busy_worker(start_worker: StartWorker, desk: Celery) -> BusyWorker:
    """Start a worker whose one slot is taken for longer than its soft shutdown may last."""

    def start(pool: str) -> Worker:
        worker = start_worker(app="closing", pool=pool, concurrency=1, env={"CLOSING_SOFT": f"{SOFT:g}"})
        desk.send_task("press.work", (2 * SOFT,))
        wait_for(lambda: told(desk, "active"))
        return worker

    return start


def told(desk: Celery, what: str) -> int:
    """How many tasks the workers have, by what a monitor may ask them for."""
    answers = getattr(desk.control.inspect(timeout=1.0), what)() or {}
    return sum(len(tasks) for tasks in answers.values())


def asks(server: Valkey) -> bool:
    """Whether a worker waits for a message."""
    with Redis.from_url(server.url) as probe:
        return int(probe.info("clients")["blocked_clients"]) > 0


def freeze_as_it_asks(worker: Worker, server: Valkey) -> bool:
    """SIGSTOP; not for good where it happened to ask for nothing just then."""
    worker.send("SIGSTOP")
    if not asks(server):
        worker.send("SIGCONT")
        return False
    return True


def complete(results: list[AsyncResult]) -> int:
    """How many ended with an answer."""
    return sum(result.get(timeout=DEADLINE)["status"] == "completed" for result in results)


@of_each_pool
@warm_or_soft
def test_a_shutdown_keeps_no_prompt_it_has_not_begun(
    signal: str, pool: str, busy_worker: BusyWorker, start_worker: StartWorker, api: Emulator, desk: Celery
) -> None:
    """Two that stand behind a long task of the user's are answered by another worker meanwhile."""
    leaving = busy_worker(pool)
    results = [process_ai_response.delay(f"whales {number}") for number in range(2)]
    wait_for(lambda: told(desk, "reserved") == 2)
    leaving.send(signal)
    start_worker()

    assert complete(results) == 2
    assert leaving.status == "running"
    assert api.counts.posts == 2


@of_each_pool
@warm_or_soft
def test_a_shutdown_keeps_no_message_that_was_on_its_way(
    signal: str, pool: str, busy_worker: BusyWorker, start_worker: StartWorker, api: Emulator, server: Valkey
) -> None:
    """Redis has handed it out when the signal comes, and nobody has read it."""
    leaving = busy_worker(pool)
    wait_for(lambda: freeze_as_it_asks(leaving, server))
    result = process_ai_response.delay("whales")
    leaving.send(signal)
    leaving.send("SIGCONT")
    start_worker()

    assert complete([result]) == 1
    assert leaving.status == "running"
    assert api.counts.posts == 1


@of_each_pool
@warm_or_soft
def test_a_shutdown_takes_no_message_more(
    signal: str, pool: str, busy_worker: BusyWorker, start_worker: StartWorker, api: Emulator, server: Valkey
) -> None:
    """Its last question is open when the signal comes, and the message comes afterwards."""
    leaving = busy_worker(pool)
    wait_for(lambda: asks(server))
    leaving.send(signal)
    result = process_ai_response.delay("whales")
    start_worker()

    assert complete([result]) == 1
    assert leaving.status == "running"
    assert api.counts.posts == 1


def test_a_soft_shutdown_lets_a_running_task_end(start_worker: StartWorker, desk: Celery) -> None:
    """As Celery promises."""
    leaving = start_worker(app="closing", pool="prefork", concurrency=1, env={"CLOSING_SOFT": "5"})
    result = desk.send_task("press.work", (2.0,))
    wait_for(lambda: told(desk, "active"))
    leaving.send("SIGQUIT")

    assert result.get(timeout=DEADLINE) is None
    assert leaving.status == "running"


def test_more_signals_end_a_soft_shutdown_at_once(busy_worker: BusyWorker) -> None:
    """The second one cancels the tasks, the third one ends the worker, as with Celery alone."""
    leaving = busy_worker("prefork")
    leaving.send("SIGQUIT")
    wait_for(lambda: SLEEPS in leaving.logs())
    leaving.send("SIGQUIT")
    wait_for(lambda: CANCELS in leaving.logs())
    leaving.send("SIGQUIT")
    leaving.wait()

    assert leaving.status == "exited"


@pytest.mark.parametrize("soft", ["0", "1"], ids=["cold", "soft"])
def test_a_stop_in_the_midst_of_a_result_ends_the_worker(
    soft: str, start_worker: StartWorker, desk: Celery, server: Valkey
) -> None:
    """The pool is joined when its result is read, and not while."""
    leaving = start_worker(app="closing", pool="prefork", concurrency=2, env={"CLOSING_SOFT": soft})
    desk.send_task("press.work", (2 * SOFT,))
    desk.send_task("closing.fail")
    with Redis.from_url(server.url) as probe:
        wait_for(lambda: probe.get(READING))
    leaving.send("SIGQUIT")
    leaving.wait()

    assert leaving.status == "exited"


def test_a_broker_that_goes_away_at_the_same_moment_keeps_no_worker_from_stopping(
    start_worker: StartWorker, server: Valkey
) -> None:
    """The event loop ends with its connection, and the turn that the signal waited for never comes."""
    leaving = start_worker(app="closing", pool="prefork", concurrency=1, env={"CLOSING_SOFT": "1"})
    leaving.send("SIGSTOP")
    server.kill()
    leaving.send("SIGQUIT")
    leaving.send("SIGCONT")
    leaving.wait()

    assert leaving.status == "exited"


@pytest.mark.parametrize("seed", ["0", "2"])  # two orders that Celery found before it was told
def test_the_pool_forks_before_the_dispatcher_runs(seed: str) -> None:
    """A lock that a thread holds at a fork is held in the child for ever, which then never ends."""
    env = {**os.environ, "PYTHONHASHSEED": seed}
    ran = subprocess.run([sys.executable, "-c", ORDER], env=env, capture_output=True, text=True, check=True)
    steps = ran.stdout.split()

    assert steps.index("Pool") < steps.index("DispatcherStep")
