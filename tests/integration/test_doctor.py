"""The doctor beside real servers that are set up badly, real workers, and the emulator."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from logs import logged
from pydantic import SecretStr
from shop import wait_for

from freddy_tasks import processes
from freddy_tasks.doctor import Finding, Severity, examine, examine_worker, gathering
from freddy_tasks.doctor.versions import SURVIVOR
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator, Fault, Options
from freddy_tasks.runtime import build
from freddy_tasks.settings import Settings

ERROR, WARNING, OK = Severity.ERROR, Severity.WARNING, Severity.OK
PASSWORD = "marked-password-51c0"
KEY = "oak_marked_key_9e2f"


@pytest.fixture(scope="module")
def careless() -> Iterator[EmbeddedServer]:
    """A server that keeps nothing, drops keys when it is full, and is nearly full."""
    server = EmbeddedServer()
    try:
        server.start("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
        with redis.Redis(unix_socket_path=str(server.socket)) as client:
            for number in range(200):
                client.set(f"ballast:{number}", bytes(50_000))
            client.config_set("maxmemory", round(client.info("memory")["used_memory"] / 0.9))
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def api() -> Iterator[Emulator]:
    """An API that nobody else asks."""
    with Emulator(Options(keys=("oak_right",))) as emulator:
        yield emulator


@pytest.fixture
def environment(api: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that are right."""
    monkeypatch.setenv("FREDDY_API_KEY", api.key)
    monkeypatch.setenv("FREDDY_BASE_URL", api.url)


@pytest.fixture(autouse=True)
def _no_worker_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; the command in another one waits as long as it does."""
    monkeypatch.setattr(gathering, "INSPECT_TIMEOUT", 0.05)


def an_app(url: str, **conf: Any) -> Celery:
    """An app of somebody's, on one server."""
    app = Celery("patient", broker=url, backend=url, set_as_current=False, include=["freddy_tasks.tasks"])
    app.conf.update(broker_transport_options={"socket_connect_timeout": 1.0}, **conf)
    return app


def found(app: Celery, *, online: bool = False) -> dict[str, Finding]:
    """Findings by name."""
    return {finding.name: finding for finding in examine(app, has_tasks=True, online=online)}


def severities(app: Celery, **options: Any) -> dict[str, Severity]:
    """What is not fine, by name."""
    return {
        name: finding.severity
        for name, finding in found(app, **options).items()
        if finding.severity is not OK
    }


@pytest.mark.usefixtures("environment")
def test_a_sound_server_is_found_sound(valkey: EmbeddedServer) -> None:
    """With an append-only file, without eviction; what is left is that no worker runs."""
    app = an_app(valkey.url, result_chord_expires=3 * 86_400, worker_consumer=SURVIVOR)

    assert severities(app) == {"workers": WARNING}


@pytest.mark.usefixtures("environment")
def test_a_careless_server_is_found_out(careless: EmbeddedServer) -> None:
    """No file, eviction, no room left: each by itself."""
    unsafe = severities(an_app(careless.url, result_expires=600, worker_consumer=SURVIVOR))

    assert unsafe == {
        "state_persistence": ERROR,
        "state_eviction": ERROR,
        "state_memory": WARNING,
        "result_expires": WARNING,
        "chord_expires": ERROR,
        "workers": WARNING,
    }


@pytest.mark.usefixtures("environment")
def test_an_unreachable_server_is_told_without_its_password() -> None:
    """Which setting named it, and why it cannot be used."""
    findings = found(an_app(f"redis://:{PASSWORD}@127.0.0.1:1/0"))

    assert findings["state_server"].severity is ERROR
    assert "the result backend" in findings["state_server"].message
    assert "refused" in findings["state_server"].message
    assert findings["broker"].severity is ERROR
    assert not any(PASSWORD in str(finding) for finding in findings.values())


@pytest.mark.usefixtures("environment")
def test_a_wrong_password_is_told_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses us is as good as away."""
    with EmbeddedServer() as server:
        with redis.Redis(unix_socket_path=str(server.socket)) as client:
            client.config_set("requirepass", "another")
        monkeypatch.setenv("FREDDY_STATE_URL", f"unix://:{PASSWORD}@{server.socket}")
        finding = found(an_app("memory://"))["state_server"]

    assert finding.severity is ERROR
    assert "FREDDY_STATE_URL" in finding.message
    assert "password" in finding.message
    assert PASSWORD not in str(finding)


@pytest.mark.usefixtures("environment")
def test_an_app_with_unsafe_settings_is_found_out(valkey: EmbeddedServer) -> None:
    """Of its own tasks, of its messages and of its results."""
    app = an_app(
        valkey.url,
        worker_eta_task_limit=50,
        task_time_limit=30,
        accept_content=["json", "pickle"],
        result_serializer="yaml",
    )
    app.conf.result_backend = None
    app.conf.broker_transport_options = {"visibility_timeout": 120}

    @app.task(name="shop.pay", acks_late=True, time_limit=300, shared=False)
    def pay() -> None:
        """Run for five minutes at most."""

    unsafe = severities(app)

    assert unsafe == {
        "consumer": WARNING,
        "result_backend": ERROR,
        "serializers": ERROR,
        "accept_content": WARNING,
        "chord_expires": WARNING,
        "time_limit": ERROR,
        "visibility_timeout": ERROR,
        "eta_task_limit": WARNING,
        "workers": WARNING,
    }


def test_every_wrong_variable_is_named_and_the_rest_is_checked(
    valkey: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key nobody asks the API; without an address, neither."""
    monkeypatch.setenv("FREDDY_LEASE", "1000")
    monkeypatch.setenv("FREDDY_BASE_URL", "http://user:secret@example.com")
    findings = examine(an_app(valkey.url), has_tasks=True, online=True)
    messages = [finding.message for finding in findings if finding.name == "settings"]

    assert sorted(message.split()[0] for message in messages) == ["FREDDY_API_KEY", "FREDDY_LEASE"]
    assert {"state_server", "workers", "base_url"} <= {finding.name for finding in findings}
    assert "api" not in {finding.name for finding in findings}
    assert "secret" not in str(findings)


