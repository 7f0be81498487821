"""The commands around a worker of one's own, from `worker` to `reconcile`, and the emulator's."""

from __future__ import annotations

import json
import os
import signal
import socket
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
from pydantic import SecretStr

from freddy_tasks import processes
from freddy_tasks.continuation import SUBMIT
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Constant, Emulator, Options
from freddy_tasks.ledger import Ledger
from freddy_tasks.records import Phase
from freddy_tasks.runtime import build
from freddy_tasks.settings import Settings

COMMAND = (sys.executable, "-m", "freddy_tasks")
KEY = "oak_marked_key_77b1"
PROMPT = "a prompt that nobody else should read"
TIMEOUT = 30.0  # seconds: what takes longer hangs


@dataclass(frozen=True)
class Site:
    """A broker, a worker of ours, and an API whose answers take a fifth of a second."""

    api: Emulator
    env: dict[str, str]
    app: Celery
    ledger: Ledger
    log: Path  # the worker's

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as somebody who has no key."""
        env = {name: value for name, value in self.env.items() if name != "FREDDY_API_KEY"}
        done = subprocess.run(
            [*COMMAND, *args], env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert "Traceback" not in done.stderr
        assert KEY not in done.stdout + done.stderr
        assert PROMPT not in done.stdout + done.stderr
        return done

    def submit(self, **kwargs: Any) -> str:
        """Publish a prompt, as an app would; its task id."""
        sent = self.app.send_task(SUBMIT, (PROMPT,), kwargs, argsrepr="", kwargsrepr="")
        return str(sent.id)

    def until(self, task_id: str, phase: Phase) -> str:
        """The task id, once its response is in this phase, as the result backend tells too."""
        wait_for(lambda: (record := self.ledger.record(task_id)) and record.phase is phase)
        return task_id

    def status(self, task_id: str) -> dict[str, Any]:
        """What `status` tells programs."""
        facts: dict[str, Any] = json.loads(self("status", task_id, "--json").stdout)
        return facts


def wait_for(condition: Callable[[], Any]) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing of the kind happened in time"
    return value


@pytest.fixture(scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    log = tmp_path_factory.mktemp("site") / "worker.log"
    options = Options(durations=Constant(0.2), queue_seconds=0.0, per_minute=None, keys=(KEY,))
    with EmbeddedServer() as server, Emulator(options) as api:
        env = {
            "PATH": os.environ["PATH"],
            "CELERY_BROKER_URL": server.url,
            "CELERY_RESULT_BACKEND": server.url,
            "FREDDY_API_KEY": KEY,
            "FREDDY_BASE_URL": api.url,
            "FREDDY_TIERS": "inf:0.3",
            "FREDDY_PLAN": "unlimited",
        }
        worker = processes.start([*COMMAND, "worker", "--concurrency", "4"], log, env)
        app = Celery("site", broker=server.url, backend=server.url, set_as_current=False)
        app.conf.task_default_queue = "freddy_tasks"
        yield Site(api, env, app, build(app, Settings(api_key=SecretStr(KEY))).ledger, log)
        processes.stop(worker, TIMEOUT)
        assert KEY not in log.read_text()
        assert PROMPT not in log.read_text()
        assert "concurrency: 4 (thread)" in log.read_text()


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """The site, with an API in good order that was asked nothing yet."""
    _site.api.reset()
    yield _site
    _site.api.set_faults(())
    _site.api.rotate_key(KEY)


def test_run_uses_the_broker_it_is_given_and_needs_no_key(site: Site) -> None:
    """The key is the workers' business."""
    done = site("run", "whales")

    assert done.returncode == 0
    assert "about whales" in done.stdout
    assert "private Valkey" not in done.stderr


def test_run_without_its_broker_says_only_that(site: Site) -> None:
    """Nothing was sent, and nothing is cancelled."""
    site.env["CELERY_BROKER_URL"], server = "redis://127.0.0.1:1/0", site.env["CELERY_BROKER_URL"]
    done = site("run", "whales")
    site.env["CELERY_BROKER_URL"] = server

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "away" in done.stderr
    assert site.api.counts.posts == 0


