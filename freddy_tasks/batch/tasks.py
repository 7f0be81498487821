"""The three tasks around a batch: its chord's body, and what stands in when a chord has no body."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery, Task, shared_task, states
from celery.exceptions import Ignore

from freddy_tasks import tasks as response_tasks
from freddy_tasks.errors import BatchFailed
from freddy_tasks.ledger import Ledger
from freddy_tasks.runtime import runtime_of
from freddy_tasks.worker import HopRequest

from . import look
from .record import Record, load, stopped_by
from .result import BatchItem, BatchResult

logger = logging.getLogger(__name__)

COLLECT_BATCH = "freddy_tasks.collect_batch"
SALVAGE_BATCH = "freddy_tasks.salvage_batch"
STOP_BATCH = "freddy_tasks.stop_batch"
_OPTIONS: dict[str, Any] = {
    "bind": True,  # an errback that is bound gets the failed id, and runs as a task of its own
    "acks_late": True,
    "reject_on_worker_lost": True,
    "throws": (BatchFailed,),
    "resultrepr_maxsize": 1,  # answers are nothing for logs and monitors
    "Request": HopRequest,
    "apply_async": response_tasks.apply_async,
}
_TASK = Task[Any, Any]


@shared_task(name=COLLECT_BATCH, **_OPTIONS)
def collect_batch(self: _TASK, results: Sequence[Any], batch: str | Mapping[str, Any]) -> dict[str, Any]:
    """The body of a batch's chord: the JSON of a `BatchResult`, made of the results of its prompts.

    Raises `BatchFailed` when more prompts have no answer than `on_error` tolerates.
    """
    _pass_over_when_done(self)
    # In eager mode there is no state server to keep the record: it comes with the call.
    kept = (
        Record.from_message(batch) if isinstance(batch, Mapping) else load(runtime_of(self.app).ledger, batch)
    )
    return judged(kept, self.app, results if _are_in_order(self.app) else None).to_result()


@shared_task(name=SALVAGE_BATCH, **_OPTIONS)
def salvage_batch(self: _TASK, failed_id: str, batch: str) -> dict[str, Any]:
    """What `collect_batch` makes, where Celery calls no body: a member was revoked, or failed by itself.

    It is the errback of the body, which Celery calls once, after the last member has ended.
    """
    del failed_id
    _pass_over_when_done(self)
    return judged(load(runtime_of(self.app).ledger, batch), self.app).to_result()


@shared_task(name=STOP_BATCH, **{**_OPTIONS, "ignore_result": True})
def stop_batch(self: _TASK, failed_id: str, batch: str) -> None:
    """Cancel a `fail_fast` batch at its first failure: the errback of its members."""
    ledger = runtime_of(self.app).ledger
    record = load(ledger, batch)
    first = stopped_by(ledger, record, failed_id)
    if first == failed_id:
        cancel_members(ledger, record)
        logger.info("Batch %s stopped: its task %s failed", record.id, failed_id)


def judged(record: Record, app: Celery, results: Sequence[Any] | None = None) -> BatchResult:
    """What became of a batch, by the results of its prompts, or as the result backend has them.

    A task that the backend knows nothing of has an unknown outcome. Raises `BatchFailed` when more prompts
    have no answer than `on_error` tolerates.
    """
    task_ids = record.task_ids()
    if results is None:
        found = dict(look.ready_metas(app.backend, task_ids))
        metas = [found.get(task_id) for task_id in task_ids]
    else:
        metas = [{"status": states.SUCCESS, "result": result} for result in results]
    result = BatchResult(
        record.id,
        tuple(
            BatchItem.of(record.item_id(index), task_id, meta)
            for index, (task_id, meta) in enumerate(zip(task_ids, metas, strict=True))
        ),
    )
    missing = record.size - len(result.completed)
    if isinstance(record.on_error, float) and missing > record.on_error * record.size:
        raise BatchFailed.because(
            f"{missing} of {record.size} prompts of batch {record.id} have no answer: more than the "
            f"share of {record.on_error:g} it tolerates. Those there are can be read from its handle.",
            batch_id=record.id,
            counts=result.counts,
            usage=result.usage,
        )
    return result


def cancel_members(ledger: Ledger, record: Record) -> int:
    """Cancel all prompts that have not ended, here and at the API; how many had been begun."""
    return sum(ledger.cancel(task_id) is not None for task_id in record.task_ids())


def _pass_over_when_done(task: _TASK) -> None:
    """End a second message of what a worker has carried out, and died before it could say so.

    Its callback has been published, which `celery.app.trace` (5.7) does before it stores the result.
    """
    if not task.request.is_eager and task.backend.get_state(str(task.request.id)) == states.SUCCESS:
        raise Ignore


def _are_in_order(app: Celery) -> bool:
    options = app.conf.result_backend_transport_options or {}
    return bool(options.get("result_chord_ordered", True))
