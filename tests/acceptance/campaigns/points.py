"""Points of a response's way at which a worker may die, and how it is made to: the whole process group.

The production code has no hooks. The worker's own runtime is wrapped, Celery's signals are used, and for
the moment between a request and its reply the standard library's connection.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import redis
from celery import Celery, signals, states

from freddy_tasks import outbox
from freddy_tasks.records import Held, Popped
from freddy_tasks.records import Parked as Waits
from freddy_tasks.runtime import build, use
from freddy_tasks.settings import load_settings

BODY = "survive.collect"


def _first_wait(args: tuple[Any, ...], result: Any) -> bool:
    return isinstance(result, Waits) and not args[0].job.response_id


def _later_wait(args: tuple[Any, ...], result: Any) -> bool:
    return isinstance(result, Waits) and bool(args[0].job.response_id)


# Point: method of the runtime's part, whether before it, and what the call must have brought to count.
Counts = Callable[[tuple[Any, ...], Any], bool]
LEDGER: dict[str, tuple[str, bool, Counts]] = {
    "before intent": ("begin", True, lambda *_: True),
    "intent written": ("begin", False, lambda _, result: isinstance(result, Held)),
    "id shown": ("park", True, lambda *_: True),
    "id written": ("park", False, _first_wait),
    "parked": ("park", False, _later_wait),
    "popped": ("pop", False, lambda _, result: isinstance(result, Popped) and bool(result.hops)),
    "claimed": ("claim", False, lambda _, result: isinstance(result, Held)),
    "outcome kept": ("settle", False, lambda _, result: result is True),
    "result stored": ("close", True, lambda *_: True),
    "ledger closed": ("close", False, lambda _, result: result is True),
}
CLIENT: dict[str, tuple[str, bool, Counts]] = {
    "reply received": ("create", False, lambda *_: True),
    "GET done": ("retrieve", False, lambda _, result: getattr(result.seen, "terminal", False)),
}
POINTS = (
    "before intent", "intent written", "request sent", "reply received", "id shown", "id written", "popped",
    "published", "claimed", "GET done", "parked", "outcome kept", "body to be published", "body published",
    "result stored", "ledger closed",
)  # fmt: skip
# Between the intent and the first sight of the id nobody can know whether the API has the prompt.
UNKNOWABLE = ("intent written", "request sent", "reply received")


def arm(app: Celery, point: str, flag: str) -> None:
    """Let the first of this app's processes that reaches the point take its whole group with it."""

    def die() -> None:
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        Path(flag).write_text(str(os.getpid()))
        os.killpg(0, signal.SIGKILL)

    def wrap(**_: Any) -> None:
        runtime = build(app, load_settings())
        if point in LEDGER:
            runtime = replace(runtime, ledger=_Deadly(runtime.ledger, *LEDGER[point], die))
        if point in CLIENT:
            runtime = replace(runtime, client=_Deadly(runtime.client, *CLIENT[point], die))
        use(app, runtime)

    signals.worker_init.connect(wrap, weak=False)
    signals.worker_process_init.connect(wrap, weak=False)
    match point:
        case "request sent":
            _die_before_a_reply_is_read(die)
        case "published":
            outbox.publish = _then(outbox.publish, die)
        case "body to be published":
            signals.before_task_publish.connect(_for_body(die), weak=False)
        case "body published":
            signals.after_task_publish.connect(_for_body(die), weak=False)
        case _ if point not in LEDGER and point not in CLIENT:
            raise ValueError(point)


def cut_off(app: Celery, times: int, folder: str) -> None:
    """Let the result backend be away for the first so many outcomes that this app's workers store."""

    def wrap(**_: Any) -> None:
        store = app.backend.store_result

        def store_result(task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
            if state in states.READY_STATES:
                for number in range(times):
                    with contextlib.suppress(FileExistsError):
                        (Path(folder) / f"cut-{number}").touch(exist_ok=False)
                        raise redis.ConnectionError("cut off")
            return store(task_id, result, state, *args, **kwargs)

        app.backend.store_result = store_result

    signals.worker_process_init.connect(wrap, weak=False)


class _Deadly:
    """Something of the runtime, one of whose methods is the last."""

    def __init__(
        self,
        inner: Any,
        name: str,
        before: bool,
        counts: Counts,
        die: Callable[[], None],
    ) -> None:
        self._inner, self._name, self._before, self._counts, self._die = inner, name, before, counts, die

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._last if name == self._name else found

    def _last(self, *args: Any, **kwargs: Any) -> Any:
        if self._before:
            self._die()
        result = getattr(self._inner, self._name)(*args, **kwargs)
        if not self._before and self._counts(args, result):
            self._die()
        return result


def _then(call: Callable[..., Any], die: Callable[[], None]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        die()
        return result

    return called


def _for_body(die: Callable[[], None]) -> Callable[..., None]:
    def published(sender: Any = None, **_: Any) -> None:
        if sender == BODY:
            die()

    return published


def _die_before_a_reply_is_read(die: Callable[[], None]) -> None:
    read = HTTPConnection.getresponse

    def getresponse(self: HTTPConnection) -> Any:
        if getattr(self, "_method", "") == "POST":
            die()
        return read(self)

    HTTPConnection.getresponse = getresponse  # type: ignore[method-assign]
