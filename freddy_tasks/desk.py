"""Where prompts line up in the waiting room at once, and not first in the broker's queue."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from typing import Any

from celery import Celery
from celery.app.task import Context
from celery.utils.time import maybe_make_aware
from kombu import Connection, Producer
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from .calls import read_call
from .continuation import SUBMIT, options_of
from .records import Enlisted, Phase
from .runtime import Access, access_of
from .settings import PREFIX

CHUNK = 100  # prompts a round trip


class Desk:
    """A producer that lines prompts up in the waiting room; all other messages it sends.

    What a worker would have made of the message is on record from the start, where no broker can lose it, and
    a dispatcher publishes it when its turn comes.
    """

    def __init__(self, app: Celery, access: Access, connection: Connection) -> None:
        self._app = app
        self._access = access
        self._connection: Any = connection
        self._producer = app.amqp.Producer(connection, auto_declare=False)
        self._taken: list[tuple[Enlisted, Callable[[], None]]] = []
        self._is_open = True
        self.failure: RedisError | None = None  # of the state server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> None:
        """Take one message; the options are those of `kombu.Producer.publish`.

        Raises `redis.exceptions.RedisError` when the state server cannot be reached, and what kombu raises
        when the broker cannot.
        """
        if not self._is_open:  # a greenlet that began within the context goes on with it
            with self._app.producer_or_acquire() as producer:
                producer.publish(body, **options)
            return
        send = partial(self._producer.publish, body, **options)
        headers, body = _by_protocol_2(options.get("headers") or {}, body)
        if headers.get("task") != SUBMIT:
            send()
            return
        self._declare(options)
        self._taken.append((self._enlisted(headers, body, options), send))
        if len(self._taken) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Put on record what was taken since the last time; raises as `publish` does."""
        taken, self._taken = self._taken, []
        if not taken:
            return
        try:
            phases = self._access.ledger.enlist(enlisted for enlisted, _ in taken)
        except RedisError as error:
            self.failure = error
            raise
        for (_, send), phase in zip(taken, phases, strict=True):
            if phase is Phase.CANCELLED:  # before it came here: a worker tells Celery so
                send()

    def close(self) -> None:
        """Let what is published from here on go to the broker, as if there were no desk."""
        self._is_open = False

    def _declare(self, options: Mapping[str, Any]) -> None:
        """Declare the queue, which nobody else would before the first message reaches it."""
        policy = options.get("retry_policy") or {}
        # As `kombu.Producer.publish` (5.7): without limits, the first connection is tried for ever.
        self._connection.transport_options.update(policy)
        for entity in options.get("declare") or ():
            self._producer.maybe_declare(entity, retry=bool(options.get("retry")), **policy)

    def _enlisted(self, headers: Mapping[str, Any], body: Any, options: Mapping[str, Any]) -> Enlisted:
        args, kwargs, embedded = body
        delivery_info = {
            "exchange": getattr(options.get("exchange"), "name", options.get("exchange")),
            "routing_key": options.get("routing_key"),
            "priority": options.get("priority"),
        }
        request = Context(
            {**headers, **embedded, "reply_to": options.get("reply_to"), "delivery_info": delivery_info}
        )
        settings = self._access.settings
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
        return max(0.0, aware.timestamp() - self._access.clock())


_open: ContextVar[Desk | None] = ContextVar("desk", default=None)


@contextmanager
def desk(app: Celery, access: Access) -> Iterator[Desk]:
    """Have all prompts that are published within the context line up; they are on record when it is left.

    Raises as `Desk.publish` does.
    """
    # Not of the pool: Celery takes one of it within, and where there is no second one would wait for ever.
    with app.connection_for_write() as connection, _desk(app, access, connection) as opened:
        token = _open.set(opened)
        try:
            yield opened
        finally:
            _open.reset(token)


@contextmanager
def desk_for(
    app: Celery, producer: Producer | None = None, connection: Connection | None = None
) -> Iterator[Desk | None]:
    """The desk for a prompt that is published within; None where it goes to the broker first.

    It is that of the context around, or one of its own where `FREDDY_LINE_UP` is set, on the connection that
    is given, or that of the producer. Raises as `Desk.publish` does, and `ConfigurationError` for a wrong
    setting.
    """
    around = _open.get()
    if around or app.conf.task_always_eager or not _all_line_up(app):
        yield around
    elif connection:
        with _desk(app, access_of(app), connection) as opened:
            yield opened
    else:
        with app.producer_or_acquire(producer) as own, _desk(app, access_of(app), own.connection) as opened:
            yield opened


def _all_line_up(app: Celery) -> bool:
    # Without it, publishing has no need of the other settings, nor of a state server.
    return f"{PREFIX}LINE_UP" in os.environ and access_of(app).settings.line_up


@contextmanager
def _desk(app: Celery, access: Access, connection: Connection) -> Iterator[Desk]:
    opened = Desk(app, access, connection)
    try:
        yield opened
    except OperationalError:
        if opened.failure is None:
            raise
        raise opened.failure from None  # which Celery took for the broker's, as that may be a Redis, too
    finally:
        opened.close()
    opened.flush()


def _by_protocol_2(headers: Mapping[str, Any], body: Any) -> tuple[Mapping[str, Any], Any]:
    """The headers of a task message, and its arguments with what is embedded; no headers of any other one."""
    if isinstance(body, tuple):
        return headers, body
    if "task" not in body:  # an event
        return {}, body
    embedded = {name: body[name] for name in ("callbacks", "errbacks", "chord")}
    return {**body, "headers": headers, "group": body["taskset"]}, (body["args"], body["kwargs"], embedded)
