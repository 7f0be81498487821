"""`freddy-tasks run`: prompts in, answers out."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import click
from celery import Celery
from redis.exceptions import RedisError

from freddy_tasks.continuation import SUBMIT
from freddy_tasks.errors import ConfigurationError, FreddyError
from freddy_tasks.tasks import DURATIONS
from freddy_tasks.wire import check_request

from .apps import app_option, has_broker, load_app, runtime_for, settings
from .display import Display, display
from .exits import DONE, FAILED
from .interruption import Interruption
from .local import LocalStack
from .watch import Sight, Watch, is_settled

LOOK_EVERY = 0.2  # seconds
PATIENCE = 5.0  # seconds without a worker before it is said
CANCEL_TIMEOUT = 10.0  # seconds for the API to settle what Ctrl-C cancelled

NOBODY = "No worker answers yet: is one running? Start one with `freddy-tasks worker`. Waiting for it …"

_EMULATED = """\
  ┌────────────────────────────────────────────────────────────────────────────┐
  │ NOT FROM FREDDY: no FREDDY_API_KEY is set, so an EMULATOR on this machine  │
  │ makes up the answer. For the real one, which is billed to your account:    │
  │     export FREDDY_API_KEY=<your key>     and run this again                │
  └────────────────────────────────────────────────────────────────────────────┘"""


def _expected(text: str) -> float | str:
    if text in DURATIONS:
        return text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"give a number of seconds, or one of {', '.join(DURATIONS)}") from None


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter("give it as name=value, the value as JSON")
    if name in {"prompt", "model", "label", "expected", "timeout"}:
        raise click.BadParameter(f"`{name}` has a place of its own on the command line")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


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
    type=_expected,
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
    type=_field,
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
        sights = Run(load_app(app_name), local, interruption).answer(texts, kwargs)
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


class Run:
    """One call of `run`: everything between its prompts and their outcomes."""

    def __init__(self, app: Celery, local: LocalStack | None, interruption: Interruption) -> None:
        runtime = runtime_for(app)
        self._app = app
        self._ledger = runtime.ledger
        self._timeout = runtime.settings.timeout
        self._tells_api = runtime.settings.cancel_remotely
        self._local = local
        self._interruption = interruption

    def answer(self, prompts: Sequence[str], kwargs: Mapping[str, Any]) -> list[Sight]:
        """Publish prompts and see them to their end; whatever stops that cancels those still open."""
        watch = Watch(self._app, self._ledger, kwargs.get("timeout", self._timeout))
        with display() as shown:
            self._announce(shown)
            try:
                with self._interruption.at_once():
                    self._publish(watch, prompts, kwargs)
                self._follow(watch, shown)
            except KeyboardInterrupt:
                self._cancel(watch, shown)
            except BaseException:
                self._cancel(watch, shown)
                raise
        return watch.sights

    def _announce(self, shown: Display) -> None:
        if not self._local:
            return
        shown.say(
            "No CELERY_BROKER_URL is set: using a private Valkey server and a worker, just for this run."
        )
        if self._local.emulates:
            shown.say(_EMULATED)

    def _publish(self, watch: Watch, prompts: Sequence[str], kwargs: Mapping[str, Any]) -> None:
        for prompt in prompts:
            task_id = str(uuid.uuid4())
            watch.add(task_id)
            # The AsyncResult goes at once: one that lives at the exit complains that its server has gone.
            self._app.tasks[SUBMIT].apply_async((prompt,), dict(kwargs), task_id=task_id, ignore_result=False)

    def _follow(self, watch: Watch, shown: Display) -> None:
        impatient_at = time.monotonic() + PATIENCE
        blind = False
        while watch.open:
            if self._interruption.count:
                raise KeyboardInterrupt
            if self._local:
                self._local.check()
            watch.look()
            if watch.blind and not blind:
                shown.say("The result backend does not answer. Waiting for it …")
            blind = watch.blind
            shown.show(watch.sights, watch.now)
            if time.monotonic() > impatient_at and not self._local:
                impatient_at = float("inf")
                if watch.nobody_works():
                    shown.say(NOBODY)
            time.sleep(LOOK_EVERY)

    def _cancel(self, watch: Watch, shown: Display) -> None:
        """Cancel what is open, and wait for a while, or until a second Ctrl-C, for the API to settle it."""
        signals = self._interruption.count
        unsettled = {sight.task_id: sight for sight in watch.open}
        if not unsettled:
            return
        shown.say(f"Cancelling {_count(len(unsettled))} …")
        try:
            for task_id in unsettled:
                self._ledger.cancel(task_id)
            until = time.monotonic() + CANCEL_TIMEOUT
            while unsettled and time.monotonic() < until and self._interruption.count <= signals:
                if self._local:
                    self._local.check()
                settled = [task_id for task_id in unsettled if is_settled(self._ledger, task_id)]
                for task_id in settled:
                    del unsettled[task_id]
                time.sleep(LOOK_EVERY if unsettled else 0)
            watch.look()
        except (RedisError, ConfigurationError) as error:
            shown.say(f"The cancelling broke off: {error}")
        shown.show(watch.sights, watch.now)
        self._tell_of(unsettled.values(), shown)

    def _tell_of(self, unsettled: Collection[Sight], shown: Display) -> None:
        if not unsettled:
            told = "here and at the API" if self._tells_api else "here; FREDDY_CANCEL_REMOTELY spares the API"
            shown.say(f"Cancelled, {told}.")
            return
        names = ", ".join(str(sight.facts.get("response_id") or sight.task_id) for sight in unsettled)
        if self._local:
            shown.say(f"Not settled in time, so these may still run, and be billed: {names}")
        else:
            shown.say(f"The workers go on cancelling until the API has settled it: {names}")


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


def _count(number: int) -> str:
    return f"{number} response{'' if number == 1 else 's'}"


def plain(text: str) -> str:
    """Text without what a terminal would obey: an answer comes from outside."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
