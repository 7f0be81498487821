"""Many tasks at one look: what the result backend and the ledger know of them, in a few round trips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import states
from celery.backends.redis import RedisBackend

from freddy_tasks.errors import FreddyError
from freddy_tasks.ledger import Ledger
from freddy_tasks.models import Status
from freddy_tasks.records import Phase

# Without a result there will be none. All prompts of a batch are on record before there is a handle of it:
# one that is not has ended, or was lost.
OVER = {None, Phase.CLOSED, Phase.SUSPENDED}
CHUNK = 200  # tasks a round trip: of those that have ended, it brings the whole answers


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the ledger has a task; `phase` is None for one it never saw, or has forgotten."""

    phase: Phase | None = None
    submitted: bool = False
    status: Status = Status.QUEUED
    polls: int = 0
    cancelled: bool = False  # somebody asked for that, perhaps when its answer was there

    @property
    def requests(self) -> int:
        """What it has cost of the plan so far: its submit and its polls that were answered."""
        return int(self.submitted) + self.polls


def ready_metas(backend: Any, task_ids: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What Celery keeps of those that have ended; the others are left out."""
    for start in range(0, len(task_ids), CHUNK):
        chunk = task_ids[start : start + CHUNK]
        for task_id, meta in zip(chunk, _metas(backend, chunk), strict=True):
            if meta is not None and meta.get("status") in states.READY_STATES:
                yield task_id, meta


def ended_metas(
    backend: Any, ledger: Ledger, task_ids: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The same, but for a failure of Celery's own where the ledger has an outcome that will replace it."""
    doubtful = []
    for task_id, meta in ready_metas(backend, task_ids):
        if meta["status"] != states.FAILURE or isinstance(meta["result"], FreddyError):
            yield task_id, meta
        else:
            doubtful.append(task_id)
    final = [one for one, standing in standings(ledger, doubtful) if standing.phase is not Phase.SETTLED]
    yield from ready_metas(backend, final)  # again: it may have been replaced since


def standings(ledger: Ledger, task_ids: Sequence[str]) -> Iterator[tuple[str, Standing]]:
    """Where the ledger has each of them."""
    for start in range(0, len(task_ids), CHUNK):
        chunk = task_ids[start : start + CHUNK]
        with ledger.redis.pipeline(transaction=False) as pipe:
            for task_id in chunk:
                pipe.hmget(f"{ledger.prefix}:job:{task_id}", "phase", "job", "cancel")
            found = pipe.execute()
        for task_id, (phase, job, cancel) in zip(chunk, found, strict=True):
            yield task_id, _standing(phase, json.loads(job) if job else {}, cancel == "1")


def _metas(backend: Any, task_ids: Sequence[str]) -> list[Mapping[str, Any] | None]:
    if not isinstance(backend, RedisBackend):
        return [backend.get_task_meta(task_id, cache=False) for task_id in task_ids]
    kept = backend.mget([backend.get_key_for_task(task_id) for task_id in task_ids])
    return [None if value is None else backend.decode_result(value) for value in kept]


def _standing(phase: str | None, job: Mapping[str, Any], is_cancelled: bool) -> Standing:
    if phase is None:
        return Standing()
    # One settled by its submit alone has no poll, and perhaps no id.
    submitted = bool(job.get("response_id")) or phase == Phase.SENT
    return Standing(
        Phase(phase),
        submitted,
        Status(job.get("status", Status.QUEUED)),
        int(job.get("polls", 0)),
        is_cancelled,
    )
