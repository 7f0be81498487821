"""What finished responses have taught about when to look, kept in Redis for all workers."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError, WatchError

from .history import History
from .learning import schedule_for
from .models import Job, Response
from .schedules import Schedule, Tiers

logger = logging.getLogger(__name__)

REMEMBERED = 30 * 86_400  # seconds a class is remembered after its last response
FRESH = 2.0  # seconds for which a schedule is used before the store is asked again
LEAST_INTERVAL = 0.05  # seconds between two lessons of one process: of many at once, some are enough
MOST_CLASSES = 1_000  # kept in a process at once


class Experience:
    """Schedules by class, a class being a model and a label. Safe to share between threads.

    It never fails a response: without the store, or with one that cannot be reached, the tiers apply.
    """

    def __init__(
        self,
        redis: Any,
        prefix: str,
        tiers: Tiers,
        lag_per_poll: float | None = None,
        lag_p95: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._tiers = tiers
        self._objective = {"lag_per_poll": lag_per_poll, "lag_p95": lag_p95}
        self._monotonic = monotonic
        self._schedules: dict[str, tuple[float, Schedule]] = {}
        self._next_lesson = 0.0

    def schedule(self, job: Job) -> Schedule:
        """When to look for a response of this class."""
        key = self._key(job)
        until, schedule = self._schedules.get(key, (0.0, None))
        if schedule is None or self._monotonic() >= until:
            schedule = schedule_for(self._history(key), self._tiers, **self._objective)
            if len(self._schedules) >= MOST_CLASSES:
                self._schedules.clear()
            self._schedules[key] = (self._monotonic() + FRESH, schedule)
        return schedule

    def learn(self, job: Job, response: Response) -> None:
        """Add a finished response; one whose times the API does not tell teaches nothing."""
        if response.created_at is None or response.completed_at is None:
            return
        if self._monotonic() < self._next_lesson:
            return
        self._next_lesson = self._monotonic() + LEAST_INTERVAL
        ran = None if response.started_at is None else response.completed_at - response.started_at
        key = self._key(job)
        try:
            with self._redis.pipeline() as pipe:
                pipe.watch(key)
                history = History.from_json(pipe.get(key)).add(
                    response.completed_at - response.created_at, submitted_at=response.created_at, ran=ran
                )
                pipe.multi()
                pipe.set(key, history.to_json(), ex=REMEMBERED)
                pipe.execute()
        except WatchError:  # another worker taught the class at this moment: one lesson is enough
            pass
        except RedisError as error:
            logger.warning("State server away; a duration is not learned: %s", type(error).__name__)

    def _history(self, key: str) -> History:
        try:
            return History.from_json(self._redis.get(key))
        except RedisError:
            return History.empty()

    def _key(self, job: Job) -> str:
        name = hashlib.sha256(f"{job.model}\n{job.label}".encode()).hexdigest()[:16]
        return f"{self._prefix}:history:{name}"
