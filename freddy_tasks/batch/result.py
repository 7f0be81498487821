"""How a batch ends: each prompt in exactly one of completed, failed, cancelled, unknown. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from celery import states

from freddy_tasks.errors import FreddyError, LedgerLost, OutcomeUnknown, ResponseCancelled, from_result

from .items import ItemId


class Outcome(StrEnum):
    """How one prompt of a batch ended."""

    COMPLETED = "completed"  # there is an answer
    FAILED = "failed"  # there is none, and it may be asked again
    CANCELLED = "cancelled"  # somebody cancelled it
    UNKNOWN = "unknown"  # it may have been answered, and paid for: asking again is for a person to decide


@dataclass(frozen=True, slots=True)
class BatchItem:
    """How one prompt ended: the result of an answer, the error of anything else."""

    id: ItemId
    task_id: str
    outcome: Outcome
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    error: FreddyError | None = field(default=None, repr=False)

    @property
    def output_text(self) -> str:
        """The answer's text; empty where there is none."""
        return str((self.result or {}).get("output_text") or "")

    @property
    def usage(self) -> Mapping[str, Any]:
        """What the API counted for it; empty where it did not say."""
        usage = (
            self.result.get("usage")
            if self.result is not None
            else (self.error and self.error.info.get("usage"))
        )
        return usage if isinstance(usage, Mapping) else {}

    def to_result(self) -> dict[str, Any]:
        """Plain JSON; `from_result` reads it back."""
        plain: dict[str, Any] = {"id": self.id, "task_id": self.task_id, "outcome": self.outcome.value}
        if self.result is not None:
            plain["result"] = dict(self.result)
        if self.error is not None:
            plain["error"] = self.error.to_result()["error"]
        return plain

    @classmethod
    def from_result(cls, plain: Mapping[str, Any]) -> Self:
        """An item from the JSON of `to_result`."""
        return cls(
            plain["id"],
            str(plain["task_id"]),
            Outcome(plain["outcome"]),
            plain.get("result"),
            from_result(plain),
        )

    @classmethod
    def of(cls, item_id: ItemId, task_id: str, meta: Mapping[str, Any] | None) -> Self:
        """An item from what Celery's result backend says of its task: None when it says nothing any more."""
        result = (meta or {}).get("result")
        match (meta or {}).get("status"):
            case states.SUCCESS if isinstance(result, Mapping):
                error = from_result(result)
                if error is None:
                    return cls(item_id, task_id, Outcome.COMPLETED, result)
            case states.REVOKED:
                error = ResponseCancelled("The task was cancelled before it had an answer.")
            case None | states.SUCCESS:
                error = OutcomeUnknown(
                    "The task's result is not kept any more: it expired, or was forgotten."
                )
            case _ if isinstance(result, FreddyError):
                error = result
            case state:
                error = FreddyError(f"The task ended as {state}: {type(result).__name__}: {result}")
        return cls(item_id, task_id, _outcome_of(error), None, error)


@dataclass(frozen=True)
class BatchResult:
    """All prompts of a batch, in their order, and what they cost.

    A callback gets its JSON: `BatchResult.from_result(result)` makes it this again.
    """

    batch_id: str
    items: tuple[BatchItem, ...] = field(repr=False)

    @cached_property
    def completed(self) -> tuple[BatchItem, ...]:
        """Those with an answer, in order."""
        return self._where(Outcome.COMPLETED)

    @cached_property
    def failed(self) -> tuple[BatchItem, ...]:
        """Those that ended without an answer, and may be asked again."""
        return self._where(Outcome.FAILED)

    @cached_property
    def cancelled(self) -> tuple[BatchItem, ...]:
        """Those that somebody cancelled."""
        return self._where(Outcome.CANCELLED)

    @cached_property
    def unknown(self) -> tuple[BatchItem, ...]:
        """Those that may have been answered and paid for, with no answer here."""
        return self._where(Outcome.UNKNOWN)

    @cached_property
    def usage(self) -> dict[str, Any]:
        """The sums of all numbers that the API's `usage` objects hold, by their names."""
        return total_usage(item.usage for item in self.items)

    @property
    def counts(self) -> dict[str, int]:
        """How many ended each way; all four are there, and their sum is the number of prompts."""
        found = Counter(item.outcome for item in self.items)
        return {outcome.value: found[outcome] for outcome in Outcome}

    def to_result(self) -> dict[str, Any]:
        """Plain JSON; `from_result` reads it back."""
        return {
            "batch_id": self.batch_id,
            "counts": self.counts,
            "usage": self.usage,
            "items": [item.to_result() for item in self.items],
        }

    @classmethod
    def from_result(cls, plain: Mapping[str, Any]) -> Self:
        """A result from the JSON that a callback gets."""
        return cls(str(plain["batch_id"]), tuple(BatchItem.from_result(item) for item in plain["items"]))

    def _where(self, outcome: Outcome) -> tuple[BatchItem, ...]:
        return tuple(item for item in self.items if item.outcome is outcome)


def total_usage(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add usage objects up, name by name; what is no number is left out."""
    total: dict[str, Any] = {}
    for usage in usages:
        _add(total, usage)
    return total


def _add(total: dict[str, Any], usage: Mapping[str, Any]) -> None:
    for name, amount in usage.items():
        if isinstance(amount, Mapping):
            inner = total.setdefault(name, {})
            if isinstance(inner, dict):
                _add(inner, amount)
        elif isinstance(amount, int | float) and not isinstance(amount, bool):
            before = total.get(name, 0)
            if not isinstance(before, dict):
                total[name] = before + amount


def _outcome_of(error: FreddyError) -> Outcome:
    if isinstance(error, OutcomeUnknown | LedgerLost):
        return Outcome.UNKNOWN
    return Outcome.CANCELLED if isinstance(error, ResponseCancelled) else Outcome.FAILED
