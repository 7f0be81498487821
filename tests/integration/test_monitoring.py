"""What somebody who watches is told while responses wait."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.events.state import State
from logs import logged
from pydantic import SecretStr
from shop import Shop, answer_of

from freddy_tasks import process_ai_response
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator
from freddy_tasks.runtime import build, ledger_of, use
from freddy_tasks.settings import Settings

UNENDING = {"metadata": {"emulate": {"duration": "1000"}}}


@pytest.fixture
def app(valkey: EmbeddedServer, api: Emulator) -> Iterator[Celery]:
    """An app whose worker sends events, and looks seldom at what is expected to take long."""
    url = f"{valkey.url}?virtual_host=4"
    app = Celery("watched", broker=url, backend=url, set_as_current=False)
    settings = Settings(api_key=SecretStr(api.key), base_url=api.url, plan="unlimited", tiers="60:0.2,inf:30")
    use(app, build(app, settings))
    worker = start_worker(
        app,
        pool="threads",
        concurrency=4,
        perform_ping_check=False,
        without_heartbeat=False,
        task_events=True,
        shutdown_timeout=30.0,
    )
    with worker:
        yield app
    app.backend.result_consumer.subscribed_to.clear()


def test_monitors_are_told_the_moment_of_the_next_look(app: Celery) -> None:
    """As the task's ETA, in UTC, by the state server's clock: the moment that the ledger has."""
    submit, monitor = app.tasks[process_ai_response.name], State()
    herald, late = submit.apply_async(("one",), UNENDING).id, str(uuid4())

    def saw(event: dict[str, Any]) -> None:
        if not monitor.event_count:  # somebody listens from here on
            submit.apply_async(("two",), {**UNENDING, "expected": 90.0}, task_id=late)
        monitor.event(event)
        receiver.should_stop = late in monitor.tasks

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"task-polling": saw})
        receiver.capture(limit=None, timeout=20.0, wakeup=False)
    ledger = ledger_of(app)
    row, record = monitor.tasks[late], ledger.record(late)
    for task_id in (herald, late):
        ledger.cancel(task_id)

    assert row.state == "POLLING"
    assert row.eta.endswith("+00:00")
    assert record is not None
    assert datetime.fromisoformat(row.eta).timestamp() == int(record.due or 0.0)


def test_a_status_that_nobody_knows_is_logged_once(shop: Shop) -> None:
    """With the response's id and the word, however often it is seen; nothing of the prompt."""
    shop.api.set_faults(["unknown_status=pondering"])
    with logged("freddy_tasks.responses") as records:
        answer = answer_of(process_ai_response.delay("whales", metadata={"emulate": {"duration": "0.5"}}))
    told = [record.getMessage() for record in records]

    assert answer["polls"] >= 3
    assert told == [f"Response {answer['id']} has a status that this version does not know: pondering"]
