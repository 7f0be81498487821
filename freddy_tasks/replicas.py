"""Writes that a failover must not forget: nothing follows from them before the replicas have them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 0.5  # seconds that a write waits for its replicas
HASTE = 0.02  # seconds, where another has waited in vain a moment ago
PROBE_INTERVAL = 1.0  # seconds from a wait in vain to the next whole one


class Replicas:
    """How many replicas of the state server must have a write; safe to share between threads."""

    def __init__(self, redis: Any, wanted: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._wanted = wanted
        self._monotonic = monotonic
        self._next_probe = 0.0

    def confirm(self, write: Callable[[Any], Any]) -> tuple[Any, bool]:
        """The answer of `write(client)`, and whether the replicas have what it wrote.

        Asking costs a round trip, and half a second at most while too few of them answer; but that only once
        a second, as polls need the slots of a worker too. Raises `redis.exceptions.RedisError`, also when the
        write has happened.
        """
        if not self._wanted:
            return write(self._redis), True
        now = self._monotonic()
        is_probe = now >= self._next_probe
        # WAIT counts what its own connection wrote. On a broken one redis-py runs both again, perhaps on
        # another server, where the replicas of that one must have it.
        with self._redis.pipeline(transaction=False) as pipe:
            write(pipe)
            pipe.wait(self._wanted, round(1_000 * (PATIENCE if is_probe else HASTE)))
            answer, reached = pipe.execute()
        confirmed = reached >= self._wanted
        if confirmed:
            self._next_probe = 0.0
        elif is_probe:
            self._next_probe = self._monotonic() + PROBE_INTERVAL
        return answer, confirmed
