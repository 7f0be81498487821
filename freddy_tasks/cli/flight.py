"""Prompts in flight: published, watched, and cancelled when they are not to go on."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from celery import Celery
from redis.exceptions import RedisError

from freddy_tasks.continuation import SUBMIT
from freddy_tasks.errors import ConfigurationError

from .apps import runtime_for
from .display import Display, display
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


class Flight:
    """From prompts to their outcomes, in sight of whoever waits for them."""

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
            try:
                self._app.tasks[SUBMIT].apply_async(
                    (prompt,), dict(kwargs), task_id=task_id, ignore_result=False
                )
            except Exception:
                watch.drop_last()
                with contextlib.suppress(RedisError):
                    self._ledger.cancel(task_id)  # the broker may have taken it all the same
                raise

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


def _count(number: int) -> str:
    return f"{number} response{'' if number == 1 else 's'}"