def test_status_tells_where_a_response_stands(site: Site) -> None:
    """While it waits, and when it has ended; for people and for programs."""
    site.api.set_faults(["stuck"])
    task_id = site.until(site.submit(label="epics"), Phase.WAITING)
    waiting = site.status(task_id)
    for_people = site("status", task_id)
    site.api.set_faults(())
    ended = site.status(site.until(site.submit(), Phase.CLOSED))
    site("cancel", task_id)

    assert waiting["response_id"] == site.api.jobs()[0].id
    assert waiting["label"] == "epics"
    assert waiting["next_look_at"] < waiting["deadline"]
    assert for_people.returncode == 0
    assert waiting["response_id"] in for_people.stdout
    assert (ended["state"], ended["status"]) == ("SUCCESS", "completed")
    assert "next_look_at" not in ended


def test_status_of_an_unknown_id_fails(site: Site) -> None:
    """Exit status 1, and the three reasons it may have."""
    done = site("status", "nobody")

    assert done.returncode == 1
    assert "is not known" in done.stdout


def test_cancel_waits_until_the_api_has_settled_it(site: Site) -> None:
    """Exit status 0 means that nothing runs any more."""
    site.api.set_faults(["stuck"])
    task_id = site.until(site.submit(), Phase.WAITING)
    done = site("cancel", task_id)
    again = site("cancel", task_id)

    assert done.returncode == 0
    assert "cancelled" in done.stdout
    assert [job.status for job in site.api.jobs()] == ["cancelled"]
    assert site.api.counts.deletes == 1
    assert site.status(task_id)["state"] == "REVOKED"
    assert again.returncode == 0
    assert "had ended already" in again.stdout


def test_a_cancel_that_the_api_does_not_settle_in_time_says_so(site: Site) -> None:
    """Exit status 1; the workers go on."""
    site.api.set_faults(["stuck", "status=500@method=DELETE@times=1"])
    task_id = site.until(site.submit(), Phase.WAITING)
    done = site("cancel", "--wait", "0", task_id)
    site.until(task_id, Phase.CLOSED)

    assert done.returncode == 1
    assert "is being cancelled" in done.stdout
    assert [job.status for job in site.api.jobs()] == ["cancelled"]


def test_a_refused_key_can_be_followed_by_a_good_one(site: Site) -> None:
    """`resume` goes on with the accepted response under the old task id, and submits nothing."""
    site.api.set_faults(["stuck"])
    task_id = site.until(site.submit(), Phase.WAITING)
    site.api.rotate_key("another")
    failed = site.status(site.until(task_id, Phase.SUSPENDED))
    listed = site("resume")
    site.api.rotate_key(KEY)
    mistaken = site("reconcile", "--resubmit", task_id)
    resumed = site("resume", task_id)
    wait_for(lambda: site.app.backend.get_state(task_id) == "IN_PROGRESS")
    going_on = site.status(task_id)
    site("cancel", task_id)

    assert failed["state"] == "FAILURE"
    assert failed["error"]["type"] == "AccessDenied"
    assert failed["response_id"] in listed.stdout
    assert mistaken.returncode == 1
    assert "not in the list" in mistaken.stderr
    assert resumed.returncode == 0
    assert going_on["response_id"] == failed["response_id"]
    assert "error" not in going_on
    assert site.api.counts.posts == 1


def test_a_response_that_the_ledger_has_lost_can_be_resumed(site: Site) -> None:
    """`status` says so, and `resume` goes on by the id in the result backend, and submits nothing."""
    task_id = site.until(site.submit(metadata={"emulate": {"duration": "1000"}}), Phase.WAITING)
    response_id = site.status(task_id)["response_id"]
    site.ledger.redis.delete(*site.ledger.redis.scan_iter(f"{site.ledger.prefix}:*"))
    lost, told = site.status(task_id), site("status", task_id)
    resumed = site("resume", task_id)
    site.api.clock.advance(1_000.0)
    ended = site.status(site.until(task_id, Phase.CLOSED))

    assert lost["phase"] is None
    assert lost["response_id"] == response_id
    assert told.returncode == 0
    assert "freddy-tasks resume" in told.stdout
    assert resumed.returncode == 0
    assert f"{task_id}  goes on" in resumed.stdout
    assert (ended["state"], ended["status"]) == ("SUCCESS", "completed")
    assert ended["response_id"] == response_id
    assert site.api.counts.posts == 1


def test_a_response_that_only_a_log_names_can_be_resumed(site: Site) -> None:
    """Broker, result backend and ledger are empty; the worker has logged which response is which task's."""
    task_id = site.until(site.submit(metadata={"emulate": {"duration": "1000"}}), Phase.WAITING)
    (response,) = site.api.jobs()
    site.ledger.redis.delete(*site.ledger.redis.scan_iter(f"{site.ledger.prefix}:*"))
    site.app.backend.forget(task_id)
    unnamed = site("resume", task_id)
    resumed = site("resume", task_id, "--response-id", response.id)
    site.api.clock.advance(1_000.0)
    ended = site.status(site.until(task_id, Phase.CLOSED))
    again = site("resume", task_id, "--response-id", response.id)

    assert f"Response {response.id} was accepted for task {task_id}" in site.log.read_text()
    assert unnamed.returncode == 1
    assert "not in the list" in unnamed.stderr
    assert resumed.returncode == 0
    assert (ended["state"], ended["response_id"]) == ("SUCCESS", response.id)
    assert site.api.counts.posts == 1
    assert again.returncode == 1
    assert site("resume", "one", "two", "--response-id", response.id).returncode == 2


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_an_unknown_outcome_is_resubmitted_when_told_so(site: Site, return_exceptions: bool) -> None:
    """The same task id ends anew, as a success, whether its failure was stored as one or as a value."""
    site.api.set_faults(["reset_after@method=POST@times=1"])
    task_id = site.submit(label="letters", return_exceptions=return_exceptions)
    unknown = site.status(site.until(task_id, Phase.SUSPENDED))
    listed = site("reconcile")
    done = site("reconcile", "--resubmit", task_id)
    ended = site.status(site.until(task_id, Phase.CLOSED))

    assert unknown["error"]["type"] == "OutcomeUnknown"
    assert task_id in listed.stdout
    assert "letters" in listed.stdout
    assert done.returncode == 0
    assert (ended["state"], ended["status"]) == ("SUCCESS", "completed")
    assert "error" not in ended
    assert site.api.counts.posts == 2
    assert site("reconcile", "--list").stdout == ""


def test_an_unknown_outcome_whose_id_is_found_goes_on(site: Site) -> None:
    """Nothing is submitted again: somebody has found the response at the API, or in a log."""
    site.api.set_faults(["reset_after@method=POST@times=1"])
    task_id = site.submit()
    site.until(task_id, Phase.SUSPENDED)
    (response,) = site.api.jobs()
    unnamed = site("resume", task_id)
    resumed = site("resume", task_id, "--response-id", response.id)
    ended = site.status(site.until(task_id, Phase.CLOSED))

    assert unnamed.returncode == 1
    assert resumed.returncode == 0
    assert (ended["state"], ended["response_id"]) == ("SUCCESS", response.id)
    assert site.api.counts.posts == 1
    assert site("reconcile", "--list").stdout == ""


def test_an_unknown_outcome_is_given_up_when_told_so(site: Site) -> None:
    """It leaves the list, and keeps its error as its end; the API is told nothing, as there is no id."""
    site.api.set_faults(["reset_after@method=POST@times=2"])
    first, second = site.submit(), site.submit()
    site.until(first, Phase.SUSPENDED)
    site.until(second, Phase.SUSPENDED)
    undecided = site("reconcile", first)
    listed = [json.loads(line)["task_id"] for line in site("reconcile", "--json").stdout.splitlines()]
    done = site("reconcile", "--give-up", "--all")
    ended = site.status(site.until(first, Phase.CLOSED))

    assert undecided.returncode == 2
    assert set(listed) == {first, second}
    assert done.returncode == 0
    assert ended["error"]["type"] == "OutcomeUnknown"
    assert site("reconcile").stdout == ""
    assert site.api.counts.deletes == 0
    assert site.api.counts.posts == 2


def test_the_emulator_serves_until_interrupted(tmp_path: Path) -> None:
    """It prints the two settings that lead to it, and takes limits and faults as text."""
    argv = [*COMMAND, "emulator", "--port", "0", "--durations", "polls:1", "--per-minute", "off"]
    argv += ["--fault", "401@times=1", "--log", str(tmp_path / "trace.jsonl")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        url = process.stdout.readline().removeprefix("export FREDDY_BASE_URL=").strip()
        key = process.stdout.readline().removeprefix("export FREDDY_API_KEY=").strip()
        headers = {"Authorization": f"Bearer {key}"}
        statuses = [
            requests.get(f"{url}/v1/model/response/resp_0", headers=headers, timeout=5).status_code
            for _ in range(2)
        ]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.communicate()

    assert statuses == [401, 404]
    assert process.returncode == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("server", ["emulator", "flower"])
def test_a_server_says_when_its_port_is_taken(server: str) -> None:
    """Exit status 2, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*COMMAND, server, "--port", port],
            env={**os.environ, "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    assert done.returncode == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr
