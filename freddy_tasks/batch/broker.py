"""Where messages wait: the queue that each goes to, and which of them a Redis broker has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import redis
from celery import Celery
from celery.app.routes import MapRoute
from kombu.transport.redis import Channel

from freddy_tasks.connections import reads_from_redis

MOST = 1_000  # messages of a queue that are read at one look; with more, it is no time to miss any
_CHUNK = 200  # unacknowledged messages a round trip


def queue_of(app: Celery, name: str, options: Mapping[str, Any]) -> str | None:
    """Name of the queue that a task of this name is sent to; None where an exchange or a function decides."""
    router: Any = app.amqp.router
    if not all(isinstance(route, MapRoute) for route in router.routes):
        return None
    task = app.tasks.get(name)
    own = {option: getattr(task, option, None) for option in ("queue", "exchange", "routing_key")}
    chosen = {option: value for option, value in {**own, **options}.items() if value is not None}
    route = router.route(chosen, name)
    if route.get("queue") is None or route.get("exchange") or route.get("routing_key"):
        return None
    return str(route["queue"].name)


def held(app: Celery, queues: Iterable[str]) -> frozenset[str] | None:
    """Task ids of the messages in these queues, and of those that some worker, dead or alive, holds.

    None when it cannot be told: the broker is no Redis, or more than `MOST` messages wait. A message on its
    way between two places can escape one look. Raises `redis.exceptions.RedisError`, or what kombu raises,
    when the broker cannot be reached.
    """
    if not reads_from_redis(app):
        return None
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        if not isinstance(channel, Channel) or sum(map(channel._size, set(queues))) > MOST:
            return None
        # Workers take from the queues and note what they have: who looks in this order sees it twice, if at
        # all. Not by the channel's own client, which puts the prefix before the keys of some commands only.
        client = redis.Redis(connection_pool=channel.pool)
        waiting = [_id_of(message) for message in _queued(client, channel, queues)]
        taken = client.hscan_iter(f"{channel.global_keyprefix}{channel.unacked_key}", count=_CHUNK)
        return frozenset([*waiting, *(_id_of(json.loads(noted)[0]) for _, noted in taken)])


def _queued(client: Any, channel: Any, queues: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for queue in queues:
        for step in channel.priority_steps:
            key = f"{channel.global_keyprefix}{channel._q_for_pri(queue, step)}"
            yield from map(json.loads, client.lrange(key, 0, -1))


def _id_of(message: Mapping[str, Any]) -> str:
    """The task id, which Celery's message protocols 1 and 2 both have here."""
    return str((message.get("properties") or {}).get("correlation_id"))
