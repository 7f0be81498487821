"""One call of `batch`: everything between its prompts and their outcomes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from freddy_tasks.batch import Outcome, plan
from freddy_tasks.batch.checkpoint import Checkpoint
from freddy_tasks.batch.items import Item
from freddy_tasks.batch.window import Window
from freddy_tasks.errors import ConfigurationError
from freddy_tasks.redaction import one_line
from freddy_tasks.runtime import Runtime

from .apps import has_broker, load_app, runtime_for, settings
from .batch_display import BatchDisplay, Position, batch_display
from .flight import NOBODY, PATIENCE
from .interruption import Interruption
from .local import LocalStack

LOOK_EVERY = 0.2  # seconds between two looks, at the least
LONGEST_OUTAGE = 300.0  # seconds that a server may be away before the command gives up
MOST_REST = 2.0  # seconds
REST = 4  # times as long as a look took: with thousands in flight it is no small thing

_LOCAL = "No CELERY_BROKER_URL is set: using a private Valkey server and a worker, just for this run."
_EMULATED = (
    "NOT FROM FREDDY: no FREDDY_API_KEY is set, so an EMULATOR on this machine makes up the answers. "
    "For the real ones, which are billed to your account, set it, and choose another output."
)
_AWAY = f"A server is away, and is waited for, {LONGEST_OUTAGE / 60:.0f} minutes at most"


class BatchRun:
    """Answers the first `end` prompts that have no outcome, with at most `in_flight` of them under way."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        items: Iterable[Item],
        options: Mapping[str, Any],
        end: int,
        in_flight: int,
        queue: str | None,
        interruption: Interruption,
    ) -> None:
        self._checkpoint = checkpoint
        self._items = items
        self._options = options
        self._end = end
        self._in_flight = in_flight
        self._queue = queue
        self._interruption = interruption

    def answer(self, app_name: str | None) -> None:
        """Go on until every prompt has an outcome, or a signal says to stop; what is in flight stays so.

        Raises `ConfigurationError`, `RedisError` or `OperationalError` when a server is missing or away.
        """
        if not self._checkpoint.open_below(self._end):
            return
        with batch_display() as shown, self._stack(app_name, shown) as local:
            app = load_app(app_name)
            runtime = runtime_for(app)
            window = Window(
                app,
                runtime,
                self._checkpoint,
                self._items,
                end=self._end,
                size=self._in_flight,
                options=self._options,
                queue=self._queue,
            )
            self._follow(window, runtime, local, shown)

    def _follow(
        self, window: Window, runtime: Runtime, local: LocalStack | None, shown: BatchDisplay
    ) -> None:
        impatient_at = time.monotonic() + PATIENCE
        away_since: float | None = None
        while not window.done and not self._interruption.count:
            if local:
                local.check()
            before = time.monotonic()
            try:
                window.step()
                shown.show(self._position(window, runtime))
                if time.monotonic() > impatient_at and not local:
                    impatient_at = float("inf")
                    if not runtime.ledger.dispatchers():
                        shown.say(NOBODY)
                away_since = None
            except (RedisError, OperationalError) as error:
                if away_since is None:
                    away_since = before
                    shown.say(f"{_AWAY}: {one_line(str(error) or type(error).__name__)}")
                elif before - away_since > LONGEST_OUTAGE:
                    raise
            if not window.done:
                time.sleep(max(LOOK_EVERY, min(MOST_REST, REST * (time.monotonic() - before))))

    def _position(self, window: Window, runtime: Runtime) -> Position:
        counts = self._checkpoint.counts(self._end)
        ended = sum(counts.values())
        if os.environ.get("FREDDY_API_KEY"):
            room = plan.room(runtime.ledger.redis, runtime.ledger.budget)
        else:  # only the workers have the key, and a budget goes by its key
            room = plan.FREE
        return Position(self._end, ended, ended - counts[Outcome.COMPLETED], window.in_flight, room)

    @contextmanager
    def _stack(self, app_name: str | None, shown: BatchDisplay) -> Iterator[LocalStack | None]:
        """Servers of our own where none are configured; what they know stays until the batch has ended."""
        if has_broker(app_name):
            yield None
            return
        settings()
        emulate = emulates(app_name)
        if emulate and os.environ.get("FREDDY_BASE_URL"):
            raise ConfigurationError("FREDDY_BASE_URL is set and FREDDY_API_KEY is not: set its key, too.")
        if emulate:
            self._checkpoint.forget_sent()  # the last emulator is gone, with all it was sent
            shown.say(_EMULATED)
        shown.say(_LOCAL)
        directory = None if emulate else _state_directory(self._checkpoint.manifest.run)
        with LocalStack(emulate=emulate, directory=directory) as stack:
            os.environ.update(stack.environment)
            yield stack
        if directory and not self._checkpoint.open_below(self._checkpoint.manifest.total):
            shutil.rmtree(directory)


def emulates(app_name: str | None) -> bool:
    """True when nothing is configured at all: the emulator then makes up the answers."""
    return not has_broker(app_name) and not os.environ.get("FREDDY_API_KEY")


def _state_directory(run: str) -> Path:
    """Where the private server of a run keeps its data: always the same, and short, as sockets need it."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    directory = Path(state) / "freddy-tasks" / run[:8]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory
