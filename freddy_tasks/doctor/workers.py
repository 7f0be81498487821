"""The workers that run at this moment: does anyone hear prompts, and does anyone dispatch? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .findings import Finding, error, fine, warning


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker that answered."""

    name: str
    pool: str  # module of its pool
    queues: frozenset[str]  # of all workers of that name
    namesakes: int = 0  # further workers of that name


def broker_away(why: str) -> Finding:
    """A broker that does not answer."""
    return error(
        "broker",
        f"The broker cannot be used: {why}. No prompt and no poll reaches a worker.",
        "Start it, and check its address, password and network from this machine.",
    )


def judge_workers(
    workers: Sequence[WorkerFacts], queue: str, dispatchers: frozenset[str] | None
) -> list[Finding]:
    """Every check of the workers; `dispatchers` are those with a sign of life, None when nobody can tell."""
    if not workers:
        return [
            warning(
                "workers",
                "No worker answers: prompts wait in the broker, and responses under way are not looked at.",
                "Start one: freddy-tasks worker -A your.app.",
            )
        ]
    found = [_hearing(workers, queue), *_sharing(workers)]
    return found if dispatchers is None else [*found, _dispatching(workers, dispatchers)]


def _hearing(workers: Sequence[WorkerFacts], queue: str) -> Finding:
    if any(queue in worker.queues for worker in workers):
        return fine("workers", f"Answering now: {_count(workers)}.")
    return error(
        "workers",
        f"{_count(workers)} answered, and none takes messages from queue {queue!r}: prompts wait for ever.",
        f"Start a worker with --queues {queue}, or correct task_routes.",
    )


def _sharing(workers: Sequence[WorkerFacts]) -> list[Finding]:
    shared = [f"{worker.namesakes + 1} are called {worker.name}" for worker in workers if worker.namesakes]
    if not shared:
        return []
    return [
        warning(
            "worker_names",
            f"Workers share a name: {', '.join(shared)}. Monitors take them for one, and so does this check.",
            "Give each worker a name of its own: celery worker -n name@%h.",
        )
    ]


def _dispatching(workers: Sequence[WorkerFacts], dispatchers: frozenset[str]) -> Finding:
    without = sorted(worker.name for worker in workers if worker.name not in dispatchers)
    if not without:
        return fine("dispatchers", "Every worker dispatches what waits.")
    remedy = (
        'Add include=["freddy_tasks.tasks"] to its app and start it again; it must have the same broker, '
        "FREDDY_STATE_URL and FREDDY_STATE_PREFIX as the rest."
    )
    names = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
    if dispatchers:
        return warning(
            "dispatchers",
            f"Without a dispatcher: {names}. Others do the work; but these may not know the tasks, or keep "
            "another ledger.",
            remedy,
        )
    return error(
        "dispatchers",
        f"No worker dispatches what waits ({names}): a response submitted is never looked at again.",
        remedy,
    )


def _count(workers: Sequence[WorkerFacts]) -> str:
    count = sum(1 + worker.namesakes for worker in workers)
    return "1 worker" if count == 1 else f"{count} workers"
