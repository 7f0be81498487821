"""The waiting room's door: publishes what is due, and sleeps until the next moment that matters."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from celery import Celery
from redis.exceptions import RedisError

from .continuation import BEHIND, POLL, SUBMIT, yields
from .ledger import Ledger
from .outbox import Outbox
from .packing import Pace, is_submit, parcels, share, spread
from .records import Hop, Phase, Popped
from .runtime import Runtime
from .schedules import next_stretch

logger = logging.getLogger(__name__)

LONGEST_SLEEP = 1.0  # seconds: how late a local revoke is noticed
SIGN_OF_LIFE = 10.0  # seconds between two
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between attempts while the state server is away
TICK = 0.1  # seconds between two looks in a rush: what comes due meanwhile shares messages
LONGEST_MESSAGE = 1.0  # seconds that its steps may take one after another
BATCH = 100  # jobs taken out at once
_ALONE = "time_limit", "soft_time_limit", "stamped_headers"  # what Celery looks for in each message


class Dispatcher:
    """A thread of its own in each worker; any number of them share one waiting room.

    `revoked` names the tasks that this worker has been told to revoke, `slots` tells how many it runs at
    once, `taken` how many it has, `pace` how long a step takes here.
    """

    def __init__(
        self,
        app: Celery,
        runtime: Runtime,
        hostname: str,
        revoked: Callable[[], Iterable[str]] = tuple,
        slots: Callable[[], int] = lambda: BATCH,
        taken: Callable[[], int] = lambda: 0,
        pace: Pace | None = None,
    ) -> None:
        self._app = app
        self._ledger: Ledger = runtime.ledger
        self._monotonic = runtime.monotonic
        self._hostname = hostname
        self._revoked = revoked
        self._seen_revoked: set[str] = set()
        self._slots = slots
        self._taken = taken
        self._pace = pace or Pace()
        self._lined_up = 0
        self._in_a_rush = False
        self._outbox = Outbox(app)
        self._to_cancel: deque[str] = deque()
        self._mark = ""
        self._pause = FIRST_PAUSE  # before the next attempt, when the state server goes away
        self._next_sign = 0.0
        self._next_price = 0.0
        self._stopping = threading.Event()
        self._asleep = False
        self._thread = threading.Thread(target=self._run, name="freddy-dispatcher", daemon=True)

    def start(self) -> None:
        """Begin to dispatch."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop; what is due goes to other dispatchers."""
        self._stopping.set()
        if self._asleep:  # otherwise it notices by itself, and a call to a server that is away takes seconds
            with contextlib.suppress(RedisError):
                self._ledger.wake()
        self._thread.join(timeout)

    def cancel(self, task_id: str) -> None:
        """Record from any thread that a task of this app was revoked; returns at once."""
        self._to_cancel.append(task_id)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._dispatch_until_stopped()
            except RedisError as error:
                logger.warning(
                    "State server away (%s); responses wait, next attempt in %.1f s",
                    type(error).__name__,
                    self._pause,
                )
                self._stopping.wait(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            except Exception:
                logger.exception("Dispatcher failed; it starts again in %.1f s", LONGEST_PAUSE)
                self._stopping.wait(LONGEST_PAUSE)
        with contextlib.suppress(RedisError):
            self._cancel_revoked()  # nobody else may have heard of it

    def _dispatch_until_stopped(self) -> None:
        with self._ledger.listen() as wake:
            while not self._stopping.is_set():
                pause = min(self.dispatch(), LONGEST_SLEEP)
                self._pause = FIRST_PAUSE
                if self._in_a_rush:
                    self._stopping.wait(TICK)
                    pause = max(0.0, pause - TICK)
                self._asleep = True  # before the last look at the flag, so that `stop` misses no sleeper
                if not self._stopping.is_set():
                    wake.wait(pause)
                self._asleep = False

    def dispatch(self) -> float:
        """Publish what is due, once; the seconds until there is something to do again."""
        self._give_sign_of_life()
        self._cancel_revoked()
        self._set_price()
        if not self._outbox.publish():  # to take more would use up requests that cannot leave
            return LONGEST_SLEEP
        slots = self._slots()
        free = max(0, slots - self._taken())
        # Prompts line up here while all slots are taken; but where they always are, by other work, some go to
        # the broker's queue, as any task does.
        popped = self._ledger.pop(BATCH, max(1, free * share(self._lined_up, slots)))
        self._lined_up = popped.lined_up
        self._in_a_rush = not free or len(popped.hops) > 1 or bool(popped.hops and popped.lined_up)
        hops = [self._told_to_yield(hop) for hop in popped.hops]
        self._outbox.add(parcels(hops, self._size_of(popped, slots, free)))
        if not self._outbox.publish():
            return LONGEST_SLEEP
        if len(popped.hops) == BATCH:
            return 0.0
        return LONGEST_SLEEP if popped.wait is None else max(0.0, popped.wait)

    def _size_of(self, popped: Popped, slots: int, free: int) -> Callable[[Hop], int]:
        if self._has_limits():
            return lambda _: 1
        most = self._pace.steps_in(LONGEST_MESSAGE)
        submits = sum(map(is_submit, popped.hops))
        of_submits = min(most, share(popped.lined_up + submits, slots))
        of_looks = min(most, spread(len(popped.hops) - submits, free))

        def size(hop: Hop) -> int:
            if hop.phase is Phase.CANCELLING or any(hop.options.get(name) for name in _ALONE):
                return 1
            return of_submits if is_submit(hop) else of_looks

        return size

    def _has_limits(self) -> bool:
        """Whether our tasks have a time limit or a rate limit: Celery counts both by the message."""
        tasks = (self._app.tasks[name] for name in (SUBMIT, POLL))
        return any(task.rate_limit or task.time_limit or task.soft_time_limit for task in tasks)

    def _told_to_yield(self, hop: Hop) -> Hop:
        if hop.phase is Phase.QUEUED and yields(self._app.tasks[SUBMIT], hop.job.lane, hop.options):
            return replace(hop, options={**hop.options, "priority": BEHIND})
        return hop

    def _cancel_revoked(self) -> None:
        try:
            revoked = set(self._revoked())
        except RuntimeError:  # changed by the worker's own thread meanwhile: look again next time
            revoked = self._seen_revoked
        for task_id in revoked - self._seen_revoked:
            self._to_cancel.append(task_id)
        self._seen_revoked = revoked
        while self._to_cancel:
            self._ledger.cancel(self._to_cancel[0], even_unseen=False)
            self._to_cancel.popleft()

    def _set_price(self) -> None:
        """Make polls rarer while the budget binds; one dispatcher in a second does it for all."""
        if self._monotonic() < self._next_price:
            return
        self._next_price = self._monotonic() + LONGEST_SLEEP
        told = self._ledger.pressure()
        if told:
            self._ledger.price(
                {
                    lane: next_stretch(
                        stretch,
                        backlog_seconds=told.backlog[lane],
                        day_left=told.day_left,
                        interval=told.interval,
                    )
                    for lane, stretch in told.stretch.items()
                }
            )

    def _give_sign_of_life(self) -> None:
        if self._monotonic() >= self._next_sign:
            mark = self._ledger.sign_in(self._hostname)
            if mark != (self._mark or mark):
                logger.error(
                    "The state server was emptied, or dropped keys: the responses that waited there are lost "
                    "and their tasks show their last state. Where that has a response id, `freddy-tasks "
                    "resume TASK_ID` goes on. Give the ledger a Redis with `noeviction` and an append-only "
                    "file."
                )
            self._mark = mark
            self._next_sign = self._monotonic() + SIGN_OF_LIFE
