"""A file of prompts through the queue: so many at a time, each published once, each outcome kept at once."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any

from celery import Celery

from freddy_tasks.continuation import HIDDEN, SUBMIT
from freddy_tasks.desk import Desk, desk
from freddy_tasks.errors import OutcomeUnknown
from freddy_tasks.records import Phase
from freddy_tasks.runtime import Runtime

from . import look
from .checkpoint import Checkpoint
from .items import Item, ItemId
from .result import BatchItem, Outcome

logger = logging.getLogger(__name__)

STEP = 200  # prompts published between two looks
SURVEY_EVERY = 15.0  # seconds between two looks at the ledger
# Seconds; less than the ledger keeps its own records, so while there is a mark, so are they.
MARK_TTL = 86_400

_LOST = OutcomeUnknown(
    "It was sent, and the state server has no record of it any more. It may have been answered, and paid for."
)


class Window:
    """Publishes prompts while there are fewer than `size` in flight, and takes in what has ended.

    `items` are all prompts in order, and can be gone through more than once; `end` is how many of the first
    are wanted. A prompt that has an outcome is passed over. `options` are `process_ai_response`'s for all of
    them. `queue` None: where the app routes it.

    While there is a mark of this run in the state server, what the ledger does not know was never begun, and
    may be published again: as its task id is the same, it is one submit even where it was. Where the mark is
    gone, the server was emptied or days have passed, and what was sent may have been answered: its outcome is
    unknown.
    """

    def __init__(
        self,
        app: Celery,
        runtime: Runtime,
        checkpoint: Checkpoint,
        items: Iterable[Item],
        *,
        end: int,
        size: int,
        options: Mapping[str, Any],
        queue: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._runtime = runtime
        self._ledger = runtime.ledger
        self._checkpoint = checkpoint
        self._items = items
        self._size = size
        self._options = options
        self._queue = queue
        self._monotonic = monotonic
        self._in_flight: dict[str, tuple[int, ItemId]] = {}
        self._unsent: deque[tuple[int, Item]] = deque()
        self._exhausted = False
        self._next_survey = monotonic() + SURVEY_EVERY
        self._mark = f"{self._ledger.prefix}:batch-run:{checkpoint.manifest.run}"
        if not self._keep_mark():
            if checkpoint.manifest.is_begun:
                self._write_off(islice(items, min(end, checkpoint.manifest.sent_below)))
            self._remember()
        self._todo = self._open(islice(items, end))

    @property
    def in_flight(self) -> int:
        """How many prompts are in the queue, in the waiting room or at the API."""
        return len(self._in_flight)

    @property
    def done(self) -> bool:
        """True when every prompt has an outcome."""
        return self._exhausted and not self._in_flight

    def step(self) -> int:
        """Publish some, take in what has ended; how many have.

        Raises what the servers' clients raise when one is away; the next step goes on where this one was.
        """
        # What an earlier step could not send is counted as in flight already.
        if self._unsent or (not self._exhausted and len(self._in_flight) < self._size):
            self._publish(min(STEP, self._size - len(self._in_flight)))
        ended = self._take_in(look.ended_metas(self._app.backend, self._ledger, list(self._in_flight)))
        if self._monotonic() >= self._next_survey:
            ended += self._take_in(self._survey())
            self._next_survey = self._monotonic() + SURVEY_EVERY
        return ended

    def _take_in(self, ended: Iterable[tuple[str, Mapping[str, Any] | None]]) -> int:
        count, ended = 0, iter(ended)
        while chunk := list(islice(ended, STEP)):  # not all at once: these are whole answers
            self._checkpoint.append(self._line(task_id, meta) for task_id, meta in chunk)
            for task_id, _ in chunk:
                del self._in_flight[task_id]
            for task_id, _ in chunk:
                self._app.backend.forget(task_id)  # it is on disk: the result backend need not hold all
            count += len(chunk)
        return count

    def _open(self, items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        return ((index, item) for index, item in enumerate(items) if self._checkpoint.outcome(index) is None)

    def _publish(self, most: int) -> None:
        if not self._unsent:
            self._unsent.extend(islice(self._todo, most))
            self._exhausted = not self._unsent
        named = {self._checkpoint.task_id(index): (index, item) for index, item in self._unsent}
        sent_below = self._checkpoint.manifest.sent_below
        need_none = self._known(
            [task_id for task_id, (index, _) in named.items() if index < sent_below],
            unless={None, Phase.CANCELLED},
        )
        self._checkpoint.note_sent_below(max((index + 1 for index, _ in self._unsent), default=0))
        self._in_flight.update({task_id: (index, item.id) for task_id, (index, item) in named.items()})
        with desk(self._app, self._runtime) as producer:
            for task_id, (_, item) in named.items():
                if task_id not in need_none:
                    self._send(producer, task_id, item)
        self._unsent.clear()

    def _send(self, producer: Desk, task_id: str, item: Item) -> None:
        # Not by `send_task`, which would subscribe this process to the result of each prompt for good.
        kwargs = {**self._options, **item.options, "return_exceptions": True}
        message = self._app.amqp.create_task_message(
            task_id, SUBMIT, [item.prompt], kwargs, root_id=task_id, argsrepr=HIDDEN, kwargsrepr=HIDDEN
        )
        self._app.amqp.send_task_message(producer, SUBMIT, message, **self._route())

    def _route(self) -> dict[str, Any]:
        route: dict[str, Any] = self._app.amqp.router.route(
            {"queue": self._queue} if self._queue else {}, SUBMIT
        )
        return route

    def _known(self, task_ids: Sequence[str], unless: Set[Phase | None] = frozenset({None})) -> set[str]:
        """Those that the ledger has, unless in one of these phases, or that have ended."""
        known = {
            one for one, standing in look.standings(self._ledger, task_ids) if standing.phase not in unless
        }
        return known | {task_id for task_id, _ in look.ready_metas(self._app.backend, task_ids)}

    def _write_off(self, items: Iterable[Item]) -> None:
        """Put on disk that nobody can tell what became of those that nothing knows any more."""
        todo = (each for each in self._open(items) if self._checkpoint.may_have_been_sent(each[0]))
        while chunk := list(islice(todo, STEP)):
            named = {self._checkpoint.task_id(index): (index, item.id) for index, item in chunk}
            known = self._known(list(named))
            self._checkpoint.append(
                (index, line_of(BatchItem(item_id, task_id, Outcome.UNKNOWN, None, _LOST)))
                for task_id, (index, item_id) in named.items()
                if task_id not in known
            )

    def _survey(self) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
        """Those whose end would be waited for in vain: ended, or forgotten, and without a result."""
        is_marked = self._keep_mark()
        silent, lost = [], set()
        for task_id, standing in look.standings(self._ledger, list(self._in_flight)):
            if standing.phase is None and is_marked:
                lost.add(self._in_flight[task_id][0])
            elif standing.phase in look.OVER:
                silent.append(task_id)
        if lost:
            self._take_up(lost)
        for start in range(0, len(silent), STEP):
            chunk = silent[start : start + STEP]
            metas = dict(look.ready_metas(self._app.backend, chunk))  # stored before it was closed
            yield from ((task_id, metas.get(task_id)) for task_id in chunk)
        if not is_marked:  # all that the server had forgotten is written off
            self._remember()

    def _take_up(self, indexes: Set[int]) -> None:
        """Let the next step publish these again."""
        logger.warning("Nothing is known of %d prompts of this batch: they line up again", len(indexes))
        items = enumerate(islice(self._items, max(indexes) + 1))
        self._unsent.extend((index, item) for index, item in items if index in indexes)

    def _line(self, task_id: str, meta: Mapping[str, Any] | None) -> tuple[int, dict[str, Any]]:
        index, item_id = self._in_flight[task_id]
        return index, line_of(BatchItem.of(item_id, task_id, meta))

    def _keep_mark(self) -> bool:
        """Let the mark live on, where it is there still: one made anew would vouch for what was lost."""
        return bool(self._ledger.redis.expire(self._mark, MARK_TTL))

    def _remember(self) -> None:
        self._ledger.redis.set(self._mark, "1", ex=MARK_TTL)


def line_of(item: BatchItem) -> dict[str, Any]:
    """A prompt's line of the output: nothing in it differs between two runs with the same answers."""
    line: dict[str, Any] = {"id": item.id, "outcome": item.outcome.value}
    if item.error is None:
        return {**line, "output_text": item.output_text, "usage": item.usage}
    message = item.error.message
    if item.error.response_id:
        message = message.replace(item.error.response_id, "…")
    error = {"type": type(item.error).__name__, "message": message, "code": item.error.code}
    return {**line, "error": {name: fact for name, fact in error.items() if fact is not None}}
