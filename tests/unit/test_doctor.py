"""Every judgement of the doctor, both ways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from freddy_tasks import doctor
from freddy_tasks.doctor import Severity, has_errors
from freddy_tasks.doctor.api import judge_api, judge_api_clock
from freddy_tasks.doctor.app import AppFacts, LateTask, judge_app, judge_pool
from freddy_tasks.doctor.environment import SettingsFacts, judge_settings
from freddy_tasks.doctor.findings import Finding, error, fine, warning
from freddy_tasks.doctor.state import StateFacts, judge_state
from freddy_tasks.doctor.versions import numbers
from freddy_tasks.doctor.workers import WorkerFacts, judge_workers
from freddy_tasks.models import CallFailed, FailureKind, Response, Status

ERROR, WARNING, ADVICE, OK = Severity.ERROR, Severity.WARNING, Severity.ADVICE, Severity.OK
DAY = 86_400.0

STATE = StateFacts(
    origin="FREDDY_STATE_URL",
    version="7.2.4",
    role="master",
    clustered=False,
    appends=True,
    snapshots=False,
    policy="noeviction",
    used=10 * 2**20,
    capacity=2**30,
    skew=0.3,
    replicas=0,
    guarded=False,
    by_sentinel=False,
    wanted_replicas=0,
)

APP = AppFacts(
    celery="5.7.0",
    redis_py="8.1.0",
    has_tasks=True,
    broker_is_redis=True,
    survives=True,
    backend="redis",
    task_serializer="json",
    result_serializer="json",
    accepts=frozenset({"json"}),
    accepts_results=frozenset({"application/json"}),
    result_expires=3 * DAY,
    chord_expires=3 * DAY,
    visibility_timeout=300.0,
    late_tasks=(LateTask("shop.pay", 60.0),),
    time_limit=None,
    eta_task_limit=None,
    queue="celery",
    neighbours=("shop.pay",),
)

SETTINGS = SettingsFacts(
    problems=(), connect_timeout=5.0, read_timeout=30.0, reply_timeout=30.0, lease=60.0, in_clear=False
)

ANSWER = Response("resp_1", Status.COMPLETED, "completed", {})


def the(findings: Iterable[Finding], name: str) -> Finding:
    """The one finding of that name."""
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def judged(facts: AppFacts) -> list[Finding]:
    """An app beside the defaults of our own settings."""
    return judge_app(facts, reply=35.0, lease=60.0, longest=DAY + 1_860.0, timeout=1_860.0)


def test_a_sound_deployment_has_nothing_to_remedy() -> None:
    """Every check is there, and each is fine and asks for nothing."""
    found = [
        *judge_settings(SETTINGS),
        *judged(APP),
        *judge_state(STATE),
        *judge_workers([WorkerFacts("celery@a", "celery.concurrency.thread", frozenset({"celery"}))],
                       "celery", frozenset({"celery@a"})),
        judge_api(CallFailed(FailureKind.NOT_FOUND, "No such response.", 404, "RESOURCE_NOT_FOUND")),
    ]  # fmt: skip

    assert [finding for finding in found if finding.severity is not OK or finding.remedy] == []
    assert len({finding.name for finding in found}) == len(found) == 24
    assert not has_errors(found)


@pytest.mark.parametrize(
    ("change", "name", "severity"),
    [
        ({"clustered": True}, "state_server", ERROR),
        ({"role": "slave"}, "state_server", ERROR),
        ({"version": "6.0.16"}, "state_version", ERROR),
        ({"version": "5"}, "state_version", ERROR),
        ({"version": "6.2.0"}, "state_version", OK),
        ({"version": "10.0"}, "state_version", OK),
        ({"appends": False}, "state_persistence", ERROR),
        ({"appends": False, "snapshots": True}, "state_persistence", WARNING),
        ({"appends": False, "snapshots": None}, "state_persistence", WARNING),
        ({"snapshots": None}, "state_persistence", OK),
        ({"policy": "allkeys-lru"}, "state_eviction", ERROR),
        ({"policy": "volatile-ttl"}, "state_eviction", ERROR),
        ({"policy": "allkeys-lru", "capacity": 0}, "state_eviction", WARNING),
        ({"used": 900 * 2**20}, "state_memory", WARNING),
        ({"used": 900 * 2**20, "capacity": 0}, "state_memory", OK),
        ({"skew": 2.5}, "state_clock", WARNING),
        ({"skew": -600.0}, "state_clock", WARNING),
        ({"skew": -1.9}, "state_clock", OK),
        ({"wanted_replicas": 1}, "state_replicas", ERROR),
        ({"wanted_replicas": 2, "replicas": 1, "guarded": True}, "state_replicas", ERROR),
        ({"wanted_replicas": 1, "replicas": 1, "guarded": True}, "state_replicas", OK),
        ({"wanted_replicas": 0, "replicas": 1, "guarded": True}, "state_replicas", ADVICE),
        ({"wanted_replicas": 0, "by_sentinel": True, "guarded": True}, "state_replicas", ADVICE),
        ({"wanted_replicas": 1, "replicas": 2}, "state_split_brain", ADVICE),
        ({"wanted_replicas": 1, "replicas": 1, "by_sentinel": True}, "state_split_brain", ADVICE),
        ({"wanted_replicas": 1, "replicas": 1, "guarded": True}, "state_split_brain", OK),
    ],
)
def test_each_fault_of_a_state_server_is_found(change: dict[str, Any], name: str, severity: Severity) -> None:
    """And no other check changes its mind for it."""
    found = judge_state(replace(STATE, **change))

    assert the(found, name).severity is severity
    assert bool(the(found, name).remedy) is (severity is not OK)
    assert [finding for finding in found if finding.severity is not OK and finding.name != name] == []


@pytest.mark.parametrize(
    ("change", "name", "severity"),
    [
        ({"celery": "5.6.3"}, "versions", ERROR),
        ({"celery": "6.0.0b1"}, "versions", WARNING),
        ({"redis_py": "5.2.1"}, "versions", ERROR),
        ({"redis_py": "6.4.0"}, "versions", OK),
        ({"survives": False}, "consumer", WARNING),
        ({"has_tasks": False}, "tasks", ERROR),
        ({"backend": ""}, "result_backend", ERROR),
        ({"backend": "rpc"}, "result_backend", WARNING),
        ({"backend": "db+postgresql"}, "result_backend", OK),
        ({"task_serializer": "yaml"}, "serializers", ERROR),
        ({"result_serializer": "msgpack"}, "serializers", ERROR),
        ({"accepts": frozenset({"application/json"})}, "serializers", OK),
        ({"task_serializer": "msgpack", "accepts": frozenset({"json", "msgpack"})}, "serializers", WARNING),
        ({"accepts": frozenset({"json", "pickle"})}, "accept_content", WARNING),
        (
            {"accepts_results": frozenset({"json", "application/x-python-serialize"})},
            "accept_content",
            WARNING,
        ),
        ({"result_expires": DAY - 1}, "result_expires", WARNING),
        ({"result_expires": DAY}, "result_expires", OK),
        ({"result_expires": None}, "result_expires", OK),
        ({"chord_expires": 1_859.0}, "chord_expires", ERROR),
        ({"chord_expires": DAY}, "chord_expires", WARNING),
        ({"chord_expires": DAY + 1_860.0}, "chord_expires", OK),
        ({"chord_expires": None}, "chord_expires", OK),
        ({"time_limit": 35.0}, "time_limit", ERROR),
        ({"time_limit": 36.0}, "time_limit", OK),
        ({"visibility_timeout": 60.0}, "visibility_timeout", ERROR),
        ({"visibility_timeout": 59.0, "late_tasks": ()}, "visibility_timeout", WARNING),
        ({"visibility_timeout": 60.0, "late_tasks": ()}, "visibility_timeout", OK),
        ({"late_tasks": (LateTask("shop.pay", None),)}, "visibility_timeout", WARNING),
        (
            {"late_tasks": (LateTask("shop.pay", None),), "visibility_timeout": 3_600.0},
            "visibility_timeout",
            OK,
        ),
        ({"late_tasks": (LateTask("shop.pay", 299.0),)}, "visibility_timeout", OK),
        ({"eta_task_limit": 100}, "eta_task_limit", WARNING),
        ({"eta_task_limit": 100, "neighbours": ()}, "eta_task_limit", OK),
    ],
)
def test_each_fault_of_an_app_is_found(change: dict[str, Any], name: str, severity: Severity) -> None:
    """And no other check changes its mind for it."""
    found = judged(replace(APP, **change))

    assert the(found, name).severity is severity
    assert bool(the(found, name).remedy) is (severity is not OK)
    assert [finding for finding in found if finding.severity is not OK and finding.name != name] == []


def test_the_task_that_runs_longest_is_named() -> None:
    """A person must know which one to look at."""
    late = (LateTask("shop.pay", 400.0), LateTask("shop.ship", 900.0), LateTask("shop.tell", 5.0))
    found = the(judged(replace(APP, late_tasks=late)), "visibility_timeout")

    assert "shop.ship" in found.message
    assert "900" in found.remedy


@pytest.mark.parametrize("change", [{"celery": "5.7.1", "survives": False}, {"broker_is_redis": False}])
def test_the_consumer_matters_to_one_version_on_redis_only(change: dict[str, Any]) -> None:
    """Nothing is said where there is nothing to survive."""
    names = {finding.name for finding in judged(replace(APP, **change))}

    assert "consumer" not in names


def test_without_redis_there_is_no_visibility_timeout() -> None:
    """RabbitMQ gives a dead worker's messages back by itself."""
    found = judged(replace(APP, broker_is_redis=False, visibility_timeout=1.0))

    assert "visibility_timeout" not in {finding.name for finding in found}


@pytest.mark.parametrize(
    ("pool", "interval", "change", "severity"),
    [
        ("celery.concurrency.gevent", None, {"survives": False}, ERROR),
        ("celery.concurrency.eventlet", 2.0, {"survives": False}, ERROR),
        ("celery.concurrency.gevent", 2.5, {"survives": False}, OK),
        ("celery.concurrency.gevent", None, {}, OK),
        ("celery.concurrency.gevent", None, {"survives": False, "broker_is_redis": False}, None),
        ("celery.concurrency.prefork", None, {"survives": False}, None),
    ],
)
def test_greenlet_pools_need_a_long_poll(
    pool: str, interval: float | None, change: dict[str, Any], severity: Severity | None
) -> None:
    """Of Redis, and by a setting or by our consumer."""
    found = judge_pool(pool, polling_interval=interval, facts=replace(APP, **change))

    assert (found.severity if found else None) is severity


@pytest.mark.parametrize(
    ("change", "name", "severity"),
    [
        ({"problems": (("FREDDY_LEASE", "is wrong"),)}, "settings", ERROR),
        ({"lease": 20.0, "reply_timeout": 16.0}, "lease", WARNING),
        ({"read_timeout": 60.0, "reply_timeout": 48.0}, "lease", WARNING),
        ({"lease": 35.0}, "lease", OK),
        ({"in_clear": True}, "base_url", WARNING),
    ],
)
def test_each_fault_of_the_settings_is_found(change: dict[str, Any], name: str, severity: Severity) -> None:
    """And no other check changes its mind for it."""
    found = judge_settings(replace(SETTINGS, **change))

    assert the(found, name).severity is severity
    assert [finding for finding in found if finding.severity is not OK and finding.name != name] == []


def test_each_wrong_variable_is_a_finding_of_its_own() -> None:
    """By name, so that all are set right at once."""
    problems = (("FREDDY_API_KEY", "is not set"), ("FREDDY_PLAN", "is none of three"))
    messages = [finding.message for finding in judge_settings(replace(SETTINGS, problems=problems))[:2]]

    assert [message.split()[0] for message in messages] == ["FREDDY_API_KEY", "FREDDY_PLAN"]


def test_workers_of_one_name_are_told_of() -> None:
    """They answer as one, and all their queues count."""
    workers = [WorkerFacts("celery@a", "celery.concurrency.thread", frozenset({"ai"}), 2)]
    found = the(judge_workers(workers, "ai", frozenset({"celery@a"})), "worker_names")

    assert found.severity is WARNING
    assert "3 are called celery@a" in found.message


THREADS = "celery.concurrency.thread"
A, B = (WorkerFacts(name, THREADS, frozenset({"ai"})) for name in ("celery@a", "celery@b"))


@pytest.mark.parametrize(
    ("workers", "dispatchers", "severities"),
    [
        ([], frozenset(), {"workers": WARNING}),
        ([A], frozenset({"celery@a"}), {"workers": OK, "dispatchers": OK}),
        ([A, B], frozenset({"celery@a"}), {"workers": OK, "dispatchers": WARNING}),
        ([A, B], frozenset(), {"workers": OK, "dispatchers": ERROR}),
        ([A, B], frozenset({"celery@gone"}), {"workers": OK, "dispatchers": WARNING}),
        ([A], None, {"workers": OK}),
        (
            [replace(A, queues=frozenset({"celery"}))],
            frozenset({"celery@a"}),
            {"workers": ERROR, "dispatchers": OK},
        ),
        (
            [replace(A, queues=frozenset()), B],
            frozenset({"celery@a", "celery@b"}),
            {"workers": OK, "dispatchers": OK},
        ),
    ],
)
def test_workers_must_hear_and_dispatch(
    workers: list[WorkerFacts], dispatchers: frozenset[str] | None, severities: dict[str, Severity]
) -> None:
    """At least one of each; one that does not dispatch is named."""
    found = judge_workers(workers, "ai", dispatchers)
    without = {worker.name for worker in workers} - (dispatchers or set())

    assert {finding.name: finding.severity for finding in found} == severities
    if severities.get("dispatchers", OK) is not OK:
        assert all(name in the(found, "dispatchers").message for name in without)


