"""`freddy-tasks resume`: go on with responses that the API accepted and we stopped asking for."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from freddy_tasks.ledger import Ledger
from freddy_tasks.records import Phase, Record

from .apps import app_option, load_app, runtime_for
from .exits import DONE, FAILED
from .suspended import age, choose, forgotten, note_id, rebuild, resumables, revive


@click.command(
    epilog="Exit status: 0 done, or nothing to do; 1 an id given is not in the list; 2 arguments, settings "
    "or servers are not right."
)
@click.argument("task_ids", metavar="[TASK_ID]...", nargs=-1)
@app_option
@click.option("--all", "all_", is_flag=True, help="All that are listed, in place of task ids.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Longest wait from now, in seconds; default: FREDDY_TIMEOUT.",
)
@click.option(
    "--response-id",
    metavar="ID",
    help="Id of the response of one task, from a worker's log, where nothing else has it.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each that is listed.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    task_ids: tuple[str, ...],
    app_name: str | None,
    all_: bool,
    timeout: float | None,
    response_id: str | None,
    as_json: bool,
) -> None:
    """Go on asking for accepted responses, for instance with a new key; without a task id, list them.

    A key that was refused, a spending cap, or an API that was away until the deadline ends a task while its
    response may still end well. Nothing is submitted again. The task ids stay: each ends anew, with its
    callbacks, but outside the chord it was in. To stop such a response for good: freddy-tasks cancel.

    A task id may also be one whose record the state server has lost, as long as the result backend shows the
    id of its response, or you do: each worker logs it. It ends anew, or at last; its callbacks and its chord
    were on that record.

    \b
    freddy-tasks resume
    freddy-tasks resume 2a1f9c1e-6d0c-4a5c-9a53-0b7d4a6f7c11
    freddy-tasks resume 2a1f9c1e-6d0c-4a5c-9a53-0b7d4a6f7c11 --response-id resp_3f1
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    if response_id and len(task_ids) != 1:
        raise click.UsageError("A response belongs to one task: give its id.")
    app = load_app(app_name)
    runtime = runtime_for(app)
    if response_id:
        note_id(runtime.ledger, task_ids[0], response_id)
    found = resumables(runtime.ledger)
    if not task_ids and not all_:
        _list(found, runtime.ledger, as_json)
        ctx.exit(DONE)
    lost = forgotten(app, runtime.ledger, task_ids, response_id)
    chosen = choose([*found, *lost], task_ids, all_)
    timeout = timeout or runtime.settings.timeout
    done = [
        rebuild(app, runtime.ledger, each, timeout)
        if each in lost
        else revive(app, runtime.ledger, each.task_id, Phase.WAITING, timeout)
        for each in chosen
    ]
    for record, taken_up in zip(chosen, done, strict=True):
        click.echo(f"{record.task_id}  {'goes on' if taken_up else 'was settled meanwhile'}")
    ctx.exit(DONE if all(done) and len(chosen) >= len(set(task_ids)) else FAILED)


def _list(records: Sequence[Record], ledger: Ledger, as_json: bool) -> None:
    now = float(ledger.redis.time()[0])
    for record in records:
        response_id, label = (record.job.response_id, record.job.label) if record.job else ("", "")
        if as_json:
            facts = {
                "task_id": record.task_id,
                "response_id": response_id,
                "suspended_at": record.suspended_at,
                "label": label,
            }
            click.echo(json.dumps(facts, ensure_ascii=False))
        else:
            click.echo(f"{record.task_id}  {age(record, now):>12}  {response_id}  {label or '-'}")
    if not records:
        click.echo("Nothing to resume.", err=True)
