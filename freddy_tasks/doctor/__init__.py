"""Checks a deployment and says what is unsafe in it, why, and what to do.

Facts are gathered in one module and judged, by pure functions, in the others.
"""

from __future__ import annotations

import logging
import threading
from typing import Any
from uuid import uuid4

from celery import Celery
from redis.exceptions import RedisError

from freddy_tasks.client import Client
from freddy_tasks.connections import connect, state_server
from freddy_tasks.errors import ConfigurationError
from freddy_tasks.ledger import Ledger
from freddy_tasks.runtime import Runtime, open_ledger
from freddy_tasks.settings import Settings

from . import gathering
from .api import judge_api, judge_api_clock
from .app import AppFacts, judge_app, judge_pool
from .environment import judge_settings
from .findings import Finding, Severity, error, has_errors
from .state import judge_state, unreachable
from .workers import broker_away, judge_workers

__all__ = ["Finding", "Severity", "examine", "examine_worker", "has_errors"]

logger = logging.getLogger(__name__)

PLAN_DAY = 86_400.0  # seconds: once the day's requests are spent, the next answer may be as far away as that
LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING, Severity.ADVICE: logging.INFO}


def examine(app: Celery, *, has_tasks: bool, online: bool) -> list[Finding]:
    """Every check of an app, its servers, its workers and, when `online`, the API: one request.

    Takes some three seconds, most of it for workers to answer. Raises nothing: whatever cannot be reached
    is a finding.
    """
    settings, problems = gathering.read_settings()
    facts = gathering.app_facts(app, has_tasks=has_tasks)
    found = judge_settings(gathering.settings_facts(settings, problems))
    found += _judge_app(facts, settings)
    ledger, of_state = _examine_state(app, settings)
    found += of_state
    found += _examine_workers(app, facts, ledger, settings)
    if online and "FREDDY_API_KEY" not in problems:
        found += _examine_api(settings)
    return found


def examine_worker(app: Celery, runtime: Runtime, pool: str, consumer: object) -> None:
    """Log what is unsafe in a worker that starts, in a thread of its own: the start neither waits nor fails.

    `pool` is the name of the pool's module, `consumer` the class of the worker's consumer or its name.
    """
    threading.Thread(
        target=_log, args=(app, runtime, pool, consumer), name="freddy-doctor", daemon=True
    ).start()


def _log(app: Celery, runtime: Runtime, pool: str, consumer: object) -> None:
    try:
        for finding in _of_worker(app, runtime, pool, consumer):
            if finding.severity is not Severity.OK:
                level = LEVELS[finding.severity]
                logger.log(level, "%s: %s %s", finding.name, finding.message, finding.remedy)
    except Exception as fault:  # a worker must not end for advice, whatever an app's settings hold
        logger.warning(
            "This worker could not be examined (%s); try freddy-tasks doctor", type(fault).__name__
        )


def _of_worker(app: Celery, runtime: Runtime, pool: str, consumer: object) -> list[Finding]:
    facts = gathering.app_facts(app, has_tasks=True, consumer=consumer)
    of_pool = judge_pool(pool, polling_interval=_polling_interval(app), facts=facts)
    found = _judge_app(facts, runtime.settings) + ([of_pool] if of_pool else [])
    try:
        facts_of_state = gathering.state_facts(
            runtime.ledger.redis, "this worker's settings", runtime.settings.state_replicas
        )
    except RedisError:  # the dispatcher says so, again and again
        return found
    return found + judge_state(facts_of_state)


def _judge_app(facts: AppFacts, settings: Settings) -> list[Finding]:
    return judge_app(
        facts,
        reply=settings.connect_timeout + settings.reply_timeout,
        lease=settings.lease,
        longest=PLAN_DAY + settings.timeout,
        timeout=settings.timeout,
    )


def _examine_state(app: Celery, settings: Settings) -> tuple[Ledger | None, list[Finding]]:
    try:
        server = state_server(settings, app)
        client = connect(server)
        ledger = open_ledger(app, settings)
    except ConfigurationError as problem:
        return None, [error("state_server", problem.message, "Correct it, or set FREDDY_STATE_URL.")]
    try:
        return ledger, judge_state(gathering.state_facts(client, server.origin, settings.state_replicas))
    except RedisError as fault:
        return None, [unreachable(server.origin, gathering.safe_text(fault, app, settings))]
    finally:
        client.close()


def _examine_workers(
    app: Celery, facts: AppFacts, ledger: Ledger | None, settings: Settings
) -> list[Finding]:
    try:
        workers = gathering.worker_facts(app)
        dispatchers = frozenset(ledger.dispatchers()) if ledger else None
    except Exception as fault:  # any transport has exceptions of its own
        return [broker_away(gathering.safe_text(fault, app, settings))]
    interval = _polling_interval(app)
    pools = (judge_pool(pool, polling_interval=interval, facts=facts) for pool in {w.pool for w in workers})
    return [
        *judge_workers(workers, facts.queue, dispatchers),
        *(finding for finding in pools if finding is not None),
    ]


def _examine_api(settings: Settings) -> list[Finding]:
    try:
        client = Client.from_settings(settings)
    except ConfigurationError as problem:
        return [error("api", problem.message, "Correct FREDDY_BASE_URL.")]
    reply = client.retrieve(f"resp_{uuid4().hex}")
    client.close()
    clock = judge_api_clock(reply.hints.skew)
    return [judge_api(reply.seen), *([clock] if clock else [])]


def _polling_interval(app: Celery) -> Any:
    return (app.conf.broker_transport_options or {}).get("polling_interval")
