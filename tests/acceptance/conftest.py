"""Real processes: a Valkey on a port, workers of every pool, and the emulator they talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from nodes import StartWorker, Valkey, Worker, client_of
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from freddy_tasks.emulator import Constant, Emulator, Options


@pytest.fixture
def api() -> Iterator[Emulator]:
    """An emulator whose answers take a third of a second and repeat the prompt."""
    options = Options(
        durations=Constant(0.3), queue_seconds=0.1, per_minute=None, per_day=None, answer="About {}".format
    )
    with Emulator(options) as emulator:
        yield emulator


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own."""
    node = Valkey(tmp_path)
    node.ready()
    yield node
    node.teardown()


@pytest.fixture
def environment(api: Emulator) -> dict[str, str]:
    """What a worker needs besides its broker."""
    return {
        "FREDDY_API_KEY": api.key,
        "FREDDY_BASE_URL": api.url,
        "FREDDY_PLAN": "unlimited",
        "FREDDY_TIERS": "inf:0.5",
        "FREDDY_LEASE": "2",
    }


@pytest.fixture
def start_worker(tmp_path: Path, server: Valkey, environment: dict[str, str]) -> Iterator[StartWorker]:
    """Start workers; each ends with the test. `env` is added to the environment, None takes away."""
    workers: list[Worker] = []

    def start(*, env: dict[str, str | None] | None = None, wait: bool = True, **options: Any) -> Worker:
        addresses = {"CELERY_BROKER_URL": server.url, "CELERY_RESULT_BACKEND": server.url}
        chosen = {**addresses, **environment, **(env or {})}
        log = tmp_path / f"worker-{len(workers)}.log"
        workers.append(
            Worker(log, {name: value for name, value in chosen.items() if value is not None}, **options)
        )
        if wait:
            workers[-1].ready()
        return workers[-1]

    yield start
    for worker in workers:
        if worker.status == "running":
            worker.kill()


@pytest.fixture
def desk(server: Valkey) -> Iterator[Celery]:
    """The caller's app on the test's own server."""
    app = client_of(server.url, server.url)
    yield app
    app.backend.result_consumer.subscribed_to.clear()


@pytest.fixture
def celery_broker_cluster(server: Valkey) -> CeleryBrokerCluster:
    """In place of pytest-celery's containers."""
    return CeleryBrokerCluster(CeleryTestBroker(server))


@pytest.fixture
def celery_backend_cluster(server: Valkey) -> CeleryBackendCluster:
    """The same server again."""
    return CeleryBackendCluster(CeleryTestBackend(server))


@pytest.fixture
def celery_setup_app(desk: Celery) -> Celery:
    """The caller's app."""
    return desk


@pytest.fixture
def celery_worker_cluster(start_worker: StartWorker, celery_setup_app: Celery) -> CeleryWorkerCluster:
    """One worker with threads."""
    return CeleryWorkerCluster(CeleryTestWorker(start_worker(), celery_setup_app))


@pytest.fixture
def setup(celery_setup: CeleryTestSetup) -> CeleryTestSetup:
    """Broker, backend and worker, up and answering."""
    assert celery_setup.ready(control=True)
    return celery_setup
