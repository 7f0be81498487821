"""A batch in the hands of its caller: publish it, watch it, read it, cancel it, try the failed again."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Self

from celery import Celery
from celery.canvas import Signature
from celery.exceptions import ChordError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, GroupResult
from redis.exceptions import RedisError

from freddy_tasks import tasks as response_tasks
from freddy_tasks.desk import desk
from freddy_tasks.errors import FreddyError, InvalidRequest
from freddy_tasks.ledger import Ledger
from freddy_tasks.runtime import access_of

from . import look, plan, record
from .canvas import Call, addressed, body_of, check, publish, queues_of
from .items import Written, fingerprint, ids_of, read_items
from .progress import Progress, seconds_left
from .record import COLLECT, FAIL_FAST, OnError, Record
from .register import Entry, Register
from .result import BatchItem, BatchResult, Outcome
from .survey import Survey
from .tasks import cancel_members, judged

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two looks of `results` and `get`
PATIENCE = 10.0  # seconds that `get` waits between two looks whether there is anything to wait for
WINDOW = 200  # prompts that `results` looks at ahead of the next one
LANE = "batch"


def process_batch(
    prompts: Iterable[Written],
    *,
    callback: Signature[Any] | None = None,
    errback: Signature[Any] | None = None,
    on_error: OnError = COLLECT,
    group_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Batch:
    """Publish many prompts as one chord, and return a handle of it at once.

    A prompt is a string, a list of input messages, or a dict with `prompt`, perhaps an `id` that its result
    will carry, and any option of `process_ai_response` for this one; `options` are for all of them. They go
    behind other work when the plan's requests are short, unless `lane` says otherwise. `group_options` are
    Celery's for each message: `queue`, `priority`, `headers`, `expires`, …

    `callback` gets the JSON of a `BatchResult` once all prompts have ended; `errback`, where the batch fails,
    the id of the task that failed. `on_error` is "collect": the callback runs whatever became of the prompts;
    a share from 0 to 1: `BatchFailed` when more than that have no answer; or "fail_fast": the first failure
    cancels the rest, and the batch fails.

    Raises `InvalidRequest`, before anything is published, for a prompt or an option that cannot be sent;
    `ConfigurationError` for a wrong `on_error` or a missing state server. When a server fails half way, what
    lines up already is cancelled, and the exception goes up: `kombu.exceptions.OperationalError` for the
    broker, `redis.exceptions.RedisError` for the state server.
    """
    call = Call(read_items(prompts), callback, errback, dict(group_options or {}), {"lane": LANE, **options})
    return Batch._publish(call, record.check_on_error(on_error))


class Batch:
    """A batch that was published. `id` is all that is needed to find it again: `Batch.restore(id)`."""

    def __init__(self, app: Celery, kept: Record, call: Call | None = None) -> None:
        self._app = app
        self._record = kept
        self._call = call
        self._result: BatchResult | None = None
        self._survey = Survey(app, kept)

    def __repr__(self) -> str:
        return f"<Batch {self.id}: {len(self)} prompts>"

    def __len__(self) -> int:
        return self._record.size

    @property
    def id(self) -> str:
        """Id of the batch, which is also the task id of its chord's body."""
        return self._record.id

    @property
    def task_ids(self) -> list[str]:
        """The task id of each prompt, in order."""
        return self._record.task_ids()

    @property
    def body(self) -> AsyncResult[Any]:
        """Celery's own handle of the chord's body."""
        return self._app.AsyncResult(self.id)

    @property
    def group(self) -> GroupResult:
        """Celery's own handle of the prompts."""
        members = [self._app.AsyncResult(task_id) for task_id in self.task_ids]
        return self._app.GroupResult(self._record.group_id, members)

    @classmethod
    def restore(cls, batch_id: str, app: Celery | None = None) -> Self:
        """The batch of that id, from any process. `app` is the current one unless it is given.

        Raises `InvalidRequest` when it is not known, or not any more: a month after its last use.
        """
        app = app or response_tasks.process_ai_response.app
        return cls(app, record.load(access_of(app).ledger, batch_id))

    def progress(self) -> Progress:
        """Where the prompts stand, at the cost of one round trip per 200 of those that have not ended."""
        if self._result is not None:
            return Progress(len(self), **self._result.counts, seconds_left=0.0)
        access = access_of(self._app)
        counted = Progress(len(self), **self._survey.counts())
        elapsed = max(0.0, access.clock() - self._record.created_at)
        room = plan.room(access.ledger.redis, access.ledger.budget)
        return replace(counted, seconds_left=seconds_left(counted, elapsed, room))

    def results(self, timeout: float | None = None) -> Iterator[BatchItem]:
        """Each prompt's end, in the order of the prompts, as soon as it and all before it have ended.

        Raises `TimeoutError` when the next one has not ended within `timeout` seconds.
        """
        if self._result is not None:
            yield from self._result.items
            return
        ids, ledger = self.task_ids, access_of(self._app).ledger
        ready: dict[str, Mapping[str, Any]] = {}
        for index, task_id in enumerate(ids):
            pause, waited_since = FIRST_PAUSE, time.monotonic()
            while task_id not in ready:
                ahead = [one for one in ids[index : index + WINDOW] if one not in ready]
                ready.update(look.ended_metas(self._app.backend, ledger, ahead))
                if task_id in ready or self._survey.is_forgotten(task_id):
                    break
                if timeout is not None and time.monotonic() - waited_since >= timeout:
                    raise TimeoutError(f"Prompt {index} of batch {self.id} has not ended in {timeout:g} s.")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            yield BatchItem.of(self._record.item_id(index), task_id, ready.pop(task_id, None))

    def get(self, timeout: float | None = None) -> BatchResult:
        """All outcomes, once the last prompt has ended.

        Raises `TimeoutError` after `timeout` seconds, `BatchFailed` for a batch whose failures are more than
        it tolerates; with "fail_fast" the first failure of a prompt.
        """
        if self._result is None:
            self._result = self._wait(timeout)
        return self._result

    def cancel(self) -> int:
        """Cancel all that has not ended, here and at the API; how many prompts lined up or were under way.

        The callback still runs, with what was answered, unless the batch is "fail_fast".
        """
        return cancel_members(access_of(self._app).ledger, self._record, even_unseen=False)

    def retry_failed(
        self,
        prompts: Iterable[Written] | None = None,
        *,
        even_unknown: bool = False,
        callback: Signature[Any] | None = None,
        errback: Signature[Any] | None = None,
        group_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Batch:
        """A new batch of those that have failed so far, with the ids they had.

        Those with an unknown outcome may have been answered and paid for; they are sent again only with
        `even_unknown`. Cancelled ones are not. The handle that `process_batch` returned knows the rest; one
        that was restored must be told the same `prompts` again, as they are kept nowhere, and the options.

        Raises `InvalidRequest` when the prompts are missing, or are not those of this batch.
        """
        call = self._call
        if prompts is not None:
            items = read_items(prompts)
            if fingerprint(items, self.id) != self._record.fingerprint:
                raise InvalidRequest(f"These are not the prompts of batch {self.id}, or not in its order.")
            call = Call(items, callback, errback, dict(group_options or {}), {"lane": LANE, **options})
        if call is None:
            raise InvalidRequest(
                "A restored batch has no prompts, as they are kept nowhere: give them again."
            )
        wanted = {Outcome.FAILED, Outcome.UNKNOWN} if even_unknown else {Outcome.FAILED}
        failed = [index for index, outcome in self._outcomes().items() if outcome in wanted]
        again = replace(call, items=tuple(call.items[index] for index in sorted(failed)))
        return Batch._publish(again, self._record.on_error)

    @classmethod
    def _publish(cls, call: Call, on_error: OnError) -> Batch:
        app = response_tasks.process_ai_response.app
        for item in call.items:
            check(item, call.options)
        batch_id = str(uuid.uuid4())
        kept = Record(
            batch_id,
            len(call.items),
            on_error,
            time.time(),
            fingerprint(call.items, batch_id),
            ids_of(call.items),
        )
        batch = cls(app, kept, call)
        if app.conf.task_always_eager:
            body = body_of(call, kept, kept.to_message())
            batch._result = BatchResult.from_result(publish(call, kept, body).get())
            return batch
        access = access_of(app)
        ledger, body = access.ledger, body_of(call, kept, kept.id)
        record.save(ledger, kept)
        try:
            with desk(app, access):
                publish(call, kept, body)
            Register(app, ledger).enter(Entry(kept.id, addressed(body), queues_of(call)))
        except BaseException:
            _take_back(ledger, kept)
            raise
        return batch

    def _outcomes(self) -> dict[int, Outcome]:
        if self._result is not None:
            return {index: item.outcome for index, item in enumerate(self._result.items)}
        return self._survey.outcomes()

    def _wait(self, timeout: float | None) -> BatchResult:
        outcome = self._outcome_of_body(timeout)
        if isinstance(outcome, Mapping):
            return BatchResult.from_result(outcome)
        fails_fast = self._record.on_error == FAIL_FAST
        if fails_fast and (first := record.stopped_by(access_of(self._app).ledger, self._record)):
            cause = self._app.AsyncResult(first).result
            if isinstance(cause, FreddyError):
                raise cause
        if outcome is None or (isinstance(outcome, ChordError) and not fails_fast):
            return judged(self._record, self._app)
        raise outcome

    def _outcome_of_body(self, timeout: float | None) -> Any:
        """What the chord's body made or raised; None when it will do neither: the broker lost its message."""
        body, began, was_over = self.body, time.monotonic(), False
        while True:
            left = PATIENCE if timeout is None else timeout - (time.monotonic() - began)
            try:
                return body.get(timeout=max(0.0, min(left, PATIENCE)), propagate=False, follow_parents=False)
            except CeleryTimeoutError:
                if timeout is not None and left <= PATIENCE:
                    raise TimeoutError(f"Batch {self.id} has not ended in {timeout:g} s.") from None
            is_over = self._survey.is_over()
            if is_over and was_over:  # the body has had its time to run after the last prompt
                return None
            was_over = is_over


def _take_back(ledger: Ledger, kept: Record) -> None:
    """Cancel what was published of a batch; what was not is fenced by it, which does no harm."""
    try:
        cancel_members(ledger, kept)
    except RedisError as error:
        logger.warning(
            "Batch %s was published in part and is not cancelled (%s): do so by `Batch.restore(id).cancel()`",
            kept.id,
            type(error).__name__,
        )
