"""Where the prompts of a batch line up: in the waiting room at once, and not first in the broker's queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from celery import Celery
from celery.app.task import Context
from celery.utils.time import maybe_make_aware
from kombu import Producer

from freddy_tasks.calls import read_call
from freddy_tasks.continuation import SUBMIT, options_of
from freddy_tasks.records import Enlisted, Phase
from freddy_tasks.runtime import Runtime
from freddy_tasks.tasks import reception

CHUNK = 100  # prompts a round trip


class Desk:
    """A producer that lines prompts up in the waiting room; all other messages it sends.

    What a worker would have made of the message is on record from the start, where no broker can lose it, and
    a dispatcher publishes it when its turn comes.
    """

    def __init__(self, app: Celery, runtime: Runtime, producer: Producer) -> None:
        self._app = app
        self._runtime = runtime
        self._producer = producer
        self._taken: list[tuple[Enlisted, Callable[[], None]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> None:
        """Take one message; the options are those of `kombu.Producer.publish`.

        Raises `redis.exceptions.RedisError` when the state server cannot be reached, and what kombu raises
        when the broker cannot.
        """
        headers: Mapping[str, Any] = options.get("headers") or {}
        is_prompt = headers.get("task") == SUBMIT and isinstance(body, tuple)
        send = partial(self._producer.publish, body, **options)
        if not is_prompt:
            send()
            return
        for queue in options.get("declare") or ():  # nobody would, before the first message reaches it
            self._producer.maybe_declare(queue)
        self._taken.append((self._enlisted(body, headers, options), send))
        if len(self._taken) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Put on record what was taken since the last time; raises as `publish` does."""
        taken, self._taken = self._taken, []
        if not taken:
            return
        phases = self._runtime.ledger.enlist(enlisted for enlisted, _ in taken)
        for (_, send), phase in zip(taken, phases, strict=True):
            if phase is Phase.CANCELLED:  # before it came here: a worker tells Celery so
                send()

    def _enlisted(self, body: Any, headers: Mapping[str, Any], options: Mapping[str, Any]) -> Enlisted:
        args, kwargs, embedded = body
        delivery_info = {name: options.get(name) for name in ("exchange", "routing_key", "priority")}
        request = Context(
            {**headers, **embedded, "reply_to": options.get("reply_to"), "delivery_info": delivery_info}
        )
        settings = self._runtime.settings
        call = read_call(self._app, settings, options.get("priority"), *args, **kwargs)
        return Enlisted(
            headers["id"],
            call.job,
            settings.timeout if call.timeout is None else call.timeout,
            call.timeout is not None,
            options=options_of(self._app.tasks[SUBMIT], request),
            body={"args": args, "kwargs": kwargs},
            delay=self._seconds_until(headers.get("eta")) or 0.0,
            patience=self._seconds_until(headers.get("expires")),
        )

    def _seconds_until(self, moment: str | None) -> float | None:
        if not moment:
            return None
        aware = maybe_make_aware(datetime.fromisoformat(moment), self._app.timezone)
        return max(0.0, aware.timestamp() - self._runtime.clock())


@contextmanager
def desk(app: Celery, runtime: Runtime) -> Iterator[Desk]:
    """Have all prompts that are published within the context line up; they are on record when it is left."""
    with app.producer_pool.acquire(block=True) as producer:
        opened = Desk(app, runtime, producer)
        token = reception.set(opened)
        try:
            yield opened
        finally:
            reception.reset(token)
        opened.flush()
