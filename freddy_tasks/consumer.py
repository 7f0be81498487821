"""Celery's consumer of messages, without the faults of 5.7.0 on Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer
from kombu.transport import virtual
from redis.exceptions import ResponseError

from .connections import reads_from_redis
from .continuation import OURS

logger = logging.getLogger(__name__)

GREENLET_POLLING_INTERVAL = 5  # seconds of a BRPOP
SETTLE_AGAIN = 1.0  # seconds until Redis is told again of the end of a message

_Settlement = Callable[[Any, str], None]  # of a message, by `kombu.transport.redis.QoS` and delivery tag


class SurvivingConsumer(Consumer):
    """Celery's consumer without some faults of 5.7.0 on Redis.

    - A worker ends when its Redis restarts while a countdown or prefetched message is held:
      `Consumer.on_connection_error_after_connected` closes a transport that it has collected already, which
      raises AttributeError. So it does when a message is acknowledged while its Redis is away.
    - A worker ends when Redis refuses what a consumer writes, for want of memory or of replicas: the note of
      a message that it delivered, the bindings of a queue, the lock of a look for old messages. The message
      that was delivered and not noted would be lost; it is put back.
    - An acknowledgement that Redis refuses is only logged. Its message comes again when its visibility
      timeout is over, and until then counts as held by the worker, which takes no other when all that it
      holds are such. It is repeated.
    - What a worker held when its Redis went away stays unacknowledged for the whole visibility timeout. Our
      messages, which a second delivery does no harm, are put back as soon as there is a connection.
    - A greenlet pool never takes back what a killed worker held: its loop (`celery.worker.loops.synloop`)
      gives up after two seconds, and kombu only looks when a poll brought nothing, which a BRPOP of one
      second prevents. The BRPOP is longer.
    """

    task_consumer: Any  # Celery sets it; missing in the stubs
    connection_errors: tuple[type[Exception], ...]

    def __init__(self, *args: Any, **options: Any) -> None:
        app = options["app"]
        if options["hub"] is None and reads_from_redis(app):
            # Not for the other pools: with it they notice a SIGTERM late.
            app.conf.broker_transport_options.setdefault("polling_interval", GREENLET_POLLING_INTERVAL)
        self._unnoted: list[Any] = []  # messages
        self._unsettled: dict[str, _Settlement] = {}
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
            if not _was_collected(error):
                raise
            raise ConnectionError(
                f"Broker away ({error!r})"
            ) from error  # the consumer recovers from this one

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Clean up after a lost broker connection, and let the consumer reconnect."""
        for tag in self._delivery_tags():
            self._unsettled.setdefault(tag, _put_first)
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
        self._settle()
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

        def ack(delivery_tag: str) -> None:
            try:
                tell_ack(delivery_tag)
            except Exception as error:
                keep(delivery_tag, _forget, error)

        def reject(delivery_tag: str, requeue: bool = False) -> None:
            try:
                tell_reject(delivery_tag, requeue=requeue)
            except Exception as error:
                keep(delivery_tag, _put_last if requeue else _forget, error)

        def keep(delivery_tag: str, settlement: _Settlement, error: Exception) -> None:
            if not self._is_away(error):
                raise error
            logger.warning("Broker does not hear of the end of a message (%r); it is told again", error)
            virtual.QoS.ack(qos, delivery_tag)  # there is room for another one
            self._unsettled[delivery_tag] = settlement
            self._settle_soon()

        qos.ack, qos.reject = ack, reject

    def _settle(self) -> None:
        """Tell Redis what becomes of messages that it has not heard of; the first held is the next again."""
        while self._unsettled:
            tag, settlement = self._unsettled.popitem()
            try:
                settlement(self.task_consumer.channel.qos, tag)
            except Exception as error:
                if not self._is_away(error):
                    raise
                self._unsettled.setdefault(tag, settlement)
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

    def _is_away(self, error: Exception) -> bool:
        return isinstance(error, self.connection_errors) or _was_collected(error)

    def _delivery_tags(self) -> tuple[str, ...]:
        """Of the messages of ours that this worker holds; none where the transport is another one."""
        channel: Any = getattr(self.task_consumer, "channel", None)
        if not _is_redis(channel):
            return ()
        delivered = dict(getattr(channel.qos, "_delivered", {}))
        return tuple(
            tag
            for tag, message in delivered.items()
            if str((message.headers or {}).get("task")).startswith(OURS)
        )


def _forget(qos: Any, tag: str) -> None:
    qos._remove_from_indices(tag).execute()


def _put_first(qos: Any, tag: str) -> None:
    qos.restore_by_tag(tag)


def _put_last(qos: Any, tag: str) -> None:
    qos.restore_by_tag(tag, leftmost=True)


def _was_collected(error: Exception) -> bool:
    """Whether it comes of a transport that was collected meanwhile: of an attribute of None."""
    return isinstance(error, AttributeError) and error.obj is None


def _is_redis(channel: Any) -> bool:
    return hasattr(getattr(channel, "qos", None), "restore_by_tag")
