"""What this package adds to a Celery worker: a dispatcher, and requests that show no prompt."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # missing in the stubs
from celery import bootsteps, signals
from celery.exceptions import BackendError, Ignore
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu.transport import virtual
from redis.exceptions import RedisError, ResponseError

from .capacity import pace, slots, taken_slots
from .connections import is_redis
from .continuation import CANCEL, HIDDEN, POLL, SUBMIT
from .dispatcher import Dispatcher
from .doctor import examine_worker
from .errors import ConfigurationError
from .handover import Parked
from .runtime import access_of, runtime_of
from .stopping import StopSignals

logger = logging.getLogger(__name__)
pool_logger = logging.getLogger("celery.pool")

TASKS = "freddy_tasks."  # first part of the names of our tasks
GREENLET_POLLING_INTERVAL = 5  # seconds of a BRPOP
SETTLE_AGAIN = 1.0  # seconds until Redis is told again of the end of a message


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

    def close(self, parent: Any) -> None:  # noqa: ARG002  # the bootstep's interface
        """Hand back what came between the signal and the end of the event loop."""
        _hand_back()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # the bootstep's interface
        """Stop the dispatcher; what waits is another worker's from here on."""
        if self.dispatcher:
            signals.task_revoked.disconnect(dispatch_uid=self._uid)
            self.dispatcher.stop()
            self.dispatcher = None

    terminate = stop

    def _on_revoked(self, sender: Any = None, request: Any = None, **_: Any) -> None:
        # Runs in the worker's event loop: it only leaves a note.
        if self.dispatcher and getattr(sender, "name", "").startswith(TASKS):
            self.dispatcher.cancel(request.id)


class SurvivingConsumer(Consumer):
    """Celery's consumer without some faults of 5.7.0 on Redis.

    A worker ends when its Redis restarts: `Consumer.on_connection_error_after_connected` closes a transport
    that it has collected already, which raises AttributeError while a countdown or prefetched one is held.
    So it does when a message is acknowledged or rejected while its Redis is away, by the same error of a
    collected transport, and when Redis refuses what a consumer writes, for want of memory or of replicas: the
    note of a message that it delivered, the bindings of a queue, the lock of a look for old messages.
    And a greenlet pool never takes back what a killed worker held: its loop (`celery.worker.loops.synloop`)
    gives up after two seconds, and kombu only looks when a poll brought nothing, which a BRPOP of one second
    prevents. And the messages that a worker held when its Redis went away stay unacknowledged for the whole
    visibility timeout: ours, which a second delivery does no harm, are put back as soon as there is a
    connection. So is any message that Redis handed out and then refused to note: it would be lost. And an
    acknowledgement that Redis refuses is repeated. Celery only logs it: such a message comes again an hour
    later, and until then counts as held by a worker, which takes no other when all that it holds are such.
    """

    task_consumer: Any  # Celery sets it; missing in the stubs
    connection_errors: tuple[type[Exception], ...]
    _held: tuple[str, ...] = ()  # delivery tags

    def __init__(self, *args: Any, **options: Any) -> None:
        app = options["app"]
        if options["hub"] is None and is_redis(str(app.conf.broker_read_url)):
            # Not for the other pools: with it they notice a SIGTERM late.
            app.conf.broker_transport_options.setdefault("polling_interval", GREENLET_POLLING_INTERVAL)
        self._unnoted: list[Any] = []  # messages
        self._unsettled: deque[tuple[str, bool]] = deque()  # delivery tags, and whether to put back
        self._will_settle = False
        super().__init__(*args, **options)
        # To kombu it is the fault of a channel, and Celery ends the worker at those.
        self.connection_errors = (*self.connection_errors, ResponseError)
        self._loop: Any = self.loop  # type: ignore[has-type]
        self.loop = self._surviving_loop

    def _surviving_loop(self, *args: Any) -> None:
        try:
            self._loop(*args)
        except AttributeError as error:
            if error.obj is not None:
                raise
            raise ConnectionError(
                f"Broker away ({error!r})"
            ) from error  # the consumer recovers from this one

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Clean up after a lost broker connection, and let the consumer reconnect."""
        self._held += self._delivery_tags()
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            logger.warning("Clean-up after a lost broker connection failed (%r); reconnecting", error)
            self.connection = None

    def on_ready(self) -> None:
        """There is a connection, for the first time or again."""
        super().on_ready()
        channel = self.task_consumer.channel
        if not _is_redis(channel):
            return
        self._settle()  # before what was held is put back
        held, self._held = self._held, ()
        try:
            for tag in held:
                channel.qos.restore_by_tag(tag)
        except Exception as error:  # the transport's own; the visibility timeout is the backstop
            logger.warning("%d messages come back by the visibility timeout: %r", len(held), error)
        while self._unnoted:
            virtual.Channel._restore(channel, self._unnoted[-1])
            self._unnoted.pop()
        self._keep_unnoted(channel.qos)
        self._keep_unsettled(channel.qos)

    def _keep_unnoted(self, qos: Any) -> None:
        """Keep a message that Redis handed out and refuses to note: nobody else has it."""
        note = qos.append

        def append(message: Any, delivery_tag: str) -> None:
            try:
                note(message, delivery_tag)
            except ResponseError:
                self._unnoted.append(message)
                raise

        qos.append = append

    def _keep_unsettled(self, qos: Any) -> None:
        """Keep what Redis was not told of the end of a message: kombu does not tell it again."""
        tell_ack, tell_reject = qos.ack, qos.reject
        errors = self._broker_errors()

        def ack(delivery_tag: str) -> None:
            try:
                tell_ack(delivery_tag)
            except errors as error:
                keep(delivery_tag, False, error)

        def reject(delivery_tag: str, requeue: bool = False) -> None:
            try:
                tell_reject(delivery_tag, requeue=requeue)
            except errors as error:
                keep(delivery_tag, requeue, error)

        def keep(delivery_tag: str, requeue: bool, error: Exception) -> None:
            logger.warning("Broker does not hear of the end of a message (%r); it is told again", error)
            virtual.QoS.ack(qos, delivery_tag)  # there is room for another one
            self._unsettled.append((delivery_tag, requeue))
            self._settle_soon()

        qos.ack, qos.reject = ack, reject

    def _settle(self) -> None:
        """Tell Redis what it has not heard of ends."""
        while self._unsettled:
            delivery_tag, requeue = self._unsettled.popleft()
            try:
                qos = self.task_consumer.channel.qos
                if requeue:
                    qos.restore_by_tag(delivery_tag, leftmost=True)
                else:
                    qos._remove_from_indices(delivery_tag).execute()
            except self._broker_errors():
                self._unsettled.appendleft((delivery_tag, requeue))
                self._settle_soon()
                return

    def _settle_soon(self) -> None:
        if self._will_settle:
            return
        self._will_settle = True

        def settle() -> None:
            self._will_settle = False
            self._settle()

        self.timer.call_after(SETTLE_AGAIN, settle)

    def _broker_errors(self) -> tuple[type[Exception], ...]:
        """With the one that a transport raises which was collected meanwhile."""
        return *self.connection_errors, AttributeError

    def _delivery_tags(self) -> tuple[str, ...]:
        """Of the messages of ours that this worker holds; none where the transport is another one."""
        channel: Any = getattr(self.task_consumer, "channel", None)
        if not _is_redis(channel):
            return ()
        delivered = dict(getattr(channel.qos, "_delivered", {}))
        return tuple(
            tag
            for tag, message in delivered.items()
            if str((message.headers or {}).get("task")).startswith(TASKS)
        )


def _is_redis(channel: Any) -> bool:
    return hasattr(getattr(channel, "qos", None), "restore_by_tag")


def _without_arguments(record: logging.LogRecord) -> bool:
    """Hide what `celery.concurrency.base.BasePool.apply_async` (5.7) tells at DEBUG level: whole messages."""
    if isinstance(record.args, tuple) and any(str(shown).startswith(f"('{TASKS}") for shown in record.args):
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
