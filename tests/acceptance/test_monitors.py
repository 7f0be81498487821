"""What somebody who watches the events is told while responses wait."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.events.state import State
from nodes import StartWorker

from freddy_tasks import process_ai_response
from freddy_tasks.runtime import access_of

UNENDING = {"metadata": {"emulate": {"duration": "1000"}}}


def test_monitors_are_told_the_moment_of_the_next_look(start_worker: StartWorker, desk: Celery) -> None:
    """As the task's ETA, in UTC, by the state server's clock: the moment that the ledger has."""
    monitor, late = State(), str(uuid4())
    start_worker(env={"FREDDY_TIERS": "60:0.5,inf:30"})
    herald = process_ai_response.apply_async(("one",), UNENDING).id

    def saw(event: dict[str, Any]) -> None:
        if not monitor.event_count:  # somebody listens from here on
            process_ai_response.apply_async(("two",), {**UNENDING, "expected": 90.0}, task_id=late)
        monitor.event(event)
        row = monitor.tasks.get(late)
        receiver.should_stop = row is not None and row.state == "POLLING"

    with desk.connection_for_read() as connection:
        receiver = desk.events.Receiver(connection, handlers={"task-polling": saw})
        receiver.capture(limit=None, timeout=20.0, wakeup=False)
    ledger = access_of(desk).ledger
    row, record = monitor.tasks[late], ledger.record(late)
    for task_id in (herald, late):
        ledger.cancel(task_id)

    assert row.state == "POLLING"
    assert row.eta.endswith("+00:00")
    assert record is not None
    assert datetime.fromisoformat(row.eta).timestamp() == int(record.due or 0.0)