@pytest.mark.usefixtures("environment")
def test_the_api_is_asked_once_and_not_at_all_offline(valkey: EmbeddedServer, api: Emulator) -> None:
    """Nothing is submitted, and the clock is read from the same reply."""
    app = an_app(valkey.url)
    api.reset()
    offline = found(app)
    calls = api.counts.gets, api.counts.posts
    online = found(app, online=True)

    assert "api" not in offline
    assert calls == (0, 0)
    assert (api.counts.gets, api.counts.posts) == (1, 0)
    assert online["api"].severity is OK
    assert online["api_clock"].severity is OK


@pytest.mark.usefixtures("environment")
def test_a_wrong_key_is_told_without_it(valkey: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 401 is the key's."""
    monkeypatch.setenv("FREDDY_API_KEY", KEY)
    findings = found(an_app(valkey.url), online=True)

    assert findings["api"].severity is ERROR
    assert "FREDDY_API_KEY" in findings["api"].remedy
    assert KEY not in str(findings)


@pytest.mark.parametrize(
    ("options", "name", "severity", "told"),
    [
        (Options(profile="current"), "api", ERROR, "no such route"),
        (Options(faults=(Fault.parse("route_404"),)), "api", ERROR, "no such route"),
        (Options(faults=(Fault.parse("html=404"),)), "api", WARNING, "not the API's"),
        (Options(faults=(Fault.parse("status=503"),)), "api", WARNING, "HTTP 503"),
        (Options(faults=(Fault.parse("429=spend"),)), "api", ERROR, "spending cap"),
        (Options(faults=(Fault.parse("skew=-3600"),)), "api_clock", WARNING, "s behind this machine"),
    ],
    ids=["today's", "no route", "another server", "unavailable", "spending cap", "clock"],
)
def test_what_is_wrong_with_an_api_is_found_out(
    valkey: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    options: Options,
    name: str,
    severity: Severity,
    told: str,
) -> None:
    """From its one reply."""
    with Emulator(options) as other:
        monkeypatch.setenv("FREDDY_API_KEY", other.key)
        monkeypatch.setenv("FREDDY_BASE_URL", other.url)
        findings = found(an_app(valkey.url), online=True)

    assert findings[name].severity is severity
    assert told in findings[name].message + findings[name].remedy


def test_our_own_app_with_a_worker_has_nothing_to_remedy(
    valkey: EmbeddedServer, api: Emulator, tmp_path: Path
) -> None:
    """What the command line, the Procfile and the compose file run passes every check."""
    url = f"{valkey.url}?virtual_host=5"
    environ = {**environment_of(api), "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
    log = tmp_path / "worker.log"
    worker = processes.start([sys.executable, "-m", "freddy_tasks", "worker"], log, environ)
    try:
        wait_for(lambda: "ready." in log.read_text())
        done = run(tmp_path, environ)
    finally:
        processes.stop(worker, 10.0)

    assert "0 errors, 0 warnings" in done.stdout
    assert "Every worker dispatches" in done.stdout
    assert done.returncode == 0
    assert "Set " not in log.read_text()  # no remedy was logged


PATIENT = """
from celery import Celery

app = Celery("patient", broker={url!r}, backend={url!r})
app.conf.result_expires = 60
app.conf.task_default_queue = "patients"
"""


def write_app(folder: Path, url: str, *more: str) -> None:
    """A module `patient` with an app whose answers are gone after a minute."""
    (folder / "patient.py").write_text("\n".join([PATIENT.format(url=url), *more]))


def environment_of(api: Emulator) -> dict[str, str]:
    """Nothing of this process's own."""
    return {"PATH": os.environ["PATH"], "FREDDY_API_KEY": api.key, "FREDDY_BASE_URL": api.url}


def run(folder: Path, environ: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """The command, as somebody types it who stands beside the app."""
    argv = [sys.executable, "-m", "freddy_tasks", "doctor", *args]
    return subprocess.run(
        argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def a_worker(folder: Path, environ: dict[str, str], log: Path) -> Iterator[None]:
    """A worker of the app beside which it is started, from the moment it is ready."""
    celery = [sys.executable, "-m", "celery", "-A", "patient"]
    argv = [*celery, "worker", "-P", "solo", "-l", "INFO", "-n", "alone@here"]
    worker = processes.start(argv, log, {**environ, "PYTHONPATH": str(folder)})
    try:
        wait_for(lambda: "ready." in log.read_text())
        yield
    finally:
        processes.stop(worker, 10.0)


def test_a_worker_that_does_not_know_the_tasks_is_found_out(
    valkey: EmbeddedServer, api: Emulator, tmp_path: Path
) -> None:
    """By its app, which includes nothing of ours, and by the running worker, which has no dispatcher."""
    write_app(tmp_path, f"{valkey.url}?virtual_host=3")
    environ = environment_of(api)
    with a_worker(tmp_path, environ, tmp_path / "worker.log"):
        done = run(tmp_path, environ, "-A", "patient", "--json")
    told = json.loads(done.stdout)
    by_name = {finding["name"]: finding for finding in told["findings"]}

    assert done.returncode == 1
    assert told["ok"] is False
    assert by_name["tasks"]["severity"] == "error"
    assert by_name["dispatchers"]["severity"] == "error"
    assert "alone@here" in by_name["dispatchers"]["message"]
    assert by_name["workers"]["severity"] == "ok"
    assert by_name["result_expires"]["severity"] == "warning"
    assert by_name["api"]["severity"] == "ok"
    assert all(set(finding) == {"severity", "name", "message", "remedy"} for finding in told["findings"])


def test_warnings_alone_do_not_fail_the_command(
    valkey: EmbeddedServer, api: Emulator, tmp_path: Path
) -> None:
    """And a person reads what to do."""
    write_app(
        tmp_path,
        valkey.url,
        "app.conf.result_chord_expires = 259200",
        'app.conf.include = ["freddy_tasks.tasks"]',
    )
    done = run(tmp_path, environment_of(api), "-A", "patient", "--offline")

    assert done.returncode == 0
    assert "0 errors, 3 warnings" in done.stdout  # result_expires, consumer, workers
    assert "-> Set result_expires" in done.stdout


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("import nowhere", "cannot be loaded"),
        ("a line that is no Python", "cannot be loaded: SyntaxError"),
        ("raise RuntimeError('out of paper')", "cannot be loaded: RuntimeError: out of paper"),
        ('app.conf.include = ["nowhere"]', "cannot be imported"),
        ("app = 1", "no Celery app"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_a_usage_error(
    valkey: EmbeddedServer, api: Emulator, tmp_path: Path, line: str, told: str
) -> None:
    """Nothing can be said of it."""
    write_app(tmp_path, valkey.url, line)
    done = run(tmp_path, environment_of(api), "-A", "patient", "--offline")

    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def names(records: list[logging.LogRecord]) -> list[str]:
    """Which findings were logged."""
    return sorted(record.getMessage().partition(":")[0] for record in records)


def test_a_worker_logs_what_is_unsafe_when_it_starts(
    careless: EmbeddedServer, api: Emulator, tmp_path: Path
) -> None:
    """Of its settings and its state server, each once; the start does not wait for it."""
    write_app(tmp_path, careless.url, 'app.conf.include = ["freddy_tasks.tasks"]')
    unsafe = [
        "chord_expires",
        "consumer",
        "result_expires",
        "state_eviction",
        "state_memory",
        "state_persistence",
    ]
    log = tmp_path / "worker.log"
    with a_worker(tmp_path, environment_of(api), log):
        wait_for(lambda: all(f"] {name}: " in log.read_text() for name in unsafe))

    named = re.findall(r"(?:WARNING|ERROR)/\w+\] (\w+): ", log.read_text())
    assert sorted(named) == unsafe


def test_a_greenlet_worker_without_a_long_poll_logs_it(valkey: EmbeddedServer, api: Emulator) -> None:
    """Only the worker itself knows its pool and its consumer."""
    app = an_app(valkey.url)
    runtime = build(app, Settings(api_key=SecretStr(api.key), base_url=api.url))
    with logged("freddy_tasks.doctor") as records:
        examine_worker(app, runtime, "celery.concurrency.gevent", "celery.worker.consumer:Consumer")
        wait_for(lambda: "pool" in names(records))

    assert [record.levelno for record in records if names([record]) == ["pool"]] == [logging.ERROR]


def test_an_examination_that_fails_only_says_so(valkey: EmbeddedServer, api: Emulator) -> None:
    """Settings of no known form must not end a worker."""
    app = an_app(valkey.url, result_expires="soon")
    runtime = build(app, Settings(api_key=SecretStr(api.key), base_url=api.url))
    with logged("freddy_tasks.doctor") as records:
        examine_worker(app, runtime, "celery.concurrency.thread", SURVIVOR)
        wait_for(lambda: records)

    assert [record.levelno for record in records] == [logging.WARNING]
    assert "freddy-tasks doctor" in records[0].getMessage()
