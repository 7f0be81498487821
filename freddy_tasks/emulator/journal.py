"""What the emulator saw: counts, requests without their keys, and the log of ended responses."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from freddy_tasks.emulator.exchange import Request
from freddy_tasks.emulator.jobs import Job, ended_at, status_at

REQUESTS_KEPT = 1_000
SECRET_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "proxy-authorization", "cookie"})
REDACTED = "[redacted]"


@dataclass(frozen=True, slots=True)
class Counts:
    """How much happened since the start or the last reset; refused requests count too."""

    posts: int
    gets: int
    deletes: int
    jobs: int
    """Responses created."""
    over_limit: int
    """Requests beyond the plan, each answered 429; a 429 put in as a fault is under ``faults``."""
    faults: Mapping[str, int]
    """Calls hit, by the fault's name."""
    polls: Mapping[str, int]
    """Retrieves, by response id."""
    submits: Mapping[str, int]
    """Creates, by idempotency key."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What can be known of one response. Moments are Unix seconds of the emulator's clock."""

    id: str
    status: str
    created_at: float
    started_at: float | None
    completed_at: float | None
    """When it ended, however it did."""
    duration: float | None
    """Seconds from creation to end."""
    polls: int
    idempotency_key: str | None
    prompt_sha256: str


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request line and its headers, names in lower case, keys redacted."""

    at: float
    method: str
    path: str
    query: str
    headers: Mapping[str, str]


def record_of(job: Job, now: float) -> JobRecord:
    """Return what can be known of a job at this moment."""
    end = ended_at(job, now)
    started = job.started_at if job.started_at is not None and job.started_at <= now else None
    return JobRecord(
        id=job.id,
        status=status_at(job, now),
        created_at=job.created_at,
        started_at=started if end is None or (started is not None and started <= end) else None,
        completed_at=end,
        duration=None if end is None else round(end - job.created_at, 6),
        polls=job.polls,
        idempotency_key=job.idempotency_key,
        prompt_sha256=job.digest,
    )


class Journal:
    """Counts and remembers. Not locked: the caller holds the emulator's lock."""

    def __init__(self, log_path: Path | None) -> None:
        self._log_path = log_path
        self._logged: set[str] = set()
        self.forget()

    def forget(self) -> None:
        """Start over; the log file stays."""
        self.methods: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.submits: Counter[str] = Counter()
        self.requests: deque[RequestRecord] = deque(maxlen=REQUESTS_KEPT)
        self._logged.clear()

    def arrived(self, request: Request, now: float) -> None:
        """Count a request and keep its line and headers."""
        self.methods[request.method] += 1
        headers = {name: _redacted(name, value) for name, value in request.headers.items()}
        self.requests.append(RequestRecord(now, request.method, request.path, request.query, headers))

    def ended(self, job: Job, now: float) -> None:
        """Add a line to the log for a job that has ended, once."""
        if self._log_path is None or job.id in self._logged or ended_at(job, now) is None:
            return
        self._logged.add(job.id)
        with self._log_path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(record_of(job, now))) + "\n")


def _redacted(name: str, value: str) -> str:
    if name not in SECRET_HEADERS:
        return value
    scheme, blank, _ = value.partition(" ")
    return f"{scheme} {REDACTED}" if blank and name.endswith("authorization") else REDACTED
