"""`freddy-tasks batch`: a file of prompts in, a file of answers out, however often it is killed."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from freddy_tasks.batch import Outcome, plan
from freddy_tasks.batch.checkpoint import Checkpoint, manifest_of
from freddy_tasks.batch.handle import LANE
from freddy_tasks.batch.source import FORMATS, PROMPT, SUFFIXES, Checked, Format, GoodItems, Source, check
from freddy_tasks.budget import Budget
from freddy_tasks.calls import check_call
from freddy_tasks.errors import InvalidRequest
from freddy_tasks.models import Lane

from .apps import app_option, settings
from .batch_display import duration
from .batch_run import BatchRun, emulates
from .exits import DONE, FAILED
from .interruption import Interruption
from .values import expected, field


@click.command(
    epilog="Exit status: 0 every prompt has an answer; 1 some have none; 2 lines, arguments, settings or "
    "servers are not right; 130 stopped by Ctrl-C, 143 by SIGTERM: the same command goes on."
)
@click.argument("prompts", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File for the answers.",
)
@app_option
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the suffix, else jsonl.")
@click.option("--column", default=PROMPT, show_default=True, help="Column or key of the prompt.")
@click.option("--model", help="Model; default: FREDDY_MODEL.")
@click.option("--label", help="Name of a kind of prompts that take about as long as each other.")
@click.option(
    "--expected", type=expected, metavar="SECONDS|short|medium|long", help="How long an answer takes."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Longest wait for one answer, in seconds; default: FREDDY_TIMEOUT.",
)
@click.option(
    "--lane",
    type=click.Choice([lane.value for lane in Lane]),
    default=LANE,
    show_default=True,
    help="Who goes first when the plan's requests are short.",
)
@click.option(
    "--field", "fields", type=field, metavar="NAME=JSON", multiple=True, help="A further field for the API."
)
@click.option("--queue", help="Celery's queue for the prompts; default: where the app routes them.")
@click.option(
    "--in-flight", type=click.IntRange(1), default=2_000, show_default=True, help="Prompts at a time."
)
@click.option(
    "--limit", type=click.IntRange(1), help="Only the first so many prompts; more can follow later."
)
@click.option("--skip-bad-lines", is_flag=True, help="Go on without lines that cannot be sent.")
@click.option("--retry-failed", is_flag=True, help="Send those again that failed or were cancelled.")
@click.option("--retry-unknown", is_flag=True, help="Send those again that may have been paid for.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and send nothing.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    prompts: Path,
    output: Path,
    app_name: str | None,
    form: Format | None,
    column: str,
    lane: str,
    fields: tuple[tuple[str, Any], ...],
    queue: str | None,
    in_flight: int,
    limit: int | None,
    skip_bad_lines: bool,
    retry_failed: bool,
    retry_unknown: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Answer a file of prompts: JSON lines, CSV or text; `-` is stdin.

    A line of PROMPTS is a text, a list of messages, or an object with `prompt`, perhaps `id`, and any field
    for the API. A line of the output, in the order of the prompts, has `id` and `outcome` (completed, failed,
    cancelled, unknown), and `output_text` and `usage`, or `error`.

    Kill it, the workers or the machine: the same command goes on, sends nothing twice, and ends with the same
    output. What it knows is in the two files OUTPUT.manifest and OUTPUT.journal.

    Without CELERY_BROKER_URL and -A, a private Valkey server and a worker are started for the time being;
    and where FREDDY_API_KEY is not set either, an emulator in place of the API.

    \b
    freddy-tasks batch prompts.jsonl -o answers.jsonl
    freddy-tasks batch products.csv --column description -o answers.jsonl --expected short
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    common = {**dict(fields), **{name: value for name, value in options.items() if value is not None}}
    check_call("a prompt", **common)  # what is wrong with all lines is no line's fault
    told = {**common, "emulated": emulates(app_name)}  # made-up answers and real ones do not mix
    again = {
        *([Outcome.FAILED, Outcome.CANCELLED] if retry_failed else []),
        *([Outcome.UNKNOWN] if retry_unknown else []),
    }
    with ExitStack() as opened:
        interruption = opened.enter_context(Interruption())
        try:
            file = opened.enter_context(_file_of(prompts, interruption))
            with interruption.at_once():  # a named pipe may never end, too
                source = Source(file, _format(prompts, form), column)
                items = GoodItems(source, lambda item: check_call(item.prompt, **{**common, **item.options}))
                checked = _checked(items, told, skip_bad_lines)
        except KeyboardInterrupt:
            ctx.exit(interruption.exit_status)
        end = min(limit or checked.total, checked.total)
        if dry_run and not manifest_of(output).exists():
            _tell(end)
            return
        checkpoint = opened.enter_context(Checkpoint(output, checked.fingerprint, checked.total))
        if dry_run:
            _tell(checkpoint.open_below(end, again))
            return
        checkpoint.send_again(again, end)
        run = BatchRun(checkpoint, items, {"lane": lane, **common}, end, in_flight, queue, interruption)
        try:
            run.answer(app_name)
        finally:
            checkpoint.write_output()
    _sum_up(checkpoint, end, in_words=not interruption.count)
    if interruption.count:
        ctx.exit(interruption.exit_status)
    ctx.exit(DONE if checkpoint.counts(end)[Outcome.COMPLETED] == end else FAILED)


@contextmanager
def _file_of(prompts: Path, interruption: Interruption) -> Iterator[Path]:
    """The file itself; what comes by stdin is put into one, as it is read more than once."""
    if str(prompts) != "-":
        yield prompts
        return
    with tempfile.NamedTemporaryFile(prefix="freddy_tasks-") as file:
        with interruption.at_once():  # a pipe may never end
            shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)


def _format(prompts: Path, form: Format | None) -> Format:
    return form or SUFFIXES.get(prompts.suffix, "jsonl")


def _checked(items: GoodItems, told: Mapping[str, Any], skip_bad_lines: bool) -> Checked:
    checked = check(items, told)
    for line in checked.bad:
        click.echo(f"line {line.number}: {line.reason}", err=True)
    if checked.bad_count > len(checked.bad):
        click.echo(f"… and {checked.bad_count - len(checked.bad)} more", err=True)
    if checked.bad_count and not skip_bad_lines:
        raise InvalidRequest(
            f"{checked.bad_count} of {checked.bad_count + checked.total} lines are bad. Nothing was sent: "
            "correct them, or leave them out with --skip-bad-lines."
        )
    return checked


def _tell(count: int) -> None:
    chosen = settings()
    room = plan.untouched(Budget.of("", *chosen.limits))
    minute, day, _ = chosen.limits
    click.echo(f"{count} prompts to send.")
    click.echo(f"Requests: {2 * count} at the least, a submit and a poll each.")
    click.echo(f"Plan: {minute or 'any number of'} a minute, {day or 'any number'} a day.")
    if room.is_limited:
        click.echo(f"Time: {duration(room.seconds_for(2 * count))} at the least, by the plan.")


def _sum_up(checkpoint: Checkpoint, end: int, in_words: bool) -> None:
    counts = checkpoint.counts(end)
    said = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    nothing = "no answer yet" if end else "no prompt"
    click.echo(f"{said or nothing} of {end}: {checkpoint.output}", err=True)
    if checkpoint.open_below(end):
        click.echo("The same command goes on where this one stopped.", err=True)
    elif in_words and counts[Outcome.FAILED] + counts[Outcome.CANCELLED]:
        click.echo("--retry-failed sends those without an answer again.", err=True)
