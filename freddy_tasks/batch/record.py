"""What is kept of a batch in the state server: enough to find all its tasks again, and no prompt."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from freddy_tasks.errors import ConfigurationError, InvalidRequest
from freddy_tasks.ledger import Ledger

from .items import ItemId

TTL = 30 * 86_400  # seconds; under a plan a batch may go on for weeks, and this is no prompt and no answer
COLLECT, FAIL_FAST = "collect", "fail_fast"
OnError = str | float


@dataclass(frozen=True, slots=True)
class Record:
    """One batch. The ids of its tasks follow from its own, so they need not be kept."""

    id: str
    size: int
    on_error: OnError = COLLECT  # or "fail_fast", or the tolerated share of prompts without an answer, 0 to 1
    created_at: float = 0.0  # Unix seconds
    fingerprint: str = ""
    item_ids: tuple[ItemId, ...] | None = field(default=None, repr=False)  # None: their positions

    @property
    def body_id(self) -> str:
        """Task id of the chord's body."""
        return self.id

    @property
    def salvage_id(self) -> str:
        """Task id of what stands in for the body."""
        return str(uuid.uuid5(uuid.UUID(self.id), "salvage"))

    @property
    def callback_id(self) -> str:
        """Task id of the callback, unless it has one of its own: the same when it is published twice."""
        return str(uuid.uuid5(uuid.UUID(self.id), "callback"))

    @property
    def group_id(self) -> str:
        """Id of the chord's header."""
        return str(uuid.uuid5(uuid.UUID(self.id), "group"))

    def item_id(self, index: int) -> ItemId:
        """The caller's id of a prompt, by its position."""
        return index if self.item_ids is None else self.item_ids[index]

    def task_id(self, index: int) -> str:
        """The task id of a prompt, by its position."""
        return str(uuid.uuid5(uuid.UUID(self.id), str(index)))

    def task_ids(self) -> list[str]:
        """The task ids of all prompts, in their order."""
        return [self.task_id(index) for index in range(self.size)]

    def to_message(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "id": self.id,
            "size": self.size,
            "on_error": self.on_error,
            "created_at": self.created_at,
            "fingerprint": self.fingerprint,
            "item_ids": None if self.item_ids is None else list(self.item_ids),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Read `to_message` back."""
        item_ids = message.get("item_ids")
        return cls(**{**message, "item_ids": None if item_ids is None else tuple(item_ids)})


def save(ledger: Ledger, record: Record) -> None:
    """Keep a record for a month from its last use."""
    ledger.redis.set(_key(ledger, record.id), json.dumps(record.to_message()), ex=TTL)


def load(ledger: Ledger, batch_id: str) -> Record:
    """The record of a batch. Raises `InvalidRequest` when there is none, or none any more."""
    kept = ledger.redis.getex(_key(ledger, batch_id), ex=TTL)
    if kept is None:
        raise InvalidRequest(
            f"No batch {batch_id} is known here: its record is dropped a month after its last use."
        )
    return Record.from_message(json.loads(kept))


def check_on_error(on_error: OnError) -> OnError:
    """`on_error` as it was given; raises `ConfigurationError` for anything but the three kinds."""
    if on_error in {COLLECT, FAIL_FAST}:
        return on_error
    if isinstance(on_error, int | float) and not isinstance(on_error, bool) and 0 <= on_error <= 1:
        return float(on_error)
    raise ConfigurationError(
        '`on_error` is "collect", "fail_fast", or the tolerated share of failures, from 0 to 1.'
    )


def stopped_by(ledger: Ledger, record: Record, failed_id: str | None = None) -> str | None:
    """The task whose failure stopped a `fail_fast` batch: the first one that is named here."""
    key = f"{_key(ledger, record.id)}:stopped_by"
    if failed_id is not None:
        ledger.redis.set(key, failed_id, ex=TTL, nx=True)
    first: str | None = ledger.redis.get(key)
    return first


def _key(ledger: Ledger, batch_id: str) -> str:
    return f"{ledger.prefix}:batch:{batch_id}"