@pytest.mark.parametrize(
    ("kind", "code", "severity"),
    [
        (FailureKind.NOT_FOUND, "RESOURCE_NOT_FOUND", OK),
        (FailureKind.NOT_FOUND, None, WARNING),
        (FailureKind.DENIED, "UNAUTHORIZED", ERROR),
        (FailureKind.UNSUPPORTED, None, ERROR),
        (FailureKind.UNSENT, None, ERROR),
        (FailureKind.SPENDING_LIMIT, None, ERROR),
        (FailureKind.RATE_LIMITED, None, WARNING),
        (FailureKind.TRANSIENT, None, WARNING),
        (FailureKind.GONE, None, WARNING),
        (FailureKind.REFUSED, "VALIDATION", WARNING),
        (FailureKind.CONFLICT, None, WARNING),
    ],
)
def test_each_reply_to_a_made_up_id_has_its_meaning(
    kind: FailureKind, code: str | None, severity: Severity
) -> None:
    """Only a 404 in the API's own words says that all is well."""
    found = judge_api(CallFailed(kind, "The API answered so.", code=code))

    assert found.severity is severity
    assert bool(found.remedy) is (severity is not OK)


def test_a_server_that_has_what_was_made_up_is_not_the_api() -> None:
    """Something else answers 200 to everything."""
    assert judge_api(ANSWER).severity is ERROR


@pytest.mark.parametrize(
    ("skew", "severity"), [(None, None), (0.0, OK), (-59.0, OK), (61.0, WARNING), (-3_600.0, WARNING)]
)
def test_the_clock_of_the_api_may_differ_by_a_minute(skew: float | None, severity: Severity | None) -> None:
    """Either way; and nothing is said when it does not tell."""
    found = judge_api_clock(skew)

    assert (found.severity if found else None) is severity


@pytest.mark.parametrize(
    ("version", "expected"),
    [("5.7.0", (5, 7, 0)), ("5.7.0rc1", (5, 7, 0)), ("8.1", (8, 1)), ("6.2.1.4", (6, 2, 1)), ("none", ())],
)
def test_versions_are_compared_as_numbers(version: str, expected: tuple[int, ...]) -> None:
    """Ten comes after nine."""
    assert numbers(version) == expected


def test_errors_decide_and_warnings_do_not() -> None:
    """The exit status depends on it."""
    assert has_errors([fine("a", "b"), error("c", "d", "e")])
    assert not has_errors([fine("a", "b"), warning("c", "d", "e")])
    assert not has_errors([])


def test_the_manual_names_every_check() -> None:
    """In its table, and none that there is not."""
    manual = Path(__file__).parents[2] / "docs" / "operations.md"
    section = manual.read_text().partition("## Checking it")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)

    assert sorted(told) == sorted(check_names())


def check_names() -> set[str]:
    """What stands for `name` wherever a finding is made: the first argument, or a local of that name."""
    names = set()
    for path in Path(doctor.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name("error" | "warning" | "advice" | "fine"), args=[ast.Constant(str(name)), *_]
                ):
                    names.add(name)
                case ast.Assign(targets=[ast.Name("name")], value=ast.Constant(str(name))):
                    names.add(name)
                case ast.Assign(
                    targets=[ast.Tuple([ast.Name("name"), *_])],
                    value=ast.Tuple([ast.Constant(str(name)), *_]),
                ):
                    names.add(name)
    return names
