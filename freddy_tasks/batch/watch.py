"""Watches over open batches: one whose last message the broker has lost ends all the same."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Set
from functools import cache
from typing import Any

from celery import Celery, bootsteps, signals, states
from celery.canvas import maybe_signature
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from freddy_tasks.errors import InvalidRequest
from freddy_tasks.records import Phase
from freddy_tasks.runtime import Runtime, runtime_of
from freddy_tasks.worker import DispatcherStep

from . import broker, look, record
from .record import FAIL_FAST, Record
from .register import Entry, Register
from .tasks import SALVAGE_BATCH

logger = logging.getLogger(__name__)

EVERY = 20.0  # seconds between two looks
LOOKS = 3  # in a row at which a message is nowhere, before it counts as lost
LEASE = 3.0  # times the pause between two looks, after which a watch that is silent is replaced
_OVER = {None, Phase.CANCELLED, Phase.CLOSED, Phase.SUSPENDED}

Held = Callable[[tuple[str, ...]], frozenset[str] | None]


class Watch:
    """A thread of its own in each worker; of all of one app, one at a time looks, and the others stand by.

    What ends a batch is missed only where nothing else could end it: all its prompts have ended, and the
    broker has no such message. `every` is in seconds.
    """

    def __init__(self, app: Celery, runtime: Runtime, every: float = EVERY) -> None:
        self._app = app
        self._runtime = runtime
        self._every = every
        self._name = uuid.uuid4().hex
        self._register = Register(app, runtime.ledger)
        self._lock = f"{self._register.key}:watch"
        self._vigils: dict[str, _Vigil] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freddy-batch-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop; another worker's watch begins at its next look."""
        self._stopping.set()
        self._thread.join(timeout)

    def look(self) -> None:
        """Look at all open batches once, if no other watch does; without any it is one command.

        Raises what the clients of the servers raise when one is away: nothing that was missed before counts.
        """
        vigils, self._vigils = self._vigils, {}
        open_ids = self._register.open_ids()
        if not open_ids or not self._leads():
            return
        held = cache(lambda queues: broker.held(self._app, queues))
        seen = {}
        for batch_id in open_ids:
            if self._stopping.is_set():
                return
            try:
                vigil = vigils.get(batch_id) or self._begin(batch_id)
                if vigil and vigil.keep(held):
                    seen[batch_id] = vigil
                else:
                    self._register.strike(batch_id)
            except (RedisError, OperationalError):
                raise
            except Exception:  # the result backend's own, for one: other batches are not to wait for it
                logger.exception("Batch %s cannot be watched over now", batch_id)
        self._vigils = seen

    def _begin(self, batch_id: str) -> _Vigil | None:
        try:
            kept, entry = record.load(self._runtime.ledger, batch_id), self._register.read(batch_id)
        except InvalidRequest:  # forgotten
            return None
        return None if entry is None else _Vigil(self._app, self._runtime, kept, entry)

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                self.look()
            except (RedisError, OperationalError) as error:
                logger.warning("Batches are not watched over: a server is away (%s)", type(error).__name__)
        with contextlib.suppress(RedisError):
            self._step_down()

    def _leads(self) -> bool:
        """Keep the lead, or take it where nobody has it.

        Whoever has it knows at how many looks each message was missed. It is written anew each time, so that
        a server without memory, which may have workers keep messages that it cannot note, stops the count.
        """
        redis, life = self._runtime.ledger.redis, round(1_000 * LEASE * self._every)
        if redis.set(self._lock, self._name, nx=True, px=life):
            return True
        return redis.get(self._lock) == self._name and bool(
            redis.set(self._lock, self._name, xx=True, px=life)
        )

    def _step_down(self) -> None:
        redis = self._runtime.ledger.redis
        if redis.get(self._lock) == self._name:
            redis.delete(self._lock)


class _Vigil:
    """What the watch knows of one batch from look to look."""

    def __init__(self, app: Celery, runtime: Runtime, kept: Record, entry: Entry) -> None:
        self._app = app
        self._runtime = runtime
        self._record = kept
        self._entry = entry
        self._unended = kept.task_ids()
        self._missed: dict[str, int] = {}

    def keep(self, held: Held) -> bool:
        """Look once, and do what is to be done; False when the batch has ended."""
        ends = {self._record.body_id, self._record.salvage_id}
        found = look.ready_metas(self._app.backend, sorted(ends))
        end = missing_end(self._record, {task_id: str(meta["status"]) for task_id, meta in found})
        if end is None:
            return False
        awaited = {end} if self._all_are_over() else set()
        seen = held(self._entry.queues) if awaited and self._entry.queues is not None else None
        if seen and seen & ends:  # the one may yet publish the other
            seen |= ends
        self._missed = missed(self._missed, awaited, seen)
        if self._missed.get(end, 0) >= LOOKS:
            self._publish(end)
        return True

    def _all_are_over(self) -> bool:
        """Whether nothing is to be done for any prompt; it looks no further than to the first that is not."""
        while self._unended:
            chunk = self._unended[-look.CHUNK :]
            standings = look.standings(self._runtime.ledger, chunk)
            self._unended[-look.CHUNK :] = still = [one for one, seen in standings if seen.phase not in _OVER]
            if still:
                return False
        return True

    def _publish(self, task_id: str) -> None:
        """Publish again what ends the batch, under the task id it had: the chord's body, or its stand-in.

        The results are not in this message: it finds them where they are kept.
        """
        logger.warning("Batch %s: the message that ends it is lost, and is sent again", self._record.id)
        body: Any = maybe_signature(dict(self._entry.body), app=self._app)
        if task_id == self._record.body_id:
            body.apply_async((None,))
        else:
            for errback in body.options.get("link_error") or ():
                signature: Any = maybe_signature(errback, app=self._app)
                if signature.task == SALVAGE_BATCH:
                    signature.apply_async((self._record.body_id,))
        self._missed = {}


def missed(before: Mapping[str, int], awaited: Set[str], held: Set[str] | None) -> dict[str, int]:
    """At how many looks in a row each awaited message was nowhere; `held` None: it could not be told."""
    if held is None:
        return {}
    return {task_id: before.get(task_id, 0) + 1 for task_id in awaited - held}


def missing_end(kept: Record, ended: Mapping[str, str]) -> str | None:
    """Task id of what has yet to run for a batch to end; None when it has ended.

    `ended` has the states of its chord's body and of what stands in for it, of those that have ended. The
    stand-in follows a body that failed, but for "fail_fast".
    """
    body, salvage = ended.get(kept.body_id), ended.get(kept.salvage_id)
    if salvage is not None:
        return None
    if body == states.FAILURE and kept.on_error != FAIL_FAST:
        return kept.salvage_id
    return None if body else kept.body_id


class WatchStep(bootsteps.StartStopStep):
    """Starts the watch with the worker and stops it with the worker."""

    label = "FreddyBatchWatch"
    requires = (DispatcherStep,)  # it says what is wrong with the settings

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.watch: Watch | None = None

    def start(self, parent: Any) -> None:
        """Watch over the batches of the worker's app."""
        self.watch = Watch(parent.app, runtime_of(parent.app), EVERY)
        self.watch.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # the bootstep's interface
        """Leave the batches to other workers."""
        if self.watch:
            self.watch.stop()
            self.watch = None

    terminate = stop


@signals.worker_init.connect(dispatch_uid="freddy_tasks.batch.watch")
def _add_watch(sender: Any = None, **_: Any) -> None:
    sender.app.steps["worker"].add(WatchStep)
