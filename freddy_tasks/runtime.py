"""What a process needs to work: built once, after the fork, from the environment and the Celery app."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from celery import Celery

from .budget import Budget
from .client import Client
from .connections import connect, state_server
from .experience import Experience
from .ledger import Ledger
from .models import Job, Reply
from .polling import Policy
from .schedules import Schedule
from .settings import Settings, load_settings


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a process needs to line prompts up and to see what becomes of them; it has no need of a key."""

    settings: Settings
    ledger: Ledger
    clock: Callable[[], float] = time.time  # Unix seconds of this machine, for moments of others only


@dataclass(frozen=True, kw_only=True)
class Runtime(Access):
    """The outside world of a process that makes requests, as one value."""

    client: Client
    policy: Policy
    experience: Experience
    monotonic: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    sleep: Callable[[float], None] = time.sleep  # in eager mode, and while the state server is away

    def schedule(self, job: Job) -> Schedule:
        """When to look for this response."""
        return self.experience.schedule(job)

    def retry_in(self, reply: Reply) -> float | None:
        """Seconds until the moment before which the API wants no other call; None when it names none."""
        return None if reply.hints.retry_at is None else max(0.0, reply.hints.retry_at - self.clock())


_runtimes: WeakKeyDictionary[Celery, tuple[int, Runtime]] = WeakKeyDictionary()
_accesses: WeakKeyDictionary[Celery, tuple[int, Access]] = WeakKeyDictionary()


def runtime_of(app: Celery) -> Runtime:
    """The runtime of an app in this process.

    Raises `ConfigurationError` naming each variable that is missing or wrong.
    """
    pid, runtime = _runtimes.get(app, (0, None))
    if runtime is None or pid != os.getpid():
        runtime = build(app, load_settings())
        use(app, runtime)
    return runtime


def access_of(app: Celery) -> Access:
    """What a process that may make no requests has of an app's runtime: it needs no API key.

    Raises `ConfigurationError` naming each variable that is wrong.
    """
    pid, runtime = _runtimes.get(app, (0, None))
    if runtime is not None and pid == os.getpid():
        return runtime
    pid, access = _accesses.get(app, (0, None))
    if access is None or pid != os.getpid():
        settings = load_settings(needs_key=False)
        access = Access(settings=settings, ledger=open_ledger(app, settings))
        _accesses[app] = (os.getpid(), access)
    return access


def use(app: Celery, runtime: Runtime) -> None:
    """Give an app a runtime of your own making, for this process."""
    _runtimes[app] = (os.getpid(), runtime)


def build(app: Celery, settings: Settings) -> Runtime:
    """A runtime from settings; it connects to nothing yet."""
    ledger = open_ledger(app, settings)
    return Runtime(
        settings=settings,
        client=Client.from_settings(settings),
        ledger=ledger,
        experience=Experience(
            ledger.redis, ledger.prefix, settings.tiers, settings.lag_per_poll, settings.lag_p95
        ),
        policy=Policy(settings.missing_grace, settings.on_unknown_outcome == "resubmit"),
    )


def open_ledger(app: Celery, settings: Settings) -> Ledger:
    """The ledger of an app; it connects to nothing yet."""
    redis = connect(state_server(settings, app))
    budget = Budget.of(settings.api_key.get_secret_value(), *settings.limits)
    prefix = f"{settings.state_prefix}:{_namespace(app)}"
    return Ledger(redis, prefix, budget, settings.lease, replicas=settings.state_replicas)


def _namespace(app: Celery) -> str:
    """Tell apps on one state server apart by their broker, as a poll must reach its own."""
    with app.connection_for_write() as connection:
        place = (connection.virtual_host, (connection.transport_options or {}).get("global_keyprefix"))
    return hashlib.sha256(repr(place).encode()).hexdigest()[:8]
