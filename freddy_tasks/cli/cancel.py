"""`freddy-tasks cancel`: stop responses, here and at the API."""

from __future__ import annotations

import time

import click

from freddy_tasks.ledger import Ledger

from .apps import app_option, load_app, runtime_for
from .exits import DONE, FAILED
from .watch import is_settled

LOOK_EVERY = 0.1  # seconds


@click.command(
    epilog="Exit status: 0 nothing runs any more; 1 the API had not settled it within --wait, and the "
    "workers go on; 2 settings or servers are not right."
)
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, required=True)
@app_option
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the API to settle it; 0: leave it to the workers.",
)
@click.pass_context
def command(ctx: click.Context, /, task_ids: tuple[str, ...], app_name: str | None, wait: float) -> None:
    """Cancel the responses of tasks, here and at the API; there is no refund for work already done.

    The wish is kept in Redis, and the workers call the API until it has settled it.

    \b
    freddy-tasks cancel 2a1f9c1e-6d0c-4a5c-9a53-0b7d4a6f7c11
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    ledger = runtime_for(load_app(app_name)).ledger
    known = {task_id: ledger.record(task_id) is not None for task_id in task_ids}
    wished = [task_id for task_id in dict.fromkeys(task_ids) if ledger.cancel(task_id) is not None]
    settled = _wait(ledger, wished, wait)
    for task_id in dict.fromkeys(task_ids):
        click.echo(f"{task_id}  {_became(known[task_id], task_id in wished, task_id in settled)}")
    if len(settled) < len(wished) and not ledger.dispatchers():
        click.echo("No worker is running: one must, for the API to be told.", err=True)
    ctx.exit(DONE if len(settled) == len(wished) else FAILED)


def _wait(ledger: Ledger, task_ids: list[str], seconds: float) -> set[str]:
    until = time.monotonic() + seconds
    settled: set[str] = set()
    while True:
        settled |= {task_id for task_id in task_ids if task_id not in settled and is_settled(ledger, task_id)}
        if len(settled) == len(task_ids) or time.monotonic() >= until:
            return settled
        time.sleep(LOOK_EVERY)


def _became(known: bool, wished: bool, settled: bool) -> str:
    if settled:
        return "cancelled"
    if wished:
        return "is being cancelled"
    return "had ended already" if known else "was not known yet: it will not be submitted if it arrives"
