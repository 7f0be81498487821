"""`freddy-tasks status`: where a response stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click
from celery import Celery, states

from freddy_tasks.errors import FreddyError, from_result
from freddy_tasks.ledger import Ledger
from freddy_tasks.records import Phase, Record

from .apps import app_option, load_app, runtime_for
from .exits import DONE, FAILED
from .suspended import shown_facts

MEANING = {
    Phase.QUEUED: "waits to be submitted",
    Phase.SENT: "is being submitted",
    Phase.WAITING: "was accepted; waits for its answer",
    Phase.SETTLED: "has an outcome, which Celery is storing",
    Phase.CANCELLING: "is being cancelled at the API",
    Phase.SUSPENDED: "waits for your decision: see `freddy-tasks resume` and `freddy-tasks reconcile`",
    Phase.CLOSED: "has ended",
    Phase.CANCELLED: "was cancelled before it was submitted",
}
LOST = "is not on record any more: `freddy-tasks resume` goes on where its response_id is known"
UNKNOWN = "is not known: its message has not reached a worker yet, its record has expired, or the id is wrong"


@click.command(epilog="Exit status: 0 the id is known; 1 it is not; 2 settings or servers are not right.")
@click.argument("task_id")
@app_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object; moments are Unix seconds.")
@click.pass_context
def command(ctx: click.Context, /, task_id: str, app_name: str | None, as_json: bool) -> None:
    """Tell where the response of a task stands. No request is made for it.

    \b
    freddy-tasks status 2a1f9c1e-6d0c-4a5c-9a53-0b7d4a6f7c11 --json
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    app = load_app(app_name)
    facts = facts_of(app, runtime_for(app).ledger, task_id)
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        for name, fact in facts.items():
            click.echo(f"{name.replace('_', ' '):<13} {_shown(name, fact)}")
    known = facts["phase"] is not None or facts["state"] != states.PENDING
    ctx.exit(DONE if known else FAILED)


def facts_of(app: Celery, ledger: Ledger, task_id: str) -> dict[str, Any]:
    """What is known of a task, by name."""
    meta = app.backend.get_task_meta(task_id)
    record = ledger.record(task_id)  # after: one that begins now has its record first
    state, result = meta["status"], meta.get("result")
    phase = record.phase if record else None
    lost = (None if record else shown_facts(state, result)) or {}
    facts = {
        "task_id": task_id,
        "state": state,
        "phase": phase,
        "meaning": LOST if lost else _meaning(state, phase),
        **{name: lost.get(name) for name in ("response_id", "polls", "progress", "deadline")},
        **_of_record(record),
        **_of_outcome(result if state in states.READY_STATES else None),
    }
    return {name: fact for name, fact in facts.items() if fact is not None or name == "phase"}


def _meaning(state: str, phase: Phase | None) -> str:
    if phase is not None:
        return MEANING[phase]
    return MEANING[Phase.CLOSED] if state in states.READY_STATES else UNKNOWN


def _of_record(record: Record | None) -> dict[str, Any]:
    if record is None or record.job is None:
        return {}
    job = record.job
    ended = record.phase in {Phase.CLOSED, Phase.CANCELLED, Phase.SUSPENDED}
    return {
        "response_id": job.response_id or None,
        "status": job.status,
        "model": job.model or None,
        "label": job.label or None,
        "polls": job.polls,
        "failures": job.failures or None,
        "progress": None if ended else job.progress,
        "submitted_at": job.submitted_at or None,
        "next_look_at": None if ended else record.due,
        "deadline": None if ended else job.deadline,
    }


def _of_outcome(outcome: Any) -> dict[str, Any]:
    error = from_result(outcome) if isinstance(outcome, Mapping) else outcome
    if isinstance(error, FreddyError):
        return {**error.info, "error": {"type": type(error).__name__, "message": error.message}}
    if isinstance(error, BaseException):
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    if not isinstance(outcome, Mapping):
        return {}
    return {"response_id": outcome.get("id"), "status": outcome.get("status"), "polls": outcome.get("polls")}


def _shown(name: str, fact: Any) -> str:
    if name == "error":
        return f"{fact['type']}: {fact['message']}"
    if name.endswith("_at") or name == "deadline":
        return datetime.fromtimestamp(fact, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
    if name == "progress":
        return f"{fact:.0%}"
    return "-" if fact is None else str(fact)
