"""The real Flower, with the shipped settings: what it shows of a response, and to whom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from celery import Celery

from freddy_tasks import process_ai_response, processes
from freddy_tasks.continuation import HIDDEN, SUBMIT
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator, Options
from freddy_tasks.tasks import cancel_response

DEADLINE = 30.0  # seconds: a test that has to wait longer has failed
CREDENTIALS = ("operator", "operators-word")
PROMPT, ANSWER = "the marked prompt", "the marked answer"


@dataclass(frozen=True)
class Monitor:
    """Flower, as an operator sees it."""

    url: str
    log: Path
    app: Celery

    def get(self, path: str, auth: tuple[str, str] | None = CREDENTIALS) -> requests.Response:
        """One page or call."""
        return requests.get(self.url + path, auth=auth, timeout=10)

    def tasks(self) -> dict[str, Any]:
        """Every row, by task id."""
        rows: dict[str, Any] = self.get("/api/tasks").json()
        return rows

    def row(self, task_id: str, *states: str) -> dict[str, Any]:
        """The row of a task, once it is in one of the states."""
        row: dict[str, Any] = wait_for(
            lambda: (row := self.tasks().get(task_id, {})).get("state") in states and row
        )
        return row

    def submit(self, wish: str) -> str:
        """Task id of a new response; `wish` is the emulator's."""
        return str(process_ai_response.delay(f"{PROMPT} [emulate: {wish}]").id)


def wait_for(condition: Callable[[], Any]) -> Any:
    """The condition's first true value; AssertionError when there is none in time."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def polls(row: dict[str, Any]) -> int:
    """The polls that a waiting row tells of; AssertionError when it does not say how the wait goes on."""
    told = re.fullmatch(r"(queued|in_progress), poll (\d+), next in \d+ s", row["result"])
    assert told
    return int(told[2])


def flower(environment: dict[str, str], *options: str) -> list[str]:
    environment.setdefault("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    return [sys.executable, "-m", "freddy_tasks", "flower", "--port=0", *options]


def port_in(log: Path) -> str:
    """The port that Flower says it listens on."""
    found = wait_for(lambda: "Visit me at http://127.0.0.1:" in log.read_text() and log.read_text())
    return str(found.partition("Visit me at http://127.0.0.1:")[2].split()[0])


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """A worker and Flower, started as operators start them."""
    directory = tmp_path_factory.mktemp("flower")
    options = Options(per_minute=None, per_day=None, queue_seconds=0.0, answer=lambda _: ANSWER)
    with EmbeddedServer() as server, Emulator(options) as api:
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("FREDDY_", "FLOWER_"))
            },
            "CELERY_BROKER_URL": server.url,
            "CELERY_RESULT_BACKEND": server.url,
            "FREDDY_API_KEY": api.key,
            "FREDDY_BASE_URL": api.url,
            "FREDDY_PLAN": "unlimited",
            "FREDDY_TIERS": "inf:0.5",
            "FLOWER_BASIC_AUTH": ":".join(CREDENTIALS),
        }
        log = directory / "flower.log"
        worker = [sys.executable, "-m", "freddy_tasks", "worker"]
        started = [
            processes.start(worker, directory / "worker.log", environment),
            processes.start(flower(environment), log, environment),
        ]
        app = Celery("operators", broker=server.url, backend=server.url, include=["freddy_tasks.tasks"])
        app.conf.update(task_default_queue="freddy_tasks", task_send_sent_event=True)
        try:
            monitor = Monitor(f"http://127.0.0.1:{port_in(log)}", log, app)
            wait_for(lambda: monitor.get("/api/workers?status=1").json())
            yield monitor
        finally:
            for process in started:
                process.terminate()
            for process in started:
                processes.stop(process, 20.0)
            app.backend.result_consumer.subscribed_to.clear()  # type: ignore[attr-defined]
            app.close()


@pytest.fixture(autouse=True)
def _settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's process needs a state server to cancel, and a key that it never sends."""
    if "monitor" in request.fixturenames:
        monitor: Monitor = request.getfixturevalue("monitor")
        monkeypatch.setenv("FREDDY_API_KEY", "unused")
        monitor.app.set_current()


def test_waiting_response_is_one_row_that_tells_the_wait(monitor: Monitor) -> None:
    """Status, polls so far and the next look, under the task's own id and one name."""
    task_id = monitor.submit("duration=600")

    wait_for(lambda: polls(monitor.row(task_id, "POLLING")) >= 1)
    row = wait_for(lambda: polls(row := monitor.row(task_id, "POLLING")) >= 2 and row)

    assert row["name"] == SUBMIT
    assert [other for other in monitor.tasks() if task_id in other] == [task_id]

    cancel_response(task_id)


def test_ended_responses_say_how_they_ended(monitor: Monitor) -> None:
    """Completed, failed and cancelled ones leave the waiting state, each for its own."""
    done, failed = monitor.submit("duration=0.5"), monitor.submit("duration=0.5 status=failed")
    cancelled, revoked = monitor.submit("duration=600"), monitor.submit("duration=600")
    monitor.row(cancelled, "POLLING")
    monitor.row(revoked, "POLLING")
    cancel_response(cancelled)
    monitor.app.control.revoke(revoked)

    assert monitor.row(done, "SUCCESS")["name"] == SUBMIT
    assert monitor.row(failed, "FAILURE")["exception"].startswith("ResponseFailed(")
    assert monitor.row(cancelled, "CANCELLED")["result"] == "cancelled"
    assert monitor.row(revoked, "CANCELLED")["result"] == "cancelled"


def test_no_page_and_no_call_shows_a_prompt_or_an_answer(monitor: Monitor) -> None:
    """Not while it waits, not when it is done, not in what workers are asked; nor does the log."""
    done, failed = monitor.submit("duration=0.5"), monitor.submit("duration=0.5 status=failed")
    waiting = monitor.submit("duration=600")
    for task_id, state in {done: "SUCCESS", failed: "FAILURE", waiting: "POLLING"}.items():
        monitor.row(task_id, state)
    worker = next(iter(monitor.get("/api/workers?status=1").json()))
    # The worker's own page is there once Flower has asked it.
    paths = [f"/api/workers?refresh=1&workername={worker}", "/api/workers?refresh=1", f"/worker/{worker}"]
    paths += ["/", "/tasks", datatable(), "/broker", "/metrics", "/api/tasks", "/api/task/types"]
    paths += [
        f"{page}/{task_id}" for task_id in (done, failed, waiting) for page in ("/task", "/api/task/info")
    ]
    shown = {path: monitor.get(path) for path in paths}
    result = monitor.get(f"/api/task/result/{done}")
    rows = {row["uuid"]: row for row in shown[datatable()].json()["data"]}

    assert {path: page.status_code for path, page in shown.items()} == dict.fromkeys(paths, 200)
    assert not [path for path, page in shown.items() if PROMPT in page.text or ANSWER in page.text]
    assert PROMPT not in monitor.log.read_text()
    assert result.status_code == 503
    assert ANSWER not in result.text
    assert {row["args"] for row in rows.values()} == {HIDDEN}
    assert rows[done]["result"] == HIDDEN
    assert rows[failed]["result"] == "ResponseFailed"
    assert rows[waiting]["result"].startswith("in_progress, poll ")

    cancel_response(waiting)


def datatable() -> str:
    """What the page of tasks asks for."""
    return "/tasks/datatable?draw=1&start=0&length=100&order[0][column]=0&columns[0][data]=name"


@pytest.mark.parametrize("path", ["/", "/tasks", "/broker", "/api/tasks", "/api/workers", "/api/task/info/x"])
@pytest.mark.parametrize("auth", [None, ("operator", "guess"), ("", "")])
def test_nobody_gets_in_without_the_password(
    monitor: Monitor, path: str, auth: tuple[str, str] | None
) -> None:
    """Pages and calls alike are 401."""
    assert monitor.get(path, auth).status_code == 401


def test_metrics_and_health_are_open_and_hold_no_ids(monitor: Monitor) -> None:
    """A scraper and a health check need no password, and learn the names of tasks and workers only."""
    task_id = monitor.submit("duration=0.5")
    monitor.row(task_id, "SUCCESS")
    metrics = monitor.get("/metrics", None)

    assert monitor.get("/healthcheck", None).text == "OK"
    assert f'task="{SUBMIT}",type="task-polling"' in metrics.text
    assert task_id not in metrics.text


@pytest.mark.parametrize(
    ("credentials", "options"),
    [(None, ["--address=0.0.0.0"]), ("word", [])],
)
def test_flower_refuses_to_start_without_credentials(credentials: str | None, options: list[str]) -> None:
    """It ends at once, and names the variable."""
    environment = {"PATH": os.environ["PATH"]}
    if credentials is not None:
        environment["FLOWER_BASIC_AUTH"] = credentials
    ended = run(flower(environment, *options), environment)

    assert ended.returncode != 0
    assert "FLOWER_BASIC_AUTH is " in ended.stderr


def test_configuration_alone_refuses_too() -> None:
    """Also where Celery's own command starts Flower with it."""
    configuration = Path(processes.__file__).with_name("flowerconfig.py")
    argv = [sys.executable, "-m", "celery", "-A", "freddy_tasks.app", "flower", f"--conf={configuration}"]
    ended = run(argv, {"PATH": os.environ["PATH"]})

    assert ended.returncode == 1
    assert "FLOWER_BASIC_AUTH is not set" in ended.stderr


def run(argv: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def test_flower_on_the_loopback_makes_up_a_password(valkey: EmbeddedServer, tmp_path: Path) -> None:
    """It prints the password, and lets nobody in without it."""
    log = tmp_path / "flower.log"
    environment = {"PATH": os.environ["PATH"], "CELERY_BROKER_URL": f"{valkey.url}?virtual_host=2"}
    process = processes.start(flower(environment), log, environment)
    try:
        url = f"http://127.0.0.1:{port_in(log)}/api/tasks"
        user, _, word = log.read_text().partition("For this run it is ")[2].split()[0].partition(":")
        stranger, operator = (requests.get(url, auth=auth, timeout=10) for auth in (None, (user, word)))
    finally:
        processes.stop(process, 10.0)

    assert stranger.status_code == 401
    assert json.loads(operator.text) == {}
    assert process.returncode == 0
