"""`freddy-tasks run` as people call it: real processes, signals, exit statuses, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import psutil
import pytest
from click.testing import CliRunner
from redis import Redis

from freddy_tasks.cli import COMMANDS, freddy_tasks
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Constant, Emulator, Options

COMMAND = (sys.executable, "-m", "freddy_tasks")
KEY = "oak_marked_key_0f9a"
FAILING = "Fail [emulate: status=failed code=model_error message=No_luck]"
TIMEOUT = 60.0  # seconds: a command that takes longer hangs


class Shell:
    """Runs the command with few variables, and a place for temporary files that should be empty again."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.env = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary)}

    def run(self, *args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            [*COMMAND, *args],
            env={**self.env, **env},
            cwd=self.temporary,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def start(self, *args: str, **env: str) -> Running:
        """Start, to send it signals."""
        return Running([*COMMAND, *args], {**self.env, **env}, self.temporary)

    def leftovers(self) -> list[Path]:
        """Files that should not be there."""
        return list(self.temporary.iterdir())


class Running:
    """A command in flight, and what it says on stderr."""

    def __init__(self, argv: list[str], env: Mapping[str, str], directory: Path) -> None:
        self.process = subprocess.Popen(
            argv, env=env, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # a failed test leaves it running
        self.process.communicate()

    def hear(self, words: str) -> None:
        """Return when it has said these words."""
        assert self.process.stderr
        while words not in self.said:
            line = self.process.stderr.readline()
            assert line, f"it ended without {words!r}: {self.said}"
            self.said += line

    def children(self) -> list[psutil.Process]:
        """The processes it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        out, said = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, out, self.said + said


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A shell of the test's own; its path is short, as a socket's must be."""
    directory = Path(tempfile.mkdtemp(prefix="cli-"))
    yield Shell(directory)
    shutil.rmtree(directory)


@pytest.fixture
def api() -> Iterator[Emulator]:
    """An API whose answers take a tenth of a second, and that can be asked what it was sent."""
    with Emulator(Options(durations=Constant(0.1), queue_seconds=0.0, keys=(KEY,))) as emulator:
        yield emulator


@pytest.fixture
def slow_api() -> Iterator[Emulator]:
    """An API whose answers take an hour."""
    with Emulator(Options(durations=Constant(3_600.0), keys=(KEY,))) as emulator:
        yield emulator


def at(api: Emulator) -> dict[str, str]:
    """Settings for that API, with quick looks."""
    return {"FREDDY_API_KEY": KEY, "FREDDY_BASE_URL": api.url, "FREDDY_TIERS": "inf:0.2"}


def test_a_bare_machine_gets_an_answer_and_is_told_where_from(shell: Shell) -> None:
    """The first command of the README, with nothing set up."""
    done = shell.run("run", "Write a detailed article about AI")

    assert done.returncode == 0
    assert done.stdout.startswith("Here is a detailed article about AI.")
    assert "EMULATOR" in done.stderr
    assert "export FREDDY_API_KEY=" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert shell.leftovers() == []


def test_answers_come_in_order_and_failures_count(shell: Shell, api: Emulator) -> None:
    """Exit status 1: the answers are on stdout, the failure on stderr; `-` is a prompt from stdin."""
    done = shell.run("run", "-", FAILING, "dogs", stdin="cats", **at(api))

    assert done.returncode == 1
    assert done.stdout.startswith("--- 1/3\nHere is a detailed article about cats.")
    assert "\n--- 3/3\nHere is a detailed article about dogs." in done.stdout
    assert "prompt 2: ResponseFailed: " in done.stderr
    assert "No luck" in done.stderr
    assert "EMULATOR" not in done.stderr
    assert api.counts.posts == 3
    assert KEY not in done.stdout + done.stderr
    assert shell.leftovers() == []


def test_json_is_one_object_a_prompt_and_nothing_else(shell: Shell, api: Emulator) -> None:
    """Programs read stdout; people still see stderr."""
    done = shell.run("run", "--json", "--field", "temperature=0.2", "cats", FAILING, **at(api))
    answer, failure = (json.loads(line) for line in done.stdout.splitlines())

    assert done.returncode == 1
    assert answer["status"] == "completed"
    assert "about cats" in answer["output_text"]
    assert answer["task_id"] != failure["task_id"]
    assert failure["status"] == "failed"
    assert failure["error"]["type"] == "ResponseFailed"
    assert failure["error"]["code"] == "model_error"


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        (("run",), {}, "Missing argument"),
        (("run", ""), {}, "The prompt is empty"),
        (("run", "--field", "stream=true", "x"), {}, "stream"),
        (("run", "--field", "timeout=5", "x"), {}, "place of its own"),
        (("run", "x"), {"FREDDY_TIERS": "soon"}, "FREDDY_TIERS"),
        (("run", "x"), {"FREDDY_BASE_URL": "http://127.0.0.1:1"}, "FREDDY_API_KEY"),
        (("run", "-A", "no_such_module", "x"), {}, "no_such_module"),
        (
            ("run", "x"),
            {
                "CELERY_BROKER_URL": "redis://:hidden@127.0.0.1:1/0",
                "CELERY_RESULT_BACKEND": "redis://:hidden@127.0.0.1:1/0",
            },
            "away",
        ),
        (("run", "x"), {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}, "result backend"),
        (("worker",), {}, "CELERY_BROKER_URL"),
        (("status", "x"), {}, "CELERY_BROKER_URL"),
        (("emulator", "--fault", "nonsense"), {}, "nonsense"),
    ],
)
def test_a_call_that_cannot_work_says_why(
    shell: Shell, args: tuple[str, ...], env: dict[str, str], words: str
) -> None:
    """Exit status 2, before anything is submitted, and with nothing left behind."""
    done = shell.run(*args, **env)

    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr
    assert shell.leftovers() == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_cancels_at_the_api(
    shell: Shell, slow_api: Emulator, number: signal.Signals, status: int
) -> None:
    """Nothing goes on costing money, and no process and no file is left."""
    with shell.start("run", "an epic", **at(slow_api)) as running:
        running.hear("in progress")
        children = running.children()
        running.process.send_signal(number)
        exit_status, out, said = running.end()

    assert exit_status == status
    assert out == ""
    assert "Cancelled, here and at the API." in said
    assert [job.status for job in slow_api.jobs()] == ["cancelled"]
    assert slow_api.counts.deletes == 1
    assert len(children) == 2  # a server and a worker
    assert not any(child.is_running() for child in children)
    assert shell.leftovers() == []


def test_a_second_interrupt_leaves_at_once_but_cleans_up(shell: Shell, slow_api: Emulator) -> None:
    """An API that does not answer the cancel keeps nobody; what may still run is named."""
    slow_api.set_faults(["hang@method=DELETE"])
    with shell.start("run", "an epic", **at(slow_api)) as running:
        running.hear("in progress")
        children = running.children()
        running.process.send_signal(signal.SIGINT)
        running.hear("Cancelling 1 response")
        running.process.send_signal(signal.SIGINT)
        exit_status, _, said = running.end()

    assert exit_status == 130
    assert f"may still run, and be billed: {slow_api.jobs()[0].id}" in said
    assert not any(child.is_running() for child in children)
    assert shell.leftovers() == []


def test_a_worker_that_dies_ends_the_run(shell: Shell, slow_api: Emulator) -> None:
    """It says so in place of waiting, and names what may still run."""
    with shell.start("run", "an epic", **at(slow_api)) as running:
        running.hear("in progress")
        (worker,) = [child for child in running.children() if "celery" in " ".join(child.cmdline())]
        worker.kill()
        exit_status, _, said = running.end()

    assert exit_status == 2
    assert "The worker ended with status -9" in said
    assert f"may still run, and be billed: {slow_api.jobs()[0].id}" in said
    assert shell.leftovers() == []


def test_it_waits_for_a_server_that_went_away_and_for_a_worker(shell: Shell) -> None:
    """It says what it waits for; and Ctrl-C fences the prompt, should a worker come later."""
    with EmbeddedServer() as server:
        env = {"CELERY_BROKER_URL": server.url, "CELERY_RESULT_BACKEND": server.url}
        with shell.start("run", "anybody?", **env) as running:
            running.hear("sent")
            server.kill()
            running.hear("does not answer")
            server.start()
            running.hear("No worker answers yet")
            running.process.send_signal(signal.SIGINT)
            exit_status, _, said = running.end()
        with Redis(unix_socket_path=str(server.socket), decode_responses=True) as state:
            phases = [state.hget(key, "phase") for key in state.scan_iter("freddy_tasks:*:job:*")]

    assert exit_status == 130
    assert "Cancelled" in said
    assert phases == ["cancelled"]


def test_help_lists_each_command_and_each_shows_an_example() -> None:
    """What a newcomer reads first."""
    listed = CliRunner().invoke(freddy_tasks, ["--help"]).stdout

    assert "Not available" not in listed
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        usage, _, text = CliRunner().invoke(freddy_tasks, [name, "--help"]).stdout.partition("\n")
        assert usage.startswith("Usage:")
        assert f"freddy-tasks {name}" in text


def test_a_missing_extra_takes_no_other_command_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the command that needs it says so."""
    monkeypatch.setitem(sys.modules, "freddy_tasks.cli.status", None)
    listed = CliRunner().invoke(freddy_tasks, ["--help"])
    refused = CliRunner().invoke(freddy_tasks, ["status", "x", "--json"])

    assert listed.exit_code == 0
    assert "Not available" in listed.stdout
    assert refused.exit_code == 2
    assert "not installed" in refused.stderr
