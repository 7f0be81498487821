"""What a dispatcher has to publish: a message for each step that is due, or one for several."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu import Producer
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from .continuation import (
    ADVANCE,
    CANCEL,
    GENERATION_HEADER,
    POLL,
    SUBMIT,
    publish,
    route_of,
    sealed,
)
from .packing import Parcel, is_submit
from .records import Hop, Phase

logger = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds to wait for a connection of the app's pool


class Outbox:
    """Parcels in the order in which they leave; of one dispatcher, and one thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._parcels: deque[Parcel] = deque()

    def add(self, parcels: Iterable[Parcel]) -> None:
        """Put them behind the others."""
        self._parcels.extend(parcels)

    def publish(self) -> bool:
        """Send all that is there; False while the broker is away: what is left waits for the next attempt."""
        try:
            while self._parcels:
                with self._app.producer_pool.acquire(block=True, timeout=PATIENCE) as producer:
                    self._publish_until_refused(producer)
        except Exception as error:  # any transport has exceptions of its own; the lease is the backstop
            logger.warning("Broker away (%s); %d messages wait", type(error).__name__, len(self._parcels))
        return not self._parcels

    def _publish_until_refused(self, producer: Producer) -> None:
        connection: Any = producer.connection
        is_away = OperationalError, OSError, RedisError, *connection.connection_errors
        while self._parcels:
            parcel = self._parcels[0]
            try:
                publish(self._app, producer, **self._message_of(parcel))
            except is_away:
                raise
            except Exception as error:
                self._parcels.popleft()
                if len(parcel) > 1:
                    self._parcels.extendleft((hop,) for hop in reversed(parcel))
                else:
                    _tell_of_refusal(parcel[0], error)
                return  # a channel in which something was refused may be closed
            self._parcels.popleft()

    def _message_of(self, parcel: Parcel) -> dict[str, Any]:
        messages = [message_of(hop) for hop in parcel]
        if len(messages) == 1:
            return messages[0]
        return {
            "name": ADVANCE,
            "task_id": str(uuid.uuid4()),
            "args": [sealed(self._app, **message) for message in messages],
            "kwargs": {},
            "options": {**route_of(messages[0]["options"]), "ignore_result": True},
        }


def message_of(hop: Hop) -> dict[str, Any]:
    """The message that brings a job to its next step."""
    if hop.phase is Phase.CANCELLING:
        options = {
            name: hop.options[name] for name in ("exchange", "routing_key", "priority") if name in hop.options
        }
        return {
            "name": CANCEL,
            "task_id": f"{hop.task_id}-cancel-{hop.generation}",
            "args": [hop.task_id, hop.generation],
            "kwargs": {},
            "options": {**options, "ignore_result": True},
        }
    if is_submit(hop) and hop.body:  # none when it is too late to send the prompt
        return {
            "name": SUBMIT,
            "task_id": hop.task_id,
            "args": hop.body.get("args", []),
            "kwargs": hop.body.get("kwargs", {}),
            "options": hop.options,
            "headers": {GENERATION_HEADER: hop.generation},
        }
    return {
        "name": POLL,
        "task_id": hop.task_id,
        "args": [hop.generation],
        "kwargs": {},
        "options": hop.options,
        "headers": {GENERATION_HEADER: hop.generation},
    }


def _tell_of_refusal(hop: Hop, error: Exception) -> None:
    logger.error(
        "The broker refuses a message of task %s (%s), perhaps for its size or its exchange. It is published "
        "again by its lease, later each time, until its deadline; `freddy-tasks cancel %s` ends it now.",
        hop.task_id,
        type(error).__name__,
        hop.task_id,
    )
