"""A Celery app with a worker in this process, on a real Valkey, against the emulator over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import redis
from bench import Bench
from celery import Celery, signals
from celery._state import _tls
from celery.contrib.testing.worker import start_worker
from celery.worker import state
from hops import Stage, stage_of
from pydantic import SecretStr
from shop import Shop, Witness, shop_of, wait_for

from freddy_tasks.batch import watch
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Constant, Emulator, Options
from freddy_tasks.models import Job
from freddy_tasks.runtime import Runtime, build, use
from freddy_tasks.schedules import Schedule, Wait
from freddy_tasks.settings import Settings


@pytest.fixture(scope="session")
def api() -> Iterator[Emulator]:
    """An emulator whose answers take a moment and repeat the prompt."""
    options = Options(
        durations=Constant(0.04), queue_seconds=0.02, per_minute=None, per_day=None, answer="About {}".format
    )
    with Emulator(options) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def prompt_api() -> Iterator[Emulator]:
    """An emulator whose answers are there at once, for tests that reset it."""
    options = Options(durations=Constant(0.0), queue_seconds=0.0, per_minute=None, per_day=None)
    with Emulator(options) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def settings(api: Emulator) -> Settings:
    """Settings without limits, and with a lease that a test can wait for."""
    return Settings(api_key=SecretStr(api.key), base_url=api.url, plan="unlimited", lease=2.0)


class Impatient:
    """A schedule no service would like: tests have no half seconds to wait between looks."""

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Ten looks a second, but for what is expected to take minutes."""
        return 30.0 if (wait.expected or 0.0) > 60.0 else 0.1


class ImpatientRuntime(Runtime):
    """A runtime with that schedule."""

    def schedule(self, job: Job) -> Schedule:
        """The same for all."""
        return Impatient()


@pytest.fixture(scope="session")
def _shop(valkey: EmbeddedServer, api: Emulator, settings: Settings) -> Iterator[Shop]:
    url = f"{valkey.url}?virtual_host=1"  # the tests' other database is emptied before each of them
    app = Celery("shop", broker=url, backend=url, include=["freddy_tasks.tasks"], set_as_current=False)
    app.conf.update(result_chord_expires=3_600, result_backend_thread_safe=True)
    built = build(app, settings)
    runtime = ImpatientRuntime(**{item.name: getattr(built, item.name) for item in fields(built)})
    use(app, runtime)
    witness = Witness()
    shop = shop_of(app, api, runtime, witness)

    def record(task: Any = None, **_: Any) -> None:
        if task.app == app:
            witness.requests.append({**vars(task.request), "task": task.name})

    signals.task_prerun.connect(record, weak=False)
    with pytest.MonkeyPatch.context() as patch:
        # Tests make their own watches: this one would end what another test has left behind.
        patch.setattr(watch, "EVERY", 3_600.0)
        with start_worker(
            app,
            pool="threads",
            concurrency=16,
            perform_ping_check=False,
            shutdown_timeout=30.0,
            queues=["celery", "urgent"],
        ):
            yield shop
    signals.task_prerun.disconnect(record)
    # A result that outlives the server, in a failed test's traceback, must not ask it for twenty seconds.
    app.backend.result_consumer.subscribed_to.clear()


@pytest.fixture
def stage(valkey: EmbeddedServer, state: redis.Redis, prompt_api: Emulator) -> Stage:
    """An app whose messages run when a test says so."""
    prompt_api.reset()
    app = Celery("stage", broker=valkey.url, backend=valkey.url, set_as_current=False)
    app.loader.import_default_modules()
    app.finalize()
    return stage_of(app, prompt_api, valkey.url)


@pytest.fixture
def bench_on(stage: Stage) -> Bench:
    """A queue for that app, and what a worker does with a message."""
    return Bench(stage.app, stage.runtime, stage.api)


@pytest.fixture
def shop(_shop: Shop) -> Iterator[Shop]:
    """The app, current in this thread, with nothing recorded yet and an API in good order."""
    before = _current()
    _shop.app.set_current()
    _shop.api.reset()
    _shop.witness.requests.clear()
    _shop.witness.calls.clear()
    yield _shop
    _shop.api.set_faults(())
    wait_for(lambda: _is_idle(_shop.app))  # what a test leaves running, another one would witness
    if before is not None:
        before.set_current()


def _is_idle(app: Celery) -> bool:
    """Whether the worker in this process has nothing to do now; responses may wait."""
    with app.connection_for_read() as connection:
        try:
            queued = connection.default_channel.queue_declare("celery", passive=True).message_count
        except connection.channel_errors:  # an empty queue is none
            queued = 0
    return not queued and not state.reserved_requests


def _current() -> Celery | None:
    current: Celery | None = _tls.current_app
    return current
