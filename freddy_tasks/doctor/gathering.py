"""Collects the facts that are judged: from the environment, the app, the servers, the workers and the API."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import celery
import redis
from celery import Celery
from celery.exceptions import QueueNotFound
from kombu.utils.imports import symbol_by_name
from pydantic import ValidationError
from redis.exceptions import RedisError
from redis.sentinel import SentinelConnectionPool

from freddy_tasks.connections import is_redis
from freddy_tasks.continuation import OURS, SUBMIT
from freddy_tasks.redaction import one_line
from freddy_tasks.settings import NO_KEY, Settings, problems_of

from .app import DEFAULT_VISIBILITY, AppFacts, LateTask
from .environment import SettingsFacts
from .state import StateFacts
from .versions import SURVIVOR
from .workers import WorkerFacts

INSPECT_TIMEOUT = 1.0  # seconds for all workers to answer
CONNECT_TIMEOUT = 5.0
NOT_THE_USERS = ("celery.", OURS)
_PROBE = """
import sys
from celery.app.utils import find_app
app = find_app(sys.argv[1])
app.loader.import_default_modules()
sys.exit(0 if "freddy_tasks.tasks" in sys.modules else 3)
"""


def read_settings() -> tuple[Settings, dict[str, str]]:
    """The settings, with defaults in place of what is wrong, and what that is, by variable."""
    try:
        return Settings(), {}  # type: ignore[call-arg]  # filled from the environment
    except ValidationError as error:
        wrong = {str(item["loc"][0]) for item in error.errors()}
        fields = Settings.model_fields
        given: dict[str, Any] = {
            name: NO_KEY if fields[name].is_required() else fields[name].default for name in wrong
        }
        return Settings(**given), problems_of(error)


def settings_facts(settings: Settings, problems: Mapping[str, str]) -> SettingsFacts:
    """What is judged of the environment."""
    address = urlsplit(settings.base_url)
    return SettingsFacts(
        problems=tuple(problems.items()),
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        reply_timeout=settings.reply_timeout,
        lease=settings.lease,
        in_clear=address.scheme == "http" and address.hostname not in {"localhost", "127.0.0.1", "::1"},
    )


def knows_tasks(app_name: str) -> bool:
    """Whether a worker of the app of that name would know our tasks.

    Another process tells: this one has imported them, and so they are in every app of it.
    """
    argv = [sys.executable, "-c", _PROBE, app_name]
    done = subprocess.run(argv, capture_output=True, check=False)  # noqa: S603  # this Python, as it is
    return done.returncode == 0


def app_facts(app: Celery, *, has_tasks: bool, consumer: object = None) -> AppFacts:
    """What is judged of an app; `consumer` is the class of a running worker, else the app's own choice."""
    conf = app.conf
    tasks = {name: task for name, task in app.tasks.items() if not name.startswith(NOT_THE_USERS)}
    queue = _queue_of(app, SUBMIT)
    broker = _first(conf.broker_read_url or conf.broker_url)
    submit = app.tasks[SUBMIT]
    return AppFacts(
        celery=celery.__version__,
        redis_py=redis.__version__,
        has_tasks=has_tasks,
        broker_is_redis=is_redis(broker),
        survives=_survives(consumer or conf.worker_consumer),
        backend=_backend(conf.result_backend),
        task_serializer=conf.task_serializer,
        result_serializer=conf.result_serializer,
        accepts=frozenset(conf.accept_content or ()),
        accepts_results=frozenset(conf.result_accept_content or conf.accept_content or ()),
        result_expires=_seconds(conf.result_expires),
        chord_expires=_seconds(
            conf.result_expires if conf.result_chord_expires is None else conf.result_chord_expires
        ),
        visibility_timeout=float(
            (conf.broker_transport_options or {}).get("visibility_timeout") or DEFAULT_VISIBILITY
        ),
        late_tasks=tuple(LateTask(name, _limit(app, task)) for name, task in tasks.items() if task.acks_late),
        time_limit=_limit(app, submit),
        eta_task_limit=conf.worker_eta_task_limit,
        queue=queue,
        neighbours=tuple(name for name in tasks if _queue_of(app, name) == queue),
    )


