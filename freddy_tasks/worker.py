"""What this package adds to a Celery worker: a dispatcher, and requests that show no prompt."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # missing in the stubs
from celery import bootsteps, signals
from celery.exceptions import BackendError, Ignore
from celery.worker import state
from celery.worker.request import Request
from redis.exceptions import RedisError

from .capacity import pace, slots, taken_slots
from .continuation import CANCEL, HIDDEN, OURS, POLL, SUBMIT
from .dispatcher import Dispatcher
from .doctor import examine_worker
from .errors import ConfigurationError
from .handover import Parked
from .runtime import access_of, runtime_of
from .stopping import StopSignals, let_go

logger = logging.getLogger(__name__)
pool_logger = logging.getLogger("celery.pool")


class HopRequest(Request):
    """A message of ours in a worker: it hides its arguments, and says in monitors how the wait goes on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr = self._kwargsrepr = HIDDEN
        self._begun: float | None = None

    def info(self, safe: bool = False) -> Any:
        """What `inspect` and Flower are told of it."""
        return {**super().info(safe), "args": HIDDEN, "kwargs": HIDDEN}

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002  # Celery's name
        """Tell monitors; of a cancel also under the id of the task that it ended.

        Not as `task-revoked`: after an event of our own, `celery.events.state.Task.event` (5.7) takes that
        for an older one, and the row would wait for ever.
        """
        super().send_event(type, **fields)
        is_end = type == "task-succeeded" and self.type == CANCEL and len(self.args) > 1  # not the mere wish
        if is_end and self.eventer and self.eventer.enabled:
            self.eventer.send("task-cancelled", uuid=self.args[0], result="cancelled")

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Kill it in a cold shutdown; its message goes back to the broker, but nobody may act on it again."""
        super().cancel(pool, signal, emit_retry)
        self.hand_back()

    def hand_back(self) -> None:
        """Let another worker look at the response at once, and not when the lease of this hop has run out."""
        if self.type != POLL:
            return
        try:
            access_of(self.task.app).ledger.hand_back(self.id, self.args[0])
        except RedisError as error:
            logger.warning(
                "State server away; task %s comes back by its lease: %s", self.id, type(error).__name__
            )

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """A slot has begun with it, at this moment of the monotonic clock."""
        self._begun = time_accepted
        super().on_accepted(pid, time_accepted)

    def seconds(self) -> float:
        """How long a slot has been at work on it."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """A hop that ended: parked, failed, or ignored."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Parked):
            pace.note(self.seconds())
            self.send_event("task-polling", result=error.text, eta=iso(error.due))
        elif not return_ok and isinstance(error, RedisError | BackendError) and self.type in {SUBMIT, POLL}:
            # Celery could not store the outcome, and would make this error of its own the outcome. The ledger
            # has the true one, and the lease brings it back.
            logger.warning(
                "Result backend away; task %s comes back by its lease: %s", self.id, type(error).__name__
            )
            exc_info.exception = Ignore()
        return super().on_failure(exc_info, send_failed_event, return_ok)


class DispatcherStep(bootsteps.StartStopStep):
    """Starts the dispatcher with the worker and stops it with the worker."""

    label = "FreddyDispatcher"
    # A lock that its thread holds while the pool forks is held in the child for ever, as kombu's (5.7,
    # `utils.objects.cached_property`) of the first connection.
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.dispatcher: Dispatcher | None = None
        self._uid = f"freddy_tasks.{id(self)}"

    def start(self, parent: Any) -> None:
        """Check the settings, then dispatch; a worker without settings ends here, and says why."""
        try:
            runtime = runtime_of(parent.app)
        except ConfigurationError as error:
            logger.critical("freddy_tasks cannot start: %s", error)
            raise SystemExit(1) from None
        pool_logger.addFilter(_without_arguments)
        self.dispatcher = Dispatcher(
            parent.app, runtime, parent.hostname, _revoked, partial(slots, parent), taken_slots, pace
        )
        signals.task_revoked.connect(self._on_revoked, weak=False, dispatch_uid=self._uid)
        signals.worker_shutting_down.connect(_hand_back, dispatch_uid="freddy_tasks.hand_back")
        self.dispatcher.start()
        StopSignals(parent, _unbegun).install()
        examine_worker(parent.app, runtime, parent.pool_cls.__module__, parent.consumer_cls)

    def close(self, parent: Any) -> None:
        """Leave to others what came between the signal and the end of the event loop, too."""
        let_go(parent, _unbegun())

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # the bootstep's interface
        """Stop the dispatcher; what waits is another worker's from here on."""
        if self.dispatcher:
            signals.task_revoked.disconnect(dispatch_uid=self._uid)
            self.dispatcher.stop()
            self.dispatcher = None

    terminate = stop

    def _on_revoked(self, sender: Any = None, request: Any = None, **_: Any) -> None:
        # Runs in the worker's event loop: it only leaves a note.
        if self.dispatcher and getattr(sender, "name", "").startswith(OURS):
            self.dispatcher.cancel(request.id)


def _without_arguments(record: logging.LogRecord) -> bool:
    """Hide what `celery.concurrency.base.BasePool.apply_async` (5.7) tells at DEBUG level: whole messages."""
    if isinstance(record.args, tuple) and any(str(shown).startswith(f"('{OURS}") for shown in record.args):
        record.args = (record.args[0], *[HIDDEN] * (len(record.args) - 1))
    return True


def iso(moment: float | None) -> str | None:
    """As Celery spells the `eta` of an event."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _unbegun() -> list[HopRequest]:
    taken = state.reserved_requests - state.active_requests
    return [request for request in taken if isinstance(request, HopRequest)]


def _hand_back(**_: Any) -> None:
    """Celery gives back what a worker has taken and not begun only when it has stopped, seconds later."""
    for request in _unbegun():
        request.hand_back()


def _revoked() -> Iterable[str]:
    return state.revoked


@signals.worker_init.connect(dispatch_uid="freddy_tasks.dispatcher")
def _add_dispatcher(sender: Any = None, **_: Any) -> None:
    sender.app.steps["worker"].add(DispatcherStep)
