"""Where each prompt of a command stands, as its result backend tells, and how long to wait for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from celery import Celery, states
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from freddy_tasks.errors import FreddyError, ResponseTimeout, from_result
from freddy_tasks.ledger import ADMISSION_TIMEOUT, Ledger
from freddy_tasks.records import Phase

MARGIN = 120.0  # seconds past a deadline: two leases, so that a lost last poll has come back


@dataclass(frozen=True, slots=True)
class Sight:
    """One prompt, as last seen."""

    number: int  # of the prompt on the command line, from 1
    task_id: str
    published_at: float  # Unix seconds by the state server's clock
    state: str = states.PENDING
    facts: Mapping[str, Any] = field(default_factory=dict)  # `AsyncResult.info` while it waits
    outcome: Any = field(default=None, repr=False)  # the result, or the exception

    @property
    def ready(self) -> bool:
        """True when there is an outcome."""
        return self.state in states.READY_STATES

    @property
    def cancelled(self) -> bool:
        """True when it was revoked."""
        return self.state == states.REVOKED

    @property
    def error(self) -> Exception | None:
        """Why there is no answer, once that is certain."""
        if isinstance(self.outcome, Exception):
            return self.outcome
        return from_result(self.outcome) if isinstance(self.outcome, Mapping) else None

    @property
    def answer(self) -> Mapping[str, Any] | None:
        """The result dict."""
        return self.outcome if self.state == states.SUCCESS and self.error is None else None

    def latest(self, timeout: float) -> float:
        """Until when an outcome can be expected, in Unix seconds by the state server's clock."""
        if "deadline" in self.facts:
            return float(self.facts["deadline"]) + MARGIN
        waits_for_plan = 0.0 if self.state == states.PENDING else ADMISSION_TIMEOUT
        return self.published_at + waits_for_plan + timeout + MARGIN


class Watch:
    """Looks at prompts until all of them have an outcome; `timeout` is in seconds, for the whole way."""

    def __init__(self, app: Celery, ledger: Ledger, timeout: float) -> None:
        self.sights: list[Sight] = []
        self.blind = False  # the result backend did not answer the last look
        self._app = app
        self._ledger = ledger
        self._timeout = timeout
        seconds, microseconds = ledger.redis.time()
        self._offset: float = seconds + microseconds / 1e6 - time.monotonic()

    @property
    def now(self) -> float:
        """Unix seconds by the state server's clock."""
        return time.monotonic() + self._offset

    @property
    def open(self) -> list[Sight]:
        """Those without an outcome."""
        return [sight for sight in self.sights if not sight.ready]

    def add(self, task_id: str) -> None:
        """Watch a task that is about to be published."""
        self.sights.append(Sight(len(self.sights) + 1, task_id, self.now))

    def drop_last(self) -> None:
        """Watch the task that was added last no more: it was not published."""
        self.sights.pop()

    def look(self) -> None:
        """See where the open ones stand; those past all waiting are cancelled and end in an error.

        What was seen before stands while a server is away.
        """
        self.blind = False
        for sight in self.open:
            try:
                seen = self._seen(sight)
                if not seen.ready and self.now > seen.latest(self._timeout):
                    seen = self._given_up(seen)
            except (RedisError, OperationalError, OSError):
                self.blind = True
                return
            self.sights[sight.number - 1] = seen

    def nobody_works(self) -> bool:
        """True when there is no sign of life of any worker with a dispatcher."""
        try:
            return not self._ledger.dispatchers()
        except RedisError:
            return False

    def _seen(self, sight: Sight) -> Sight:
        meta = self._app.backend.get_task_meta(sight.task_id)
        state, found = meta["status"], meta.get("result")
        if state in states.READY_STATES:
            return replace(sight, state=state, outcome=found)
        return replace(sight, state=state, facts=found if isinstance(found, Mapping) else {})

    def _given_up(self, sight: Sight) -> Sight:
        self._ledger.cancel(sight.task_id)
        error: FreddyError = ResponseTimeout.because(
            "No outcome came, long past the deadline, and the response is being cancelled: is a worker "
            "running?",
            response_id=sight.facts.get("response_id"),
        )
        return replace(sight, state=states.FAILURE, outcome=error)


def is_settled(ledger: Ledger, task_id: str) -> bool:
    """True when nothing is left to be done about a task that was cancelled."""
    record = ledger.record(task_id)
    return record is None or record.phase in {Phase.CLOSED, Phase.CANCELLED}