def state_facts(client: redis.Redis, origin: str, wanted_replicas: int) -> StateFacts:
    """What is judged of a state server, in three round trips. Raises `RedisError` when it is away."""
    before = time.time()
    seconds, microseconds = client.time()
    after = time.time()
    info: Mapping[str, Any] = client.info()
    ahead = seconds + microseconds / 1e6 - (before + after) / 2
    return StateFacts(
        origin=origin,
        version=str(info["redis_version"]),
        role=str(info.get("role", "master")),
        clustered=bool(info.get("cluster_enabled")),
        appends=bool(info.get("aof_enabled")),
        snapshots=_snapshots(client),
        policy=str(info.get("maxmemory_policy", "noeviction")),
        used=int(info.get("used_memory", 0)),
        capacity=int(info.get("maxmemory", 0)),
        skew=0.0 if abs(ahead) <= (after - before) / 2 else ahead,
        replicas=_replicas(info),
        guarded="min_slaves_good_slaves" in info,  # told only where so many are asked for
        by_sentinel=isinstance(client.connection_pool, SentinelConnectionPool),
        wanted_replicas=wanted_replicas,
    )


def worker_facts(app: Celery) -> tuple[WorkerFacts, ...]:
    """The workers that answer within a second. Raises what the broker's transport raises when it is away."""
    options = (
        {"socket_connect_timeout": CONNECT_TIMEOUT} if is_redis(_first(app.conf.broker_write_url)) else {}
    )
    with app.connection_for_write(transport_options=options) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=round(CONNECT_TIMEOUT))
        stats, queues = (
            # Not by `inspect`, which keeps one reply of each name.
            app.control.broadcast(question, reply=True, timeout=INSPECT_TIMEOUT, connection=connection) or []
            for question in ("stats", "active_queues")
        )
    answers = [pair for reply in stats for pair in reply.items()]
    pools = {name: told.get("pool", {}).get("implementation", "") for name, told in answers}
    heard = [(name, told or ()) for reply in queues for name, told in reply.items()]
    return tuple(
        WorkerFacts(
            name,
            str(pools[name]).partition(":")[0],
            frozenset(queue["name"] for worker, told in heard if worker == name for queue in told),
            count - 1,
        )
        for name, count in sorted(Counter(name for name, _ in answers).items())
    )


def safe_text(error: BaseException, app: Celery, settings: Settings) -> str:
    """One line of an exception, without the key and the passwords of all addresses."""
    return one_line(str(error) or type(error).__name__, _secrets(app, settings)).rstrip(".")


def _secrets(app: Celery, settings: Settings) -> Iterator[str]:
    yield settings.api_key.get_secret_value()
    conf = app.conf
    own = settings.state_url.get_secret_value() if settings.state_url else ""
    for value in (own, conf.broker_url, conf.broker_read_url, conf.broker_write_url, conf.result_backend):
        for address in _addresses(value):
            try:
                password = urlsplit(address).password
            except ValueError:  # no address at all: nothing of it may be shown
                password = address
            yield from {password, unquote(password)} if password else ()


def _snapshots(client: redis.Redis) -> bool | None:
    try:
        return bool(client.config_get("save").get("save", ""))
    except RedisError:  # many providers keep CONFIG to themselves
        return None


def _replicas(info: Mapping[str, Any]) -> int:
    listed = (info.get(f"slave{number}") for number in range(int(info.get("connected_slaves", 0))))
    return sum(isinstance(each, Mapping) and each.get("state") == "online" for each in listed)


def _queue_of(app: Celery, name: str) -> str:
    chosen = getattr(app.tasks.get(name), "queue", None)
    if chosen is None:
        try:
            chosen = app.amqp.router.route({}, name, (), {}).get("queue")
        except QueueNotFound:
            return ""
    return str(getattr(chosen, "name", chosen) or app.conf.task_default_queue)


def _limit(app: Celery, task: Any) -> float | None:
    limits = (
        task.time_limit or app.conf.task_time_limit,
        task.soft_time_limit or app.conf.task_soft_time_limit,
    )
    return min((float(limit) for limit in limits if limit), default=None)


def _survives(consumer: object) -> bool:
    try:
        chosen: Any = symbol_by_name(consumer)  # type: ignore[arg-type]  # it takes classes, too
    except (ImportError, AttributeError):
        return False
    return any(f"{each.__module__}:{each.__qualname__}" == SURVIVOR for each in chosen.__mro__)


def _seconds(value: float | timedelta | None) -> float | None:
    """Seconds of an expiry; None for one that never comes, as Celery takes 0 for."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value or 0)
    return seconds or None


def _backend(value: object) -> str:
    scheme = _scheme(_first(value))
    return "" if scheme in {"", "disabled"} else scheme


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _first(value: object) -> str:
    return next(iter(_addresses(value)), "")


def _addresses(value: object) -> list[str]:
    """Each of an address of Celery's, which may be several: in a list, or with semicolons between."""
    if isinstance(value, str):
        return value.split(";")
    return [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []
