"""What an examination finds: one value a check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # responses are lost, run twice or wait for ever
    WARNING = "warning"  # so they may be, some day, or something costs more than it should
    ADVICE = "advice"  # what is promised is kept, and more could be
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what is so and why it matters, and what to do. No key, password or prompt is in it."""

    severity: Severity
    name: str
    message: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain JSON."""
        return asdict(self)


def error(name: str, message: str, remedy: str) -> Finding:
    """A finding that must be seen to."""
    return Finding(Severity.ERROR, name, message, remedy)


def warning(name: str, message: str, remedy: str) -> Finding:
    """A finding that should be seen to."""
    return Finding(Severity.WARNING, name, message, remedy)


def advice(name: str, message: str, remedy: str) -> Finding:
    """A finding that may be seen to."""
    return Finding(Severity.ADVICE, name, message, remedy)


def fine(name: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding(Severity.OK, name, message)


def has_errors(findings: Iterable[Finding]) -> bool:
    """True when at least one must be seen to."""
    return any(finding.severity is Severity.ERROR for finding in findings)
