"""`freddy-tasks reconcile`: settle prompts of which nobody knows whether they were submitted."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
from celery import Celery

from freddy_tasks.ledger import Ledger
from freddy_tasks.records import Phase, Record

from .apps import app_option, load_app, runtime_for
from .exits import DONE, FAILED
from .suspended import age, choose, revive, unknown_outcomes


@click.command(
    epilog="Exit status: 0 done, or nothing to do; 1 an id given is not in the list; 2 arguments, settings "
    "or servers are not right."
)
@click.argument("task_ids", metavar="[TASK_ID]...", nargs=-1)
@app_option
@click.option("--list", "listing", is_flag=True, help="Only list them; the default.")
@click.option(
    "--resubmit", is_flag=True, help="Submit them again: if the first submit did arrive, you pay for both."
)
@click.option("--give-up", is_flag=True, help="Forget them; each keeps its OutcomeUnknown as its end.")
@click.option("--all", "all_", is_flag=True, help="All that are listed, in place of task ids.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Longest wait for a resubmitted one, in seconds; default: FREDDY_TIMEOUT.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each that is listed.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    task_ids: tuple[str, ...],
    app_name: str | None,
    listing: bool,
    resubmit: bool,
    give_up: bool,
    all_: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """List the tasks that ended as OutcomeUnknown, and settle them as you say.

    Their prompts were sent, and no reply came: the API may be working on them, and has no way to ask. Their
    task ids stay: a resubmitted one ends anew, with its callbacks, but outside the chord it was in.

    \b
    freddy-tasks reconcile
    freddy-tasks reconcile --resubmit 2a1f9c1e-6d0c-4a5c-9a53-0b7d4a6f7c11
    freddy-tasks reconcile --give-up --all
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    if listing + resubmit + give_up > 1:
        raise click.UsageError("Say one of --list, --resubmit and --give-up.")
    app = load_app(app_name)
    runtime = runtime_for(app)
    unknown = unknown_outcomes(runtime.ledger)
    if not (resubmit or give_up):
        if task_ids or all_:
            raise click.UsageError("Say what shall become of them: --resubmit or --give-up.")
        _list(unknown, runtime.ledger, as_json)
        ctx.exit(DONE)
    chosen = choose(unknown, task_ids, all_)
    if resubmit:
        done = [_resubmit(app, runtime.ledger, each, timeout or runtime.settings.timeout) for each in chosen]
    else:
        done = [_give_up(runtime.ledger, each) for each in chosen]
    ctx.exit(DONE if all(done) and len(chosen) >= len(set(task_ids)) else FAILED)


def _list(records: Sequence[Record], ledger: Ledger, as_json: bool) -> None:
    now = float(ledger.redis.time()[0])
    for record in records:
        label = record.job.label if record.job else ""
        if as_json:
            facts = {"task_id": record.task_id, "suspended_at": record.suspended_at, "label": label}
            click.echo(json.dumps(facts, ensure_ascii=False))
        else:
            click.echo(f"{record.task_id}  {age(record, now):>12}  {label or '-'}")
    if not records:
        click.echo("Nothing to reconcile.", err=True)


def _resubmit(app: Celery, ledger: Ledger, record: Record, timeout: float) -> bool:
    done = revive(app, ledger, record.task_id, Phase.QUEUED, timeout)
    click.echo(f"{record.task_id}  {'is submitted again' if done else 'was settled meanwhile'}")
    return done


def _give_up(ledger: Ledger, record: Record) -> bool:
    done = ledger.cancel(record.task_id, even_unseen=False) is not None
    click.echo(f"{record.task_id}  {'given up' if done else 'was settled meanwhile'}")
    return done
