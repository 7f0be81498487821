"""How a worker stops: it takes no message with it, and is not stopped in the midst of a turn of its loop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from queue import Empty
from types import FrameType
from typing import Any

from celery.worker import state
from celery.worker.loops import asynloop

from .connections import reads_from_redis
from .continuation import ADVANCE, POLL

logger = logging.getLogger(__name__)

CELERYS_NAME = "worker_Cold"  # `celery.apps.worker._shutdown_handler` (5.7) gives its handlers no other mark
PATIENCE = 1.5  # seconds for the reply to a BRPOP, which kombu (5.7) gives a timeout of one


class StopSignals:
    """Stands before Celery's handlers of a soft and a cold stop, and calls them when nothing is half done.

    Celery (5.7, `celery.apps.worker.on_cold_shutdown`) does all its work within the signal handler, in the
    midst of whatever the main thread was doing. It sleeps there for `worker_soft_shutdown_timeout` seconds,
    and joins the pool: what the pool was not given yet lies in the worker, and so does a message that Redis
    hands out to the open BRPOP, though another worker would take them at once. And a prefork pool whose
    result the thread was just reading is joined for ever.

    So the first signal waits for the next turn of the event loop. There the requests of ours that `unbegun`
    names are left to others, and the BRPOP is waited for, a second at most, before Celery goes on. A second
    signal, and one that comes while the loop does not turn, goes to Celery at once.
    """

    def __init__(self, worker: Any, unbegun: Callable[[], Iterable[Any]]) -> None:
        self._worker = worker
        self._unbegun = unbegun
        self._process = os.getpid()
        self._handlers: dict[int, Any] = {}
        self._awaited: int | None = None  # the signal that waits for the next turn

    def install(self) -> None:
        """Replace Celery's handlers, where the worker has an event loop and its broker is Redis."""
        if not _polls_redis(self._worker):
            return
        for number in signal.SIGINT, signal.SIGQUIT, signal.SIGTERM:
            handler = signal.getsignal(number)
            if getattr(handler, "__name__", None) == CELERYS_NAME:
                self._handlers[number] = handler
                signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Answer a signal; nothing here takes a lock, for the interrupted code may hold it."""
        if self._awaited is not None or os.getpid() != self._process or not _turns(frame):
            self._awaited = None
            self._handlers[number](number, frame)
            return
        self._awaited = number
        hub = self._worker.hub
        hub.on_tick.add(self._at_turn)
        hub.on_close.add(self._at_turn)  # in place of the turn that a lost connection prevents
        hub.add_writer(os.pipe()[1], _nothing)  # writable, so that the interrupted poll ends at once

    def _at_turn(self, *_: object) -> None:
        number, self._awaited = self._awaited, None
        if number is None:
            return
        let_go(self._worker, self._unbegun())
        self._handlers[number](number, None)


def let_go(worker: Any, unbegun: Iterable[Any]) -> None:
    """Leave these requests to other workers, and take no message more.

    The BRPOP that is open is waited for; what it brings is put back by kombu, as there is no consumer for it.
    Celery reads it only when the pool has ended, or never; a prefork pool may take half a minute. With other
    brokers than Redis, Celery puts back what it has taken when the pool has ended.
    """
    polls_redis = _polls_redis(worker)
    with _even_if_away():
        for request in unbegun:
            _leave_to_others(request, by_broker=polls_redis)
    if not polls_redis:
        return
    with _even_if_away():
        task_consumer = worker.consumer.task_consumer
        task_consumer.cancel()
        channel = task_consumer.channel
        asked = channel._in_poll
        # `can_read` would connect again where the connection is lost.
        if asked and asked._sock and asked.can_read(PATIENCE):
            with contextlib.suppress(Empty):
                channel._brpop_read()


@contextlib.contextmanager
def _even_if_away() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # any transport has exceptions of its own; the lease is the backstop
        logger.warning("Broker away (%s); what it sent last waits for the end", type(error).__name__)


def _polls_redis(worker: Any) -> bool:
    return bool(worker.hub) and reads_from_redis(worker.app)


def _turns(frame: FrameType | None) -> bool:
    """Whether the interrupted code belongs to an event loop that will turn once more."""
    if state.should_stop is not None:  # a warm stop, which ends the loop
        return False
    while frame is not None and frame.f_code is not asynloop.__code__:
        frame = frame.f_back
    return frame is not None


def _leave_to_others(request: Any, *, by_broker: bool) -> None:
    """A look by the ledger, a prompt by the broker: that a message of ours comes twice does no harm."""
    if request.type in {POLL, ADVANCE}:
        request.hand_back()
    elif by_broker and not request.acknowledged:
        request.message.channel.qos.restore_by_tag(request.message.delivery_tag)


def _nothing() -> None:
    pass
