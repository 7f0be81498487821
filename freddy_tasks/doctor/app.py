"""A Celery app's own settings: what they do to responses. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .findings import Finding, error, fine, warning
from .versions import SURVIVOR, judge_consumer, judge_versions

RETENTION = 86_400.0
"""Seconds for which the API keeps a response."""

DEFAULT_VISIBILITY = 3_600.0  # seconds; `kombu.transport.redis.Channel.visibility_timeout` (5.7)
CODE = frozenset({"pickle", "application/x-python-serialize", "yaml", "application/x-yaml"})
"""Content types whose messages can run code, or could in some version of their library."""

TYPES = {"json": "application/json", "pickle": "application/x-python-serialize"}
GREENLETS = ("gevent", "eventlet")
SHORT_BRPOP = 2.0  # seconds after which `celery.worker.loops.synloop` (5.7) gives up


@dataclass(frozen=True, slots=True)
class LateTask:
    """A task that is acknowledged when it has run."""

    name: str
    limit: float | None  # seconds that Celery lets it run; None: as long as it likes


@dataclass(frozen=True, slots=True)
class AppFacts:
    """A Celery app's settings as a worker of it would have them; durations in seconds."""

    celery: str
    redis_py: str
    has_tasks: bool  # a worker of it knows our tasks
    broker_is_redis: bool
    survives: bool  # its workers have our consumer
    backend: str  # scheme of its address; "" without one
    task_serializer: str
    result_serializer: str
    accepts: frozenset[str]  # content of messages
    accepts_results: frozenset[str]
    result_expires: float | None  # None: never
    chord_expires: float | None
    visibility_timeout: float
    late_tasks: tuple[LateTask, ...]  # the app's own
    time_limit: float | None  # of a task of ours
    eta_task_limit: int | None
    queue: str  # of our tasks
    neighbours: tuple[str, ...]  # the app's own tasks that share it


def judge_app(
    facts: AppFacts, *, reply: float, lease: float, longest: float, timeout: float
) -> list[Finding]:
    """Every check of an app.

    Seconds: `reply` is the most that one call takes, `timeout` the longest wait for an answer, `longest` that
    of one after another, when the day's requests are spent.
    """
    found = [
        judge_versions(facts.celery, facts.redis_py),
        judge_consumer(facts.celery, broker_is_redis=facts.broker_is_redis, survives=facts.survives),
        _tasks(facts),
        _backend(facts),
        _serializers(facts),
        _code(facts),
        _result_expires(facts),
        _chord_expires(facts, longest, timeout),
        _time_limit(facts, reply),
        _visibility(facts, lease),
        _eta_task_limit(facts),
    ]
    return [finding for finding in found if finding is not None]


def judge_pool(pool: str, *, polling_interval: float | None, facts: AppFacts) -> Finding | None:
    """Whether a pool, by the name of its module, takes back what a killed worker held."""
    if not pool.endswith(GREENLETS) or not facts.broker_is_redis:
        return None
    if facts.survives or (polling_interval or 0.0) > SHORT_BRPOP:
        return fine("pool", f"The {pool} pool takes back what a killed worker held.")
    return error(
        "pool",
        f"The {pool} pool never takes back what a killed worker held: a prompt received and not begun is "
        "lost.",
        f'Set worker_consumer = "{SURVIVOR}", or broker_transport_options["polling_interval"] = 5.',
    )


def _tasks(facts: AppFacts) -> Finding:
    if facts.has_tasks:
        return fine("tasks", "Workers of this app know the tasks.")
    return error(
        "tasks",
        "A worker of this app does not import freddy_tasks.tasks: it discards every prompt as an unknown "
        "task, and has no dispatcher for what waits.",
        'Add include=["freddy_tasks.tasks"] to the app, or autodiscover_tasks(["freddy_tasks"]).',
    )


def _backend(facts: AppFacts) -> Finding:
    if not facts.backend:
        return error(
            "result_backend",
            "The app has no result backend: no caller ever sees an answer, and no chord's body runs.",
            "Set result_backend, for example to a Redis.",
        )
    if facts.backend == "rpc":
        return warning(
            "result_backend",
            "rpc:// gives an answer to the process that asked, once; chords do not work, and `freddy-tasks "
            "status` sees nothing.",
            "Set result_backend to a Redis or a database.",
        )
    return fine("result_backend", f"Answers are kept in {facts.backend}.")


def _serializers(facts: AppFacts) -> Finding:
    refused = [
        f"{setting} = {serializer!r} is not among {accepts}"
        for setting, serializer, accepts, accepted in (
            ("task_serializer", facts.task_serializer, "accept_content", facts.accepts),
            (
                "result_serializer",
                facts.result_serializer,
                "what is accepted of results",
                facts.accepts_results,
            ),
        )
        if not {serializer, TYPES.get(serializer, serializer)} & accepted
    ]
    if refused:
        return error(
            "serializers",
            f"{' and '.join(refused)}: workers discard messages, or callers cannot read answers.",
            'Set accept_content = ["json"] and both serializers to "json".',
        )
    if facts.task_serializer != "json" or facts.result_serializer != "json":
        return warning(
            "serializers",
            f"Messages are {facts.task_serializer} and results {facts.result_serializer}; errors with their "
            "facts, and monitors, are only known to work with JSON.",
            'Set task_serializer and result_serializer to "json".',
        )
    return fine("serializers", "Messages and results are JSON.")


def _code(facts: AppFacts) -> Finding:
    accepted = sorted((facts.accepts | facts.accepts_results) & CODE)
    if accepted:
        return warning(
            "accept_content",
            f"{' and '.join(accepted)} is accepted: whoever can write to the broker or the result backend "
            "can run code in workers and callers.",
            'Set accept_content = ["json"].',
        )
    return fine("accept_content", "No message can run code.")


def _result_expires(facts: AppFacts) -> Finding:
    expires = facts.result_expires
    if expires is None or expires >= RETENTION:
        return fine("result_expires", f"Answers are kept for {_duration(expires)}.")
    return warning(
        "result_expires",
        f"Answers are gone after {_duration(expires)}, while the API keeps them for 24 hours: one that "
        "nobody fetched by then is paid and lost.",
        "Set result_expires to a day or more.",
    )


def _chord_expires(facts: AppFacts, longest: float, timeout: float) -> Finding:
    expires = facts.chord_expires
    if expires is None or expires >= longest:
        return fine("chord_expires", f"Chords wait for {_duration(expires)} for their members.")
    remedy = f"Set result_chord_expires to {_ceiling(longest)} or more."
    if expires < timeout:
        return error(
            "chord_expires",
            f"A chord forgets its members after {_duration(expires)}, and one answer may take "
            f"{_duration(timeout)}: its body never runs, and nothing says so.",
            remedy,
        )
    return warning(
        "chord_expires",
        f"A chord forgets its members after {_duration(expires)}. When the day's requests are spent, an "
        f"answer may be {_duration(longest)} away: the body never runs then, and nothing says so.",
        remedy,
    )


def _time_limit(facts: AppFacts, reply: float) -> Finding:
    limit = facts.time_limit
    if limit is None or limit > reply:
        return fine("time_limit", "Celery leaves a call the time it may take.")
    return error(
        "time_limit",
        f"Celery ends a task after {limit:g} s, and one call may take {reply:g} s: a slow reply ends the "
        "task, and its answer is lost.",
        f"Set the time limits of freddy_tasks.* above {reply:g} s, or none; timeout= bounds the wait.",
    )


def _visibility(facts: AppFacts, lease: float) -> Finding | None:
    if not facts.broker_is_redis:
        return None
    name, seconds = "visibility_timeout", facts.visibility_timeout
    over = [task for task in facts.late_tasks if task.limit is not None and task.limit >= seconds]
    if over:
        worst = max(over, key=lambda task: task.limit or 0.0)
        return error(
            name,
            f"A message is delivered again after {seconds:g} s, and {worst.name} acknowledges late and may "
            f"run for {worst.limit:g} s: it runs twice.",
            f"Set broker_transport_options['visibility_timeout'] above {worst.limit:g}, or lower its limit.",
        )
    if seconds < lease:
        return warning(
            name,
            f"A message is delivered again after {seconds:g} s, before the lease of {lease:g} s is over: "
            "calls are not repeated, but hops are, for nothing.",
            f"Set broker_transport_options['visibility_timeout'] to {lease:g} or more.",
        )
    endless = [task.name for task in facts.late_tasks if task.limit is None]
    if endless and seconds < DEFAULT_VISIBILITY:
        return warning(
            name,
            f"A message is delivered again after {seconds:g} s, and {_listed(endless)} acknowledges late and "
            "has no time limit: what runs longer runs twice.",
            f"Give it a time limit below {seconds:g} s, or raise the visibility timeout.",
        )
    return fine(name, f"A message that a dead worker held comes back after {seconds:g} s.")


def _eta_task_limit(facts: AppFacts) -> Finding:
    name = "eta_task_limit"
    if facts.eta_task_limit is None or not facts.neighbours:
        return fine(name, "No countdown of another task holds a poll up.")
    return warning(
        name,
        f"A worker stops taking messages while it holds {facts.eta_task_limit} with a countdown, and queue "
        f"{facts.queue!r} also has {_listed(facts.neighbours)}: their countdowns hold prompts and polls up.",
        'Give our tasks a queue of their own: task_routes = {"freddy_tasks.*": {"queue": "ai"}}.',
    )


def _listed(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "ever"
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:g} s"


def _ceiling(seconds: float) -> str:
    """Whole days, as people set them."""
    days = int(-(-seconds // 86_400))
    return f"{days * 86_400} ({days} days)"
