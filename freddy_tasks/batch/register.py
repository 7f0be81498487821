"""Which batches have not ended: kept in the state server, for the workers that watch over them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from celery.backends.redis import RedisBackend
from kombu.utils.json import dumps, loads

from freddy_tasks.ledger import Ledger

from .record import TTL


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch that is open: what ends it, and where its messages wait."""

    batch_id: str
    body: Mapping[str, Any] = field(repr=False)  # signature of its chord's body, with callback and stand-in
    queues: tuple[str, ...] | None  # None: they cannot be told


class Register:
    """The open batches of an app.

    Any method raises `redis.exceptions.RedisError` when the state server cannot be reached.
    """

    def __init__(self, app: Celery, ledger: Ledger) -> None:
        # Apps on one broker share its ledger, but a watch must find the results of what it watches.
        place = hashlib.sha256(_place_of(app.backend).encode()).hexdigest()[:8]
        self.key = f"{ledger.prefix}:batches:{place}"
        self._redis = ledger.redis

    def enter(self, entry: Entry) -> None:
        """Put a batch down, after its last message was published."""
        with self._redis.pipeline() as pipe:
            pipe.hset(self.key, entry.batch_id, dumps({"body": entry.body, "queues": entry.queues}))
            pipe.expire(self.key, TTL)
            pipe.execute()

    def strike(self, batch_id: str) -> None:
        """Take a batch off: its end is stored."""
        self._redis.hdel(self.key, batch_id)

    def open_ids(self) -> list[str]:
        """The ids of all, at the cost of one command."""
        ids: list[str] = self._redis.hkeys(self.key)
        return ids

    def read(self, batch_id: str) -> Entry | None:
        """What was put down of a batch; None when it is not there any more."""
        kept = self._redis.hget(self.key, batch_id)
        if kept is None:
            return None
        plain = loads(kept)
        return Entry(batch_id, plain["body"], None if plain["queues"] is None else tuple(plain["queues"]))


def _place_of(backend: Any) -> str:
    """Where results are kept: callers and workers may spell it in two ways, and log in as different users."""
    if not isinstance(backend, RedisBackend):
        return re.sub("(?<=//)[^/@]*@", "", backend.as_uri())
    chosen: Any = backend.connparams  # type: ignore[attr-defined]  # missing in the stubs
    servers = [
        (each.get("host"), each.get("port"), each.get("path")) for each in chosen.get("hosts", [chosen])
    ]
    return repr((servers, chosen.get("db"), backend.task_keyprefix))
