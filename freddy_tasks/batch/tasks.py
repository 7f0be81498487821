"""The three tasks around a batch: its chord's body, and what stands in when a chord has no body."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery, Task, shared_task, states
from celery.exceptions import Ignore
from redis.exceptions import RedisError

from freddy_tasks import tasks as response_tasks
from freddy_tasks.errors import BatchFailed
from freddy_tasks.ledger import Ledger
from freddy_tasks.runtime import access_of
from freddy_tasks.worker import HopRequest

from . import look
from .record import FAIL_FAST, Record, load, stopped_by
from .register import Register
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


def _after_return(
    self: _TASK, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
) -> None:
    """Celery has stored how a batch ended; what stands in for a body that failed has yet to run."""
    if not self.request.is_eager and (status == states.SUCCESS or self.name == SALVAGE_BATCH):
        try:
            Register(self.app, access_of(self.app).ledger).strike(args[-1])
        except RedisError as error:  # a watch does so at its next look
            logger.warning("State server away; batch %s stays open: %s", args[-1], type(error).__name__)
    self.app.Task.after_return(self, status, retval, task_id, args, kwargs, einfo)


@shared_task(name=COLLECT_BATCH, after_return=_after_return, **_OPTIONS)
def collect_batch(
    self: _TASK, results: Sequence[Any] | None, batch: str | Mapping[str, Any]
) -> dict[str, Any]:
    """The body of a batch's chord: the JSON of a `BatchResult`, made of the results of its prompts.

    `results` None: they are looked up, as the message that brought them was lost. Raises `BatchFailed` when
    more prompts have no answer than `on_error` tolerates.
    """
    _pass_over_when_done(self)
    # In eager mode there is no state server to keep the record: it comes with the call.
    kept = (
        Record.from_message(batch) if isinstance(batch, Mapping) else load(access_of(self.app).ledger, batch)
    )
    return judged(kept, self.app, results if _are_in_order(self.app) else None).to_result()


@shared_task(name=SALVAGE_BATCH, after_return=_after_return, **_OPTIONS)
def salvage_batch(self: _TASK, failed_id: str, batch: str) -> dict[str, Any]:
    """What `collect_batch` makes, where Celery calls no body: a member was revoked, or failed by itself.

    It is the errback of the body, which Celery calls once, after the last member has ended.
    """
    del failed_id
    _pass_over_when_done(self)
    return judged(load(access_of(self.app).ledger, batch), self.app).to_result()


@shared_task(name=STOP_BATCH, **{**_OPTIONS, "ignore_result": True})
def stop_batch(self: _TASK, failed_id: str, batch: str) -> None:
    """Cancel a `fail_fast` batch at its first failure: the errback of its members."""
    ledger = access_of(self.app).ledger
    stop(ledger, load(ledger, batch), failed_id)


def stop(ledger: Ledger, record: Record, failed_id: str) -> None:
    """Cancel all prompts of a batch, if this failure is its first."""
    if stopped_by(ledger, record, failed_id) == failed_id:
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
    # The body of a "fail_fast" one only runs with failures when it is published again.
    share = 0.0 if record.on_error == FAIL_FAST else record.on_error
    if isinstance(share, float) and missing > share * record.size:
        raise BatchFailed.because(
            f"{missing} of {record.size} prompts of batch {record.id} have no answer: more than the "
            f"share of {share:g} it tolerates. Those there are can be read from its handle.",
            batch_id=record.id,
            counts=result.counts,
            usage=result.usage,
        )
    return result


def cancel_members(ledger: Ledger, record: Record, *, even_unseen: bool = True) -> int:
    """Cancel all prompts that have not ended, here and at the API; how many that were on record.

    With `even_unseen` those that have yet to come as well: only where some may still be published.
    """
    cancelled = (ledger.cancel(task_id, even_unseen=even_unseen) for task_id in record.task_ids())
    return sum(phase is not None for phase in cancelled)


def _pass_over_when_done(task: _TASK) -> None:
    """End a second message of what a worker has carried out, and died before it could say so.

    Its callback has been published, which `celery.app.trace` (5.7) does before it stores the result.
    """
    if not task.request.is_eager and task.backend.get_state(str(task.request.id)) == states.SUCCESS:
        raise Ignore


def _are_in_order(app: Celery) -> bool:
    options = app.conf.result_backend_transport_options or {}
    return bool(options.get("result_chord_ordered", True))
