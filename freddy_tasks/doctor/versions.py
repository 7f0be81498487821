"""Versions of what a deployment runs on, and which of them have known faults. Pure."""

from __future__ import annotations

import re

from .findings import Finding, error, fine, warning

FAULTY_CELERY = (5, 7, 0)
SURVIVOR = "freddy_tasks.consumer:SurvivingConsumer"


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, at most three: (5, 7, 0) of `5.7.0rc1`."""
    found = re.match(r"\d+(?:\.\d+){0,2}", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def judge_versions(celery: str, redis_py: str) -> Finding:
    """Whether this package works with these versions."""
    told = f"Celery {celery} and redis-py {redis_py}"
    if numbers(celery) < (5, 7):
        return error(
            "versions",
            f"{told}: Celery before 5.7 counts a redelivered chord member twice, and runs the body again.",
            "Install celery>=5.7,<6.",
        )
    if numbers(redis_py) < (6, 4):
        return error("versions", f"{told}: redis-py before 6.4 was never tried.", "Install redis>=6.4.")
    if numbers(celery) >= (6,):
        return warning("versions", f"{told}: Celery 6 was never tried.", "Install celery>=5.7,<6.")
    return fine("versions", f"{told}.")


def judge_consumer(celery: str, *, broker_is_redis: bool, survives: bool) -> Finding | None:
    """Celery 5.7.0 with Redis as broker needs our consumer; `survives` tells that it has it."""
    if not broker_is_redis or numbers(celery) != FAULTY_CELERY:
        return None
    if survives:
        return fine("consumer", "The worker outlives a restart of its broker.")
    return warning(
        "consumer",
        "Celery 5.7.0 ends a worker whose Redis restarts while it holds a message with a countdown. Messages "
        "of this package have none, those of your own tasks may.",
        f'Set worker_consumer = "{SURVIVOR}", and let a supervisor start workers again.',
    )
