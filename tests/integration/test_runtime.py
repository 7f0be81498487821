"""What a process needs to work, and what one needs that only cancels."""

from __future__ import annotations

import os

import pytest
from celery import Celery
from pydantic import SecretStr

from freddy_tasks import ConfigurationError, cancel_response
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.ledger import Ledger
from freddy_tasks.models import Job
from freddy_tasks.records import Phase
from freddy_tasks.runtime import access_of, build, runtime_of, use
from freddy_tasks.settings import Settings


@pytest.fixture
def app(valkey: EmbeddedServer) -> Celery:
    """An app of a web process, say."""
    app = Celery("web", broker=valkey.url, backend=valkey.url, set_as_current=False)
    app.finalize()
    return app


def begin(ledger: Ledger, task_id: str) -> None:
    """A worker has begun to submit a prompt."""
    ledger.begin(task_id, Job(deadline=0.0, model="m"), body={}, options={}, timeout=60.0, whole=True)


@pytest.mark.usefixtures("state")
def test_a_process_without_a_key_cancels(app: Celery) -> None:
    """In the ledger that the worker with the key keeps."""
    workers = build(app, Settings(api_key=SecretStr("oak_of_the_worker"))).ledger
    begin(workers, "t1")
    cancelled = app.tasks[cancel_response.name]("t1")
    unknown = app.tasks[cancel_response.name]("t2")
    record = workers.record("t1")

    assert cancelled is True
    assert unknown is False
    assert record is not None
    assert record.phase in {Phase.SENT, Phase.CANCELLING}


def test_a_process_without_a_key_makes_no_requests(app: Celery) -> None:
    """What has no key to send says so by the name of the variable, cancelled before or not."""
    access_of(app)

    with pytest.raises(ConfigurationError, match="FREDDY_API_KEY is not set"):
        runtime_of(app)


def test_a_process_has_one_access(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pool of connections, however often it is asked for; another one after a fork."""
    first, second = access_of(app), access_of(app)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    forked = access_of(app)
    runtime = build(app, Settings(api_key=SecretStr("oak_of_the_worker")))
    use(app, runtime)

    assert first is second
    assert forked is not first
    assert access_of(app) is runtime
