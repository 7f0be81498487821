"""Responses that wait for a person's decision, and how they are taken up again."""

from __future__ import annotations

from collections.abc import Sequence

import click
from celery import Celery

from freddy_tasks.ledger import Ledger, Phase, Record

LOCK_TIMEOUT = 30.0  # seconds


def unknown_outcomes(ledger: Ledger) -> list[Record]:
    """Those that may or may not have been submitted, oldest first."""
    return [record for record in ledger.suspended() if not _response_id(record)]


def resumables(ledger: Ledger) -> list[Record]:
    """Those that were accepted by the API and can be asked for again, oldest first."""
    return [record for record in ledger.suspended() if _response_id(record)]


def choose(records: Sequence[Record], task_ids: Sequence[str], all_: bool) -> list[Record]:
    """Those of the records that were asked for; a word on stderr about each id that is not among them."""
    if bool(task_ids) is all_:
        raise click.UsageError("Give task ids, or --all.")
    known = {record.task_id: record for record in records}
    for task_id in task_ids:
        if task_id not in known:
            click.echo(f"{task_id}  is not in the list: see `freddy-tasks status {task_id}`.", err=True)
    return [record for record in records if all_ or record.task_id in task_ids]


def age(record: Record, now: float) -> str:
    """How long ago it was suspended, for people."""
    seconds = max(0.0, now - (record.suspended_at or now))
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return f"{seconds:.0f} seconds"


def revive(app: Celery, ledger: Ledger, task_id: str, phase: Phase, timeout: float) -> bool:
    """Take up a suspended response again under its own task id; False when it is not suspended.

    The result backend holds its failure, which goes first: Celery never overwrites a success, which it is
    with `return_exceptions`, and the worker takes any outcome there for the task's last.
    """
    # Of two that revive one task, the later must not delete the outcome that the earlier one brought.
    with ledger.redis.lock(f"{ledger.prefix}:reviving:{task_id}", timeout=LOCK_TIMEOUT):
        record = ledger.record(task_id)
        if record is None or record.phase is not Phase.SUSPENDED:
            return False
        app.backend.forget(task_id)
        return ledger.revive(task_id, phase, timeout)


def _response_id(record: Record) -> str:
    return record.job.response_id if record.job else ""
