"""`freddy-tasks run`: prompts in, answers out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from freddy_tasks.errors import ConfigurationError, FreddyError
from freddy_tasks.wire import check_request

from .apps import app_option, has_broker, load_app, settings
from .exits import DONE, FAILED
from .flight import Flight
from .interruption import Interruption
from .local import LocalStack
from .values import expected, field
from .watch import Sight


@click.command(
    epilog="Exit status: 0 all answered; 1 some failed; 2 arguments, settings or servers are not right; "
    "130 stopped by Ctrl-C, 143 by SIGTERM."
)
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@app_option
@click.option("--model", help="Model; default: FREDDY_MODEL.")
@click.option("--label", help="Name of a kind of prompts that take about as long as each other.")
@click.option(
    "--expected",
    type=expected,
    metavar="SECONDS|short|medium|long",
    help="How long an answer will take.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Longest wait for the whole, in seconds; default: FREDDY_TIMEOUT.",
)
@click.option(
    "--field",
    "fields",
    type=field,
    metavar="NAME=JSON",
    multiple=True,
    help="A further field for the API; repeatable; text that is no JSON is taken as it is.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a prompt on stdout, nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    prompts: tuple[str, ...],
    app_name: str | None,
    as_json: bool,
    fields: tuple[tuple[str, Any], ...],
    **options: Any,
) -> None:
    """Submit prompts, show how they stand, print their answers in order. `-` reads one from stdin.

    Ctrl-C cancels at the API, too.

    Without CELERY_BROKER_URL and -A, a private Valkey server and a worker are started for the time being;
    and where FREDDY_API_KEY is not set either, an emulator in place of the API.

    \b
    freddy-tasks run "Write a detailed article about AI"
    freddy-tasks run --json --expected short --field temperature=0.2 "One?" "Two?"
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    texts = [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts]
    kwargs = {**dict(fields), **{name: value for name, value in options.items() if value is not None}}
    for text in texts:
        check_request(text, dict(fields))  # all of them, before the first is paid for
    with Interruption() as interruption, ExitStack() as opened:
        local = None if has_broker(app_name) else opened.enter_context(_local_stack())
        sights = Flight(load_app(app_name), local, interruption).answer(texts, kwargs)
        for sight in sights:
            if as_json:
                click.echo(json.dumps(_as_json(sight), ensure_ascii=False))
            else:
                _print(sight, len(sights))
    if interruption.count:
        ctx.exit(interruption.exit_status)
    ctx.exit(DONE if all(sight.answer is not None for sight in sights) else FAILED)


@contextmanager
def _local_stack() -> Iterator[LocalStack]:
    settings()
    emulate = not os.environ.get("FREDDY_API_KEY")
    if emulate and os.environ.get("FREDDY_BASE_URL"):
        raise ConfigurationError("FREDDY_BASE_URL is set and FREDDY_API_KEY is not: set its key, too.")
    with LocalStack(emulate=emulate) as stack:
        os.environ.update(stack.environment)
        yield stack


def _as_json(sight: Sight) -> dict[str, Any]:
    named: dict[str, Any] = {"task_id": sight.task_id}
    if sight.answer is not None:
        return {**named, **sight.answer}
    if isinstance(sight.error, FreddyError):
        return {**named, **sight.error.to_result()}
    if _is_cancelled(sight):
        return {**named, "id": sight.facts.get("response_id"), "status": "cancelled"}
    return {**named, "status": "failed", "error": {"type": _kind(sight), "message": str(sight.error)}}


def _print(sight: Sight, of: int) -> None:
    if sight.answer is not None:
        if of > 1:
            click.echo(f"--- {sight.number}/{of}")
        click.echo(plain(str(sight.answer.get("output_text") or "")))
    else:
        text = "cancelled" if _is_cancelled(sight) else f"{_kind(sight)}: {sight.error}"
        click.echo(f"freddy-tasks: prompt {sight.number}: {text}", err=True)


def _is_cancelled(sight: Sight) -> bool:
    return sight.cancelled or not sight.ready


def _kind(sight: Sight) -> str:
    return type(sight.error).__name__ if sight.error else sight.state


def plain(text: str) -> str:
    """Text without what a terminal would obey: an answer comes from outside."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
