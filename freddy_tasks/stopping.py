"""The signals for a soft and a cold stop, answered between two turns of the worker's event loop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable
from queue import Empty
from types import FrameType
from typing import Any

from celery.worker import state
from celery.worker.loops import asynloop

from .connections import is_redis
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
        if not self._worker.hub or not is_redis(str(self._worker.app.conf.broker_read_url)):
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
        try:
            self._take_no_more()
        except Exception as error:  # any transport has exceptions of its own; the lease is the backstop
            logger.warning("Broker away (%s); what it sent last waits for the end", type(error).__name__)
        finally:
            self._handlers[number](number, None)

    def _take_no_more(self) -> None:
        """Begin no BRPOP; what the open one brings is put back by kombu, as there is no consumer for it."""
        task_consumer = self._worker.consumer.task_consumer
        task_consumer.cancel()
        for request in self._unbegun():
            _leave_to_others(request)
        channel = task_consumer.channel
        asked = channel._in_poll
        # `can_read` would connect again where the connection is lost.
        if asked and asked._sock and asked.can_read(PATIENCE):
            with contextlib.suppress(Empty):
                channel._brpop_read()


def _turns(frame: FrameType | None) -> bool:
    """Whether the interrupted code belongs to an event loop that will turn once more."""
    if state.should_stop is not None:  # a warm stop, which ends the loop
        return False
    while frame is not None and frame.f_code is not asynloop.__code__:
        frame = frame.f_back
    return frame is not None


def _leave_to_others(request: Any) -> None:
    """By the ledger, or else by the broker: a message of ours that is carried out twice does no harm."""
    if request.type in {POLL, ADVANCE}:
        request.hand_back()
    elif not request.acknowledged:
        request.message.channel.qos.restore_by_tag(request.message.delivery_tag)


def _nothing() -> None:
    pass
