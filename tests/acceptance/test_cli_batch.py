"""`freddy-tasks batch` as a person runs it: killed at any moment, and called again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from freddy_tasks import processes
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Constant, Emulator, Fault, Options

COMMAND = (sys.executable, "-m", "freddy_tasks")
TIMEOUT = 60.0  # seconds: what takes longer hangs
FAILING = " [emulate: status=failed code=model_error]"


@dataclass
class Site:
    """A place to run batches in: an API, the settings, and a directory."""

    api: Emulator
    env: dict[str, str]
    directory: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def prompts(self, count: int) -> Path:
        """A file of prompts, every fifth of which fails."""
        path = self.directory / "prompts.jsonl"
        lines = [
            {"id": f"p{number}", "prompt": f"prompt {number}{FAILING if number % 5 == 2 else ''}"}
            for number in range(count)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def __call__(self, *args: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `batch` to its end."""
        done = subprocess.run(
            [*COMMAND, "batch", *map(str, args)],
            env=self.env, input=stdin, capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return done

    def start(self, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start `batch`, to be killed."""
        process = processes.start(
            [*COMMAND, "batch", *map(str, args)], self.directory / "batch.log", self.env
        )
        self.running.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a worker."""
        argv = [*COMMAND, "worker"]
        process = processes.start(argv, self.directory / "worker.log", self.env)
        self.running.append(process)
        return process


@pytest.fixture(scope="module")
def api() -> Iterator[Emulator]:
    """An API whose answers take a third of a second and depend on the prompt only."""
    options = Options(
        durations=Constant(0.3), queue_seconds=0.1, per_minute=None, per_day=None, answer="About {}".format
    )
    with Emulator(options) as emulator:
        yield emulator


@pytest.fixture
def lone(api: Emulator, tmp_path: Path) -> Iterator[Site]:
    """A machine without a broker; a socket's path must be short, so its state is not under pytest's."""
    api.reset()
    with tempfile.TemporaryDirectory() as state:
        env = {
            **os.environ,
            "FREDDY_API_KEY": api.key,
            "FREDDY_BASE_URL": api.url,
            "FREDDY_PLAN": "unlimited",
            "FREDDY_TIERS": "inf:0.5",
            "FREDDY_LEASE": "2",
            "XDG_STATE_HOME": state,
        }
        site = Site(api, env, tmp_path)
        yield site
        api.set_faults(())
        for process in site.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def site(lone: Site, valkey: EmbeddedServer, state: redis.Redis) -> Site:
    """A machine with a broker, and no worker yet."""
    lone.env |= {"CELERY_BROKER_URL": valkey.url, "CELERY_RESULT_BACKEND": valkey.url}
    return lone


def queued(state: redis.Redis) -> int:
    """Prompts that line up, and messages in the queue, of every priority: Celery keeps a list for each."""
    lists = [key for key in state.keys("freddy_tasks*") if state.type(key) == "list"]
    return sum(map(state.llen, lists)) + sum(map(state.zcard, state.scan_iter("*:ready:submit")))


def wait_for(condition: Callable[[], Any]) -> Any:
    """The condition's first true value; AssertionError when there is none in time."""
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing of the kind happened in time"
        time.sleep(0.02)
    return value


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines, none while there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def journal_of(output: Path) -> Path:
    """Where a run keeps its outcomes."""
    return output.with_name(output.name + ".journal")


def outcomes_of(output: Path) -> int:
    """How many outcomes a run has on disk; its last line may be half written yet."""
    journal = journal_of(output)
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def assert_all_are_accounted_for(lines: list[dict[str, Any]], size: int) -> None:
    """Each prompt once, in order; only those whose submit was cut off may have an unknown outcome."""
    outcomes = [line["outcome"] for line in lines]
    assert [line["id"] for line in lines] == [f"p{number}" for number in range(size)]
    assert set(outcomes) <= {"completed", "failed", "unknown"}
    assert outcomes.count("unknown") <= 8  # as many as the worker has threads


def no_submit_is_under_way(state: redis.Redis) -> bool:
    """One that a worker dies with has an unknown outcome, as nobody can tell whether the API accepted it."""
    phases = [state.hget(key, "phase") for key in state.scan_iter("*:job:*")]
    return queued(state) == 0 and "sent" not in phases


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(site: Site, state: redis.Redis) -> None:
    """The CLI and the worker are killed in the middle: nothing is submitted twice, nothing is lost."""
    prompts, calm, rough = site.prompts(40), site.directory / "calm.jsonl", site.directory / "rough.jsonl"
    worker = site.worker()
    undisturbed = site(prompts, "-o", calm)
    site.api.reset()

    batch = site.start(prompts, "-o", rough, "--in-flight", "15")
    wait_for(lambda: outcomes_of(rough) >= 10)
    batch.kill()
    batch.wait()
    wait_for(lambda: no_submit_is_under_way(state))
    worker.kill()
    worker.wait()
    site.worker()
    again = site(prompts, "-o", rough, "--in-flight", "15")

    assert undisturbed.returncode == again.returncode == 1
    assert "32 completed, 8 failed of 40" in again.stderr
    assert rough.read_bytes() == calm.read_bytes()
    assert [line["id"] for line in lines_of(rough)] == [f"p{number}" for number in range(40)]
    assert set(site.api.counts.submits.values()) == {1}
    assert len(site.api.counts.submits) == 40


def test_a_run_without_a_broker_outlives_its_own_servers(lone: Site) -> None:
    """The private server and worker end with the killed command; the next one finds what they knew."""
    prompts, output = lone.prompts(40), lone.directory / "answers.jsonl"
    batch = lone.start(prompts, "-o", output, "--in-flight", "15")
    wait_for(lambda: outcomes_of(output) >= 5)
    batch.kill()
    batch.wait()

    again = lone(prompts, "-o", output)

    assert "of 40" in again.stderr
    assert_all_are_accounted_for(lines_of(output), 40)
    assert set(lone.api.counts.submits.values()) == {1}
    assert len(lone.api.counts.submits) == 40
    assert list((Path(lone.env["XDG_STATE_HOME"]) / "freddy-tasks").iterdir()) == []


def test_a_server_that_is_killed_and_comes_back_only_delays_a_run(lone: Site) -> None:
    """A power cut of the broker, which keeps the state, too: the command waits, and sends nothing twice."""
    prompts, output = lone.prompts(30), lone.directory / "answers.jsonl"
    with EmbeddedServer() as server:
        server.kill()
        server.start("--appendfsync", "always")
        lone.env |= {"CELERY_BROKER_URL": server.url, "CELERY_RESULT_BACKEND": server.url}
        lone.worker()
        batch = lone.start(prompts, "-o", output, "--in-flight", "10")
        wait_for(lambda: outcomes_of(output) >= 5)
        server.kill()
        wait_for(lambda: "is away" in (lone.directory / "batch.log").read_text())
        server.start("--appendfsync", "always")
        status = batch.wait(TIMEOUT)

    assert status == 1
    assert_all_are_accounted_for(lines_of(output), 30)
    assert set(lone.api.counts.submits.values()) == {1}
    # An intent may be on record whose writer never heard so, and sent nothing: its outcome is unknown, too.
    unknown = sum(line["outcome"] == "unknown" for line in lines_of(output))
    assert 30 - unknown <= len(lone.api.counts.submits) <= 30


def test_ctrl_c_keeps_what_there_is_and_says_how_to_go_on(site: Site) -> None:
    """The exit status is the shell's own for it; answers so far are in the output, in order."""
    prompts, output = site.prompts(60), site.directory / "answers.jsonl"
    site.worker()
    batch = site.start(prompts, "-o", output, "--in-flight", "10")
    wait_for(lambda: outcomes_of(output) >= 5)

    batch.send_signal(signal.SIGINT)

    assert batch.wait(TIMEOUT) == 130
    ids = [int(line["id"][1:]) for line in lines_of(output)]
    assert ids == sorted(ids)
    assert len(ids) >= 5
    assert "The same command goes on" in (site.directory / "batch.log").read_text()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_pipe_that_never_ends_can_be_left(lone: Site, number: int, status: int) -> None:
    """Nothing has been sent while prompts are read, and no copy of them is left."""
    output = lone.directory / "answers.jsonl"
    argv, env = [*COMMAND, "batch", "-", "-o", output], {**lone.env, "TMPDIR": str(lone.directory)}
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as batch:
        wait_for(lambda: list(lone.directory.glob("freddy_tasks-*")))
        batch.send_signal(number)

        assert batch.wait(TIMEOUT) == status
        assert batch.stderr.read() == b""
    assert list(lone.directory.iterdir()) == []


def test_an_emptied_state_server_makes_outcomes_unknown_and_sends_nothing_twice(
    site: Site, state: redis.Redis
) -> None:
    """What was sent may have been answered: only --retry-unknown sends it again."""
    prompts, output = site.prompts(10), site.directory / "answers.jsonl"
    batch = site.start(prompts, "-o", output, "--in-flight", "4")
    wait_for(lambda: queued(state) == 4)
    batch.kill()
    batch.wait()
    state.flushdb()
    site.worker()

    emptied = site(prompts, "-o", output)
    sent = site.api.counts.posts
    retried = site(prompts, "-o", output, "--retry-unknown")

    assert "5 completed, 1 failed, 4 unknown of 10" in emptied.stderr
    assert sent == 6
    assert "8 completed, 2 failed of 10" in retried.stderr
    assert site.api.counts.posts == 10


def test_only_the_failed_are_sent_again_and_only_the_first_on_trial(site: Site) -> None:
    """`--limit` tries a few; without it the others follow; `--retry-failed` completes what failed."""
    prompts, output = site.directory / "prompts.csv", site.directory / "answers.jsonl"
    prompts.write_text('id,text\na,ants\nb,"bees,\nwasps"\nc,cats\n')
    command = (prompts, "-o", output, "--column", "text")
    site.worker()
    few = site(*command, "--limit", "1")
    tried = lines_of(output)
    site.api.set_faults([Fault.parse("failed")])
    rest = site(*command)
    site.api.set_faults(())
    posts = site.api.counts.posts
    retried = site(*command, "--retry-failed")

    assert [run.returncode for run in (few, rest, retried)] == [0, 1, 0]
    assert [line["output_text"] for line in tried] == ["About ants"]
    assert "1 completed, 2 failed of 3" in rest.stderr
    assert (posts, site.api.counts.posts) == (3, 5)
    assert [line["id"] for line in lines_of(output)] == ["a", "b", "c"]
    assert [line["output_text"] for line in lines_of(output)] == [
        "About ants",
        "About bees,\nwasps",
        "About cats",
    ]


def test_bad_lines_are_named_before_anything_is_sent(site: Site) -> None:
    """With their numbers, all at once; the good ones go on their own only when that is asked for."""
    output = site.directory / "answers.jsonl"
    written = '"ants"\n{"id": 2}\nnot json\n"bees"\n{"prompt": ""}\n'

    refused = site("-", "-o", output, stdin=written)
    site.worker()
    skipped = site("-", "-o", output, "--skip-bad-lines", stdin=written)

    assert refused.returncode == 2
    assert [line.split(":")[0] for line in refused.stderr.splitlines()[:3]] == ["line 2", "line 3", "line 5"]
    assert "3 of 5 lines" in refused.stderr
    assert skipped.returncode == 0
    assert [line["id"] for line in lines_of(output)] == [1, 4]


def test_other_prompts_do_not_go_into_the_same_output(site: Site) -> None:
    """Nor into a file that no run wrote."""
    prompts, output, other = site.prompts(5), site.directory / "answers.jsonl", site.directory / "other"
    other.write_text("precious")
    batch = site.start(prompts, "-o", output)
    manifest = output.with_name(output.name + ".manifest")
    wait_for(lambda: manifest.exists() and json.loads(manifest.read_text())["sent_below"])
    busy = site(prompts, "-o", output)
    batch.kill()
    batch.wait()
    prompts.write_text('"ants"\n')

    assert busy.returncode == 2
    assert "Another process" in busy.stderr
    mixed = site(prompts, "-o", output)
    assert mixed.returncode == 2
    assert "other prompts" in mixed.stderr
    assert site(prompts, "-o", other).returncode == 2
    assert other.read_text() == "precious"


def test_a_run_that_could_send_nothing_is_in_nobody_s_way(lone: Site, valkey: EmbeddedServer) -> None:
    """What was missing is set, or another file chosen, and the output is theirs."""
    output = lone.directory / "answers.jsonl"
    key = lone.env.pop("FREDDY_API_KEY")
    keyless = lone(lone.prompts(5), "-o", output)
    lone.env |= {"FREDDY_API_KEY": key, "CELERY_BROKER_URL": valkey.url, "CELERY_RESULT_BACKEND": valkey.url}
    lone.worker()
    prompts = lone.directory / "others.jsonl"
    prompts.write_text('"ants"\n')

    assert keyless.returncode == 2
    assert "FREDDY_API_KEY" in keyless.stderr
    assert lone(prompts, "-o", output).returncode == 0
    assert [line["output_text"] for line in lines_of(output)] == ["About ants"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("-o", "nowhere/answers.jsonl"), "nowhere/answers.jsonl.journal cannot be written: No such file"),
        (("-o", "answers.jsonl", "--timeout", "-1"), "--timeout"),
        (("-o", "answers.jsonl", "--timeout", "1e9"), "timeout"),
        (("-o", "answers.jsonl", "--field", "inputs=1"), "inputs"),
    ],
)
def test_a_call_that_no_line_can_be_sent_by_is_refused_as_such(
    site: Site, args: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence, and not for each line."""
    monkeypatch.chdir(site.directory)
    done = site(site.prompts(3), *args)

    assert done.returncode == 2
    assert told in done.stderr
    assert "line 1" not in done.stderr
    assert not list(site.directory.glob("answers*"))


def test_a_file_without_prompts_has_an_output_without_answers(site: Site) -> None:
    """It is no failure, and is called what it is."""
    output = site.directory / "answers.jsonl"
    done = site("-", "-o", output)

    assert done.returncode == 0
    assert "no prompt of 0" in done.stderr
    assert output.read_bytes() == b""


def test_a_dry_run_sends_and_writes_nothing(site: Site) -> None:
    """It tells the requests and the time that the plan allows."""
    output = site.directory / "answers.jsonl"
    site.env["FREDDY_PLAN"] = "standard"

    told = site(site.prompts(1_000), "-o", output, "--dry-run")

    assert told.returncode == 0
    assert "Requests: 2000 at the least" in told.stdout
    assert "100 a minute, 10000 a day" in told.stdout
    assert "20 min" in told.stdout
    assert not output.exists()
    assert not journal_of(output).exists()
    assert site.api.counts.posts == 0
