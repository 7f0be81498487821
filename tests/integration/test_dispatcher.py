"""The dispatcher's thread: it ends when it is told to."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from logs import logged
from shop import wait_for

from freddy_tasks import dispatcher as module
from freddy_tasks.capacity import slots as slots_of
from freddy_tasks.dispatcher import Dispatcher
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.runtime import Runtime, build
from freddy_tasks.settings import Settings


class Watched(Dispatcher):
    """Tells when it has looked into the waiting room and is about to sleep."""

    def __init__(self, app: Celery, runtime: Runtime) -> None:
        super().__init__(app, runtime, "watched@here")
        self.looked = threading.Event()

    def dispatch(self) -> float:
        """Look once."""
        pause = super().dispatch()
        self.looked.set()
        return pause


@pytest.fixture
def dispatcher(valkey: EmbeddedServer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """One with nothing to do for ten minutes."""
    monkeypatch.setattr(module, "LONGEST_SLEEP", 600.0)
    app = Celery("idle", broker=valkey.url, backend=valkey.url, set_as_current=False)
    return Watched(app, build(app, settings))


def running() -> bool:
    """Whether a dispatcher's thread is alive, of those that sleep for minutes."""
    return any(
        thread.name == "freddy-dispatcher" and thread not in BEFORE for thread in threading.enumerate()
    )


BEFORE: set[threading.Thread] = set()


@pytest.mark.parametrize(
    ("pool", "most", "slots"),
    [(SoloPool(1), None, 1), (ThreadPool(3), None, 3), (PreforkPool(2), None, 0), (PreforkPool(2), 10, 10)],
    ids=["solo", "threads", "a prefork pool that does not run", "autoscale"],
)
def test_a_worker_has_the_slots_of_its_pool(pool: Any, most: int | None, slots: int) -> None:
    """At this moment; `--autoscale` makes more of them once there is work."""
    worker = SimpleNamespace(pool=pool, max_concurrency=most)

    assert slots_of(worker) == slots


@pytest.mark.parametrize("run", range(5))
def test_a_stop_wakes_a_sleeping_dispatcher(dispatcher: Watched, run: int) -> None:
    """It does not sleep on to the next look."""
    BEFORE.update(threading.enumerate())
    dispatcher.start()
    wait_for(dispatcher.looked.is_set)
    started = running()
    dispatcher.stop(timeout=30.0)

    assert started
    assert not running()


def test_a_stop_needs_no_server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the state server is away the thread waits for its stop alone."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 600.0)
    with EmbeddedServer() as server:
        app = Celery("idle", broker=server.url, backend=server.url, set_as_current=False)
        idle = Watched(app, build(app, settings))
    BEFORE.update(threading.enumerate())
    idle.start()
    started = running()
    idle.stop(timeout=30.0)

    assert started
    assert not running()


def test_a_state_server_that_was_emptied_is_told_once(
    state: redis.Redis, dispatcher: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever was there before: nothing is left that could name the responses that waited."""
    monkeypatch.setattr(module, "SIGN_OF_LIFE", 0.0)
    with logged("freddy_tasks.dispatcher") as records:
        dispatcher.dispatch()
        dispatcher.dispatch()
        before = len(records)
        state.flushdb()
        dispatcher.dispatch()
        dispatcher.dispatch()

    assert before == 0
    assert [record.levelname for record in records] == ["ERROR"]
    assert "was emptied" in records[0].getMessage()


def test_each_outage_begins_with_short_pauses(dispatcher: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one before it makes a dispatcher no slower to come back."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LONGEST_SLEEP", 0.01)
    outcomes = iter([False] * 3 + [True] + [False] * 2 + [True])
    pop = dispatcher._ledger.pop

    def pop_or_fail(*limits: int) -> Any:
        if not next(outcomes, True):
            raise redis.exceptions.ConnectionError("the state server is away")
        return pop(*limits)

    monkeypatch.setattr(dispatcher._ledger, "pop", pop_or_fail)
    with logged("freddy_tasks.dispatcher") as records:
        dispatcher._pause = module.FIRST_PAUSE
        dispatcher.start()
        wait_for(lambda: len(records) == 5)
        dispatcher.stop(timeout=30.0)

    assert [record.args[1] for record in records] == [0.01, 0.02, 0.04, 0.01, 0.02]
