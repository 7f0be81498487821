"""An app as a user has it, with tasks of its own that tell what they were given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from celery.result import AsyncResult

from freddy_tasks.emulator import Emulator
from freddy_tasks.runtime import Runtime

DEADLINE = 30.0  # seconds: a test that has to wait longer has failed


@dataclass
class Witness:
    """What the worker's tasks did: every message's request, and what the app's own tasks were given."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def hops(self, task_id: str) -> list[dict[str, Any]]:
        """The requests that ran under one task id, the submit first."""
        return [request for request in self.requests if request["id"] == task_id]

    def calls_of(self, name: str) -> list[Any]:
        """What one of the app's own tasks was called with, call by call."""
        return [given for called, given in self.calls if called == name]


@dataclass(frozen=True)
class Shop:
    """An app as a user has it, with a few tasks of its own, and a worker that runs them."""

    app: Celery
    api: Emulator
    runtime: Runtime
    witness: Witness
    say: Any
    drop: Any
    title: Any
    rewrite: Any
    collect: Any
    complain: Any
    fail: Any
    note: Any
    on_error: Any
    on_error_late: Any
    on_error_bound: Any
    on_error_raising: Any


def wait_for(condition: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    """The condition's first true value; AssertionError when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing of the kind happened in time"
        time.sleep(0.01)
    return value


def answer_of(result: AsyncResult) -> Any:
    """A result, or the error, of a task that has to end."""
    return result.get(timeout=DEADLINE)


def shop_of(app: Celery, api: Emulator, runtime: Runtime, witness: Witness) -> Shop:
    """The app with its tasks."""
    lock = threading.Lock()

    def saw(name: str, given: Any) -> None:
        with lock:
            witness.calls.append((name, given))

    @app.task(name="shop.say", shared=False)
    def say(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "texts": [{"text": text}]}

    @app.task(name="shop.drop", shared=False)
    def drop(*_: Any) -> str:
        return ""

    @app.task(name="shop.title", shared=False)
    def title(response: dict[str, Any]) -> str:
        saw("title", response["output_text"])
        return str(response["output_text"]).upper()

    @app.task(name="shop.rewrite", shared=False)
    def rewrite(text: Any) -> str:
        saw("rewrite", text)
        return f"{text if isinstance(text, str) else text['output_text']}, again"

    @app.task(name="shop.collect", shared=False)
    def collect(responses: list[Any]) -> list[Any]:
        saw("collect", responses)
        return [_text(response) for response in responses]

    @app.task(name="shop.note", shared=False)
    def note(response: Any, *more: Any) -> None:
        saw("note", (response, *more))

    @app.task(name="shop.fail", shared=False)
    def fail(*_: Any) -> None:
        raise RuntimeError("out of paper")

    @app.task(name="shop.complain", shared=False)
    def complain(task_id: str) -> None:
        saw("complain", task_id)

    @app.task(name="shop.on_error", shared=False)
    def on_error(request: Any, error: Exception, trace: Any) -> None:
        saw("on_error", (request.id, error))

    @app.task(name="shop.on_error_late", shared=False)
    def on_error_late(first: Any, second: Any, third: Any, fourth: Any) -> None:
        saw("on_error_late", first)

    @app.task(name="shop.on_error_bound", shared=False, bind=True)
    def on_error_bound(self: Any, request: Any, error: Exception, trace: Any) -> None:
        saw("on_error_bound", error)

    @app.task(name="shop.on_error_raising", shared=False)
    def on_error_raising(request: Any, error: Exception, trace: Any) -> None:
        saw("on_error_raising", error)
        raise RuntimeError("the complaints desk is closed")

    return Shop(
        app, api, runtime, witness, say, drop, title, rewrite, collect, complain, fail, note,
        on_error, on_error_late, on_error_bound, on_error_raising,
    )  # fmt: skip


def _text(response: Any) -> Any:
    return response.get("output_text", response) if isinstance(response, dict) else response
