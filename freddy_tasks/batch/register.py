"""Which batches have not ended: kept in the state server, for the workers that watch over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kombu.utils.json import dumps, loads

from freddy_tasks.ledger import Ledger

from .record import TTL


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch that is open: what ends it, and where its messages wait."""

    batch_id: str
    body: Mapping[str, Any] = field(repr=False)  # signature of its chord's body, with callback and stand-in
    queues: tuple[str, ...] | None  # None: they cannot be told


def enter(ledger: Ledger, entry: Entry) -> None:
    """Put a batch on the register, after its last message was published."""
    key, plain = _key(ledger), {"body": entry.body, "queues": entry.queues}
    with ledger.redis.pipeline() as pipe:
        pipe.hset(key, entry.batch_id, dumps(plain))
        pipe.expire(key, TTL)
        pipe.execute()


def strike(ledger: Ledger, batch_id: str) -> None:
    """Take a batch off the register: its end is stored."""
    ledger.redis.hdel(_key(ledger), batch_id)


def open_ids(ledger: Ledger) -> list[str]:
    """The ids of all batches on the register, at the cost of one command."""
    ids: list[str] = ledger.redis.hkeys(_key(ledger))
    return ids


def read(ledger: Ledger, batch_id: str) -> Entry | None:
    """What the register has of a batch; None when it is not there any more."""
    kept = ledger.redis.hget(_key(ledger), batch_id)
    if kept is None:
        return None
    plain = loads(kept)
    return Entry(batch_id, plain["body"], None if plain["queues"] is None else tuple(plain["queues"]))


def _key(ledger: Ledger) -> str:
    return f"{ledger.prefix}:batches"
