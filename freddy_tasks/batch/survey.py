"""What is known of a batch's prompts while it goes on: where they stand, which have ended, which are lost."""

from __future__ import annotations

from celery import Celery

from freddy_tasks.models import Status
from freddy_tasks.records import Phase
from freddy_tasks.runtime import access_of

from . import look
from .record import Record
from .result import BatchItem, Outcome

_ENDED = look.OVER | {Phase.SETTLED, Phase.CANCELLING, Phase.CANCELLED}
_MAY_GO_ON = {Phase.SETTLED, Phase.SUSPENDED}  # where a person takes it up again
_WHERE = {Status.IN_PROGRESS: "in_progress"}


class Survey:
    """Looks at the prompts of one batch; those that have ended are remembered, and need no second look.

    Any method raises `redis.exceptions.RedisError` when the state server cannot be reached, or what the
    result backend's client raises.
    """

    def __init__(self, app: Celery, kept: Record) -> None:
        self._app = app
        self._record = kept
        self._ended: dict[int, tuple[Outcome, int]] = {}  # with what they cost
        self._passing: set[int] = set()  # of these, those that may go on all the same

    def counts(self) -> dict[str, int]:
        """The counts of `Progress`, at the cost of a round trip or two for each 200 that have not ended."""
        counts = self._look()
        for outcome, requests in self._ended.values():
            counts[outcome.value] = counts.get(outcome.value, 0) + 1
            counts["requests"] += requests
        return counts

    def outcomes(self) -> dict[int, Outcome]:
        """How those ended that have, by their positions; unknown where the result is not kept any more."""
        self._look()
        ids = {self._record.task_id(index): index for index in self._ended}
        metas = look.ready_metas(self._app.backend, list(ids))
        found = {ids[task_id]: BatchItem.of("", task_id, meta).outcome for task_id, meta in metas}
        return {index: found.get(index, Outcome.UNKNOWN) for index in self._ended}

    def is_over(self) -> bool:
        """True when every prompt has ended, or is one that the state server knows nothing of any more."""
        self._look()
        return len(self._ended) == self._record.size

    def is_forgotten(self, task_id: str) -> bool:
        """Nothing that is known of a prompt could still bring a result: the wait for it would have no end."""
        ((_, standing),) = look.standings(access_of(self._app).ledger, [task_id])
        # The result was stored before it was closed, so this look cannot come too early.
        return standing.phase in look.OVER and not any(look.ready_metas(self._app.backend, [task_id]))

    def _look(self) -> dict[str, int]:
        """Remember what has ended since the last look, and count the rest."""
        ledger, ids = access_of(self._app).ledger, self._record.task_ids()
        for index in self._passing:
            del self._ended[index]
        self._passing.clear()
        position = {task_id: index for index, task_id in enumerate(ids) if index not in self._ended}
        counts = {"waiting": 0, "queued": 0, "in_progress": 0, "requests": 0}
        unclear: dict[str, look.Standing] = {}
        for task_id, standing in look.standings(ledger, list(position)):
            if _is_completed(standing):
                self._ended[position[task_id]] = (Outcome.COMPLETED, standing.requests)
            elif standing.phase in _ENDED:
                unclear[task_id] = standing
            else:
                counts["requests"] += standing.requests
                counts[_WHERE.get(standing.status, "queued") if standing.submitted else "waiting"] += 1
        ended = {
            task_id: BatchItem.of("", task_id, meta).outcome
            for task_id, meta in look.ended_metas(self._app.backend, ledger, list(unclear))
        }
        for task_id, standing in unclear.items():
            outcome = ended.get(task_id, Outcome.UNKNOWN if standing.phase in look.OVER else None)
            if outcome is not None:
                if standing.phase in _MAY_GO_ON:
                    self._passing.add(position[task_id])
                self._ended[position[task_id]] = (outcome, standing.requests)
            else:
                counts["requests"] += standing.requests
                counts["queued" if standing.submitted else "waiting"] += 1
        return counts


def _is_completed(standing: look.Standing) -> bool:
    return standing.phase is Phase.CLOSED and standing.status is Status.COMPLETED and not standing.cancelled
