"""An app whose messages run when a test says so, with something that happens in the middle of a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from pydantic import SecretStr

from freddy_tasks.continuation import SUBMIT
from freddy_tasks.emulator import Emulator
from freddy_tasks.outbox import message_of
from freddy_tasks.records import Phase
from freddy_tasks.runtime import Runtime, build, use
from freddy_tasks.settings import Settings

LEASE = 30.0  # seconds; no test waits for it
ENDLESS = "Whales [emulate: polls=99]"


@dataclass
class Interrupted:
    """The real client, with something that happens after the API's reply and before the caller has it."""

    client: Any
    then: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)

        def calling(*args: Any) -> Any:
            reply = call(*args)
            then, self.then = self.then, None
            if then:
                then()
            return reply

        return calling


@dataclass
class Stage:
    """An app whose messages run when a test says so, each through Celery's own tracer."""

    app: Celery
    runtime: Runtime
    api: Emulator
    client: Interrupted
    late: float = 0.0  # seconds by which this machine's clock ran on during a call
    callbacks: list[Any] = field(default_factory=list)

    def use(self, runtime: Runtime) -> None:
        """Go on with another runtime."""
        self.runtime = runtime
        use(self.app, runtime)

    def run(
        self,
        name: str,
        task_id: str,
        args: Any = (),
        kwargs: Any = None,
        headers: Any = None,
        **fields: Any,
    ) -> Any:
        """Run one message, as a worker does; `fields` are further ones of its request."""
        trace = build_tracer(name, self.app.tasks[name], app=self.app)
        request = {
            "id": task_id,
            "headers": headers or {},
            "delivery_info": {"routing_key": "celery", "exchange": ""},
            "ignore_result": False,
            **fields,
        }
        return trace(task_id, list(args), kwargs or {}, request)

    def submit(self, task_id: str, prompt: str = ENDLESS) -> Any:
        """Run the user's own message."""
        return self.run(SUBMIT, task_id, [prompt])

    def next(self, task_id: str) -> dict[str, Any]:
        """The message of a job whose pause, or lease, is over."""
        ledger = self.runtime.ledger
        ledger.redis.zadd(f"{ledger.prefix}:due", {task_id: 0}, xx=True)
        (hop,) = ledger.pop().hops
        return message_of(hop)

    def deliver(self, message: Mapping[str, Any]) -> Any:
        """Run a message of the waiting room."""
        return self.run(
            message["name"],
            message["task_id"],
            message["args"],
            message["kwargs"],
            dict(message.get("headers") or {}),
        )

    def state(self, task_id: str) -> str:
        """What a caller sees."""
        return str(self.app.AsyncResult(task_id).state)

    def phase(self, task_id: str) -> Phase:
        """What the ledger says."""
        record = self.runtime.ledger.record(task_id)
        assert record is not None
        return record.phase


class Killed(BaseException):
    """What no handler catches: the step ends where it stands."""


def kill_before_the_id_is_on_record(stage: Stage, monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    """Submit; the worker has shown the id to Celery, and dies."""

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stage.runtime.ledger, "park", die)
        with pytest.raises(Killed):
            stage.submit("t", prompt)
    assert stage.phase("t") is Phase.SENT


def stage_of(app: Celery, api: Emulator, state_url: str, **options: Any) -> Stage:
    """A stage for an app; `options` are further settings."""
    settings = Settings(
        api_key=SecretStr(api.key),
        base_url=api.url,
        plan="unlimited",
        lease=LEASE,
        state_url=SecretStr(state_url),
        **options,
    )
    built = build(app, settings)
    client = Interrupted(built.client)
    stage = Stage(app, built, api, client)
    stage.use(
        replace(built, client=client, monotonic=lambda: time.monotonic() + stage.late, sleep=lambda _: None)
    )
    return stage
