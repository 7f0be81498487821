"""What is done in place of a message that the broker has lost."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.canvas import maybe_signature

from freddy_tasks.continuation import SUBMIT, context_of
from freddy_tasks.errors import MessageLost
from freddy_tasks.ledger import Ledger
from freddy_tasks.records import Phase

from .look import Standing
from .record import FAIL_FAST, Record
from .register import Entry
from .tasks import SALVAGE_BATCH, stop


def end_prompt(app: Celery, ledger: Ledger, record: Record, entry: Entry, index: int, seen: Standing) -> None:
    """Give a prompt that no message can bring on an outcome, and count it for its chord.

    `seen` is where the ledger had it; one that was begun or cancelled since is left alone.
    """
    task_id = record.task_id(index)
    if seen.phase is None and not ledger.fence(task_id):
        return
    context = context_of(
        task_id, {"group_id": record.group_id, "group_index": index, "chord": dict(entry.body)}
    )
    backend: Any = app.tasks[SUBMIT].backend
    error = MessageLost(
        "Its message was lost by the broker before a worker began it: nothing was sent, and nothing is "
        "billed. Submit it again; of a batch `retry_failed()` does."
    )
    if seen.phase is Phase.CANCELLED and not seen.lost:
        backend.mark_as_revoked(task_id, "cancelled", request=context)
    elif record.on_error == FAIL_FAST:
        backend.mark_as_failure(task_id, error, request=context)
        stop(ledger, record, task_id)
    else:
        backend.mark_as_done(task_id, error.to_result(), context)


def publish_end(app: Celery, record: Record, entry: Entry, task_id: str) -> None:
    """Publish again what ends a batch, under the task id it had: the body of its chord, or its stand-in.

    The results are not in this message: it finds them where they are kept.
    """
    body: Any = maybe_signature(dict(entry.body), app=app)
    if task_id == record.body_id:
        body.apply_async((None,))
        return
    for errback in body.options.get("link_error") or ():
        signature: Any = maybe_signature(errback, app=app)
        if signature.task == SALVAGE_BATCH:
            signature.apply_async((record.body_id,))
