"""A worker without a loop: it takes the messages that lie in its queue when a test says so."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery import Celery, signals
from celery.app.trace import trace_task_ret
from celery.concurrency.solo import TaskPool
from celery.result import AsyncResult
from celery.worker.request import create_request_cls
from kombu.utils.imports import symbol_by_name

from freddy_tasks.continuation import SUBMIT
from freddy_tasks.dispatcher import Dispatcher
from freddy_tasks.emulator import Emulator
from freddy_tasks.models import Job, Lane
from freddy_tasks.packing import Pace
from freddy_tasks.records import Enlisted, Phase
from freddy_tasks.runtime import Runtime

WORKER = "bench@here"


@dataclass
class Monitor:
    """Stands in for Celery's event dispatcher."""

    enabled: bool = True
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def send(self, kind: str, **fields: Any) -> None:
        """Keep it."""
        self.events.append((kind, fields))

    def of(self, task_id: str) -> list[str]:
        """What the row of a task went through."""
        return [kind.removeprefix("task-") for kind, fields in self.events if fields["uuid"] == task_id]


@dataclass
class Bench:
    """An app, its queue, and all that a worker does with a message; several steps share one here."""

    app: Celery
    runtime: Runtime
    api: Emulator
    monitor: Monitor = field(default_factory=Monitor)
    pace: Pace = field(default_factory=Pace)
    done: list[Any] = field(default_factory=list)  # requests of all messages so far

    def __post_init__(self) -> None:
        self.pace.note(0.001)
        self.dispatcher = Dispatcher(self.app, self.runtime, WORKER, slots=lambda: 1, pace=self.pace)

    def send(self, prompt: str, **options: Any) -> AsyncResult:
        """Publish a prompt, with these options and no others."""
        return self.app.tasks[SUBMIT].apply_async((prompt,), **options)

    def waiting(self, *prompts: str, **options: Any) -> list[AsyncResult]:
        """Responses that were accepted, and are due."""
        results = [self.send(prompt, **options) for prompt in prompts]
        self.work()
        self.make_due(*results)
        return results

    def lined_up(self, *prompts: str, options: Any = None, lane: Lane = Lane.NORMAL) -> list[AsyncResult]:
        """Prompts that no message brought, to be submitted now."""
        job = Job(deadline=0.0, model="m", lane=lane)
        route = {"exchange": "", "routing_key": "celery", **(options or {})}
        ids = [uuid.uuid4().hex for _ in prompts]
        self.runtime.ledger.enlist(
            Enlisted(task_id, job, 600.0, False, route, {"args": [prompt], "kwargs": {}})
            for task_id, prompt in zip(ids, prompts, strict=True)
        )
        return [self.app.AsyncResult(task_id) for task_id in ids]

    def make_due(self, *results: AsyncResult) -> None:
        """End their pauses, or their leases, together."""
        ledger = self.runtime.ledger
        ledger.redis.zadd(f"{ledger.prefix}:due", {result.id: 0 for result in results}, xx=True)

    def dispatch(self) -> list[str]:
        """Publish what is due; the names of the messages, without our prefix."""
        names: list[str] = []
        here = threading.get_ident()

        def note(sender: str, **_: Any) -> None:
            if threading.get_ident() == here:  # other apps of this process publish, too
                names.append(sender.rpartition(".")[2])

        signals.before_task_publish.connect(note)
        self.dispatcher.dispatch()
        signals.before_task_publish.disconnect(note)
        return names

    def work(self) -> list[Any]:
        """Do what lies in the queue, and what comes of it; the requests."""
        before = len(self.done)
        with self.app.connection_for_read() as connection:
            queue = self.app.amqp.queues["celery"](connection.default_channel)
            while message := queue.get():
                self.done.append(self.request_of(message))
                self.done[-1].execute_using_pool(TaskPool(1))
        return self.done[before:]

    def request_of(self, message: Any) -> Any:
        """What `celery.worker.strategy.default` (5.7) makes of a message."""
        task = self.app.tasks[message.headers["task"]]
        kind = create_request_cls(
            symbol_by_name(task.Request),
            task,
            TaskPool(1),
            WORKER,
            self.monitor,
            trace=partial(trace_task_ret, app=self.app),
            app=self.app,
        )
        return kind(
            message,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            app=self.app,
            hostname=WORKER,
            eventer=self.monitor,
            task=task,
        )

    def finish(self, *results: AsyncResult) -> None:
        """Look at them, together, until all have ended."""
        for _ in range(10):
            if all(result.ready() for result in results):
                return
            self.make_due(*results)
            self.dispatcher.dispatch()
            self.work()
        states = [result.state for result in results]
        raise AssertionError(f"they do not end: {states}")

    def phase(self, result: AsyncResult) -> Phase:
        """What the ledger says."""
        record = self.runtime.ledger.record(result.id)
        assert record is not None
        return record.phase
