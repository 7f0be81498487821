"""Responses that wait for a person's decision, and how they are taken up again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click
from celery import Celery, states

from freddy_tasks.continuation import SUBMIT
from freddy_tasks.errors import LedgerLost, from_result
from freddy_tasks.ledger import Ledger
from freddy_tasks.models import Job
from freddy_tasks.records import Phase, Record

LOCK_TIMEOUT = 30.0  # seconds


def unknown_outcomes(ledger: Ledger) -> list[Record]:
    """Those that may or may not have been submitted, oldest first."""
    return [record for record in ledger.suspended() if not _response_id(record)]


def resumables(ledger: Ledger) -> list[Record]:
    """Those that were accepted by the API and can be asked for again, oldest first."""
    return [record for record in ledger.suspended() if _response_id(record)]


def note_id(ledger: Ledger, task_id: str, response_id: str) -> None:
    """Put an id that only a log has on the record of a prompt that may or may not have been accepted."""
    record = ledger.record(task_id)
    if record and record.phase is Phase.SUSPENDED and record.job and not record.job.response_id:
        now = float(ledger.redis.time()[0])
        job = replace(record.job, response_id=response_id, submitted_at=record.job.submitted_at or now)
        ledger.accept(task_id, job, 0.0)


def forgotten(
    app: Celery, ledger: Ledger, task_ids: Iterable[str], response_id: str | None = None
) -> list[Record]:
    """Those of the tasks that the ledger has lost, and whose response id the result backend still shows.

    With a `response_id` it need not. A task that has another outcome than `LedgerLost` is not lost.
    """
    given = {"response_id": response_id} if response_id else {}
    unknown = (task_id for task_id in dict.fromkeys(task_ids) if ledger.record(task_id) is None)
    shown = ((task_id, shown_facts(*_meta(app, task_id))) for task_id in unknown)
    known = ((task_id, {**facts, **given}) for task_id, facts in shown if facts is not None)
    return [_recalled(ledger, task_id, facts) for task_id, facts in known if facts.get("response_id")]


def shown_facts(state: str, result: Any) -> Mapping[str, Any] | None:
    """What the result backend tells of a response without an outcome, or with none but that it is lost.

    None when it has another one.
    """
    error = from_result(result) if isinstance(result, Mapping) else result
    if isinstance(error, LedgerLost):
        return error.info
    if state in states.READY_STATES:
        return None
    return result if isinstance(result, Mapping) else {}


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
        state, outcome = _meta(app, task_id)
        _forget(app, task_id)
        if ledger.revive(task_id, phase, timeout):
            return True
        if state in states.READY_STATES:  # somebody cancelled it meanwhile: it keeps the end it had
            app.backend.store_result(task_id, outcome, state)
        return False


def rebuild(app: Celery, ledger: Ledger, record: Record, timeout: float) -> bool:
    """Take up a response that the ledger has lost under its own task id; False when it has a record by now.

    Its callbacks, and its place in a chord, were on the record that is lost.
    """
    queue = app.amqp.router.route({}, SUBMIT).get("queue")
    options = {
        "shadow": SUBMIT,
        "ignore_result": False,
        "exchange": "",
        "routing_key": getattr(queue, "name", queue),
    }
    with ledger.redis.lock(f"{ledger.prefix}:reviving:{record.task_id}", timeout=LOCK_TIMEOUT):
        if record.job is None or ledger.record(record.task_id) is not None:
            return False
        # It may show a failure, which a worker would take for the last word; and nobody else has the id.
        _forget(app, record.task_id)
        app.backend.store_result(record.task_id, {"response_id": record.job.response_id}, "QUEUED")
        return ledger.rebuild(record.task_id, record.job, options=options, timeout=timeout)


def _meta(app: Celery, task_id: str) -> tuple[str, Any]:
    try:
        return app.backend.get_state(task_id), app.backend.get_result(task_id)
    except NotImplementedError:  # an app without a result backend
        return states.PENDING, None


def _forget(app: Celery, task_id: str) -> None:
    with contextlib.suppress(NotImplementedError):  # an app without a result backend: there is nothing
        app.backend.forget(task_id)


def _recalled(ledger: Ledger, task_id: str, facts: Mapping[str, Any]) -> Record:
    job = Job(
        deadline=0.0,
        model="",
        submitted_at=float(ledger.redis.time()[0]),  # as far as looks go: the next ones come soon
        response_id=str(facts["response_id"]),
        polls=int(facts.get("polls") or 0),
    )
    return Record(task_id, Phase.WAITING, 0, job, None)


def _response_id(record: Record) -> str:
    return record.job.response_id if record.job else ""
