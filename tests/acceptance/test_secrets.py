"""Where the key, the prompt and the answer can be read: every error path, and everything that is written.

The three are marked with words that stand nowhere else. A worker that logs at DEBUG level goes through
whatever the emulator can do to it while MONITOR tells each command that reaches the server: messages,
events, replies to `inspect`, results, the ledger. What is encoded in base64 is searched decoded.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from nodes import CHECKOUT, DEADLINE, LocalProcess, Valkey, Worker, client_of, wait_for
from pydantic import SecretStr

import celeryconfig
from freddy_tasks import process_ai_response, process_batch
from freddy_tasks.batch.tasks import COLLECT_BATCH
from freddy_tasks.continuation import GENERATION_HEADER, HIDDEN, POLL, SUBMIT, publish
from freddy_tasks.emulator import Constant, Emulator, Options
from freddy_tasks.errors import ConfigurationError
from freddy_tasks.ledger import RECORD_TTL
from freddy_tasks.models import Job, Request, ResponseResult
from freddy_tasks.records import Held, Hop, Phase
from freddy_tasks.redaction import ECHO, LEAST
from freddy_tasks.runtime import build
from freddy_tasks.settings import Settings, load_settings
from freddy_tasks.tasks import cancel_response

KEY = "oak_zorilla-one-zorilla-two-zorilla"
PROMPT = "quagga kraal quagga veldt quagga karoo quagga drift quagga"
ANSWER = "okapi lianas okapi Ituri okapi canopy okapi"
RESULTS = ("celery-task-meta-", "celery-taskset-meta-")  # keys of the result backend
STRANGER = "bongo"  # prompt of a program without this package, which hides nothing
KEY_MARK, PROMPT_MARK, ANSWER_MARK = "zorilla", "quagga", "okapi"

LOOKS = (  # what goes wrong at a poll, each for a response of its own
    *("status=422", "status=500", "E2", "E3", "E5", "E6", "echo", "echo=401", "echo=410", "echo=503"),
    *("401", "404", "410", "route_404", "429=spend", "503_long", "redirect=http://elsewhere.invalid/"),
    *("html", "html=502", "text", "text=500", "empty", "truncated", "cut", "reset_before", "hang"),
)
ENDS = (
    *("failed=object", "failed=string", "failed=echo", "failed=null", "failed=absent"),
    *("incomplete", "expired", "canceled", "stuck", "empty_output", "no_output"),
)
SUBMITS = (  # what goes wrong at the submit; all of these end at once
    *(
        "status=422",
        "status=500",
        "E2",
        "E3",
        "E5",
        "E6",
        "echo",
        "echo=401",
        "echo=422",
        "echo=404",
        "echo=200",
    ),
    *(
        "401",
        "429=spend",
        "503_long",
        "redirect=http://elsewhere.invalid/",
        "html",
        "text=400",
        "empty",
        "truncated",
        "cut",
        "reset_after",
    ),
)
OPAQUE = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
ARGUMENT = re.compile(rb'"(?:[^"\\]|\\.)*"')


def layers(text: str) -> Iterator[str]:
    """The text, and whatever in it is base64, decoded, however deep."""
    yield text
    for found in OPAQUE.findall(text):
        padded = found.replace("-", "+").replace("_", "/").rstrip("=")
        try:
            inner = base64.b64decode(padded + "=" * (-len(padded) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
        yield from layers(inner)


def shows(text: str, mark: str) -> bool:
    """Whether a text holds a mark, openly or encoded."""
    return any(mark in layer.lower() for layer in layers(text))


def where(texts: dict[str, str], mark: str) -> dict[str, str]:
    """Those of the texts that hold a mark, and what stands around it."""
    return {
        name: layer[max(0, layer.lower().index(mark) - 200) :][:400]
        for name, text in texts.items()
        for layer in layers(text)
        if mark in layer.lower()
    }


class Tap:
    """Everything that is sent to a server, as its own MONITOR tells."""

    END = "the end of the tap"

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=DEADLINE)
        self.commands: list[list[str]] = []
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        assert self._listening.wait(DEADLINE)

    def _listen(self) -> None:
        connection = self._client.connection_pool.get_connection()
        connection.send_command("MONITOR")
        connection.read_response()
        self._listening.set()
        while not self.commands or self.commands[-1][-1] != self.END:
            line = connection.read_response(disable_decoding=True)
            values = (ast.literal_eval("b" + found.decode("latin-1")) for found in ARGUMENT.findall(line))
            self.commands.append([value.decode("utf-8", "replace") for value in values])
        connection.disconnect()

    def stop(self) -> list[list[str]]:
        """All commands so far."""
        self._client.execute_command("ECHO", self.END)
        self._thread.join(DEADLINE)
        self._client.close()
        return self.commands


@dataclass
class Evidence:
    """What a long day of errors has left behind."""

    logs: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # by `inspect`
    raised: dict[str, BaseException] = field(default_factory=dict)
    returned: dict[str, Any] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)
    lined_up: dict[str, str] = field(default_factory=dict)  # a ledger record that was not submitted yet
    left: dict[str, str] = field(default_factory=dict)  # keys and values at the end


class Day:
    """One after the other, everything that can end badly."""

    def __init__(self, directory: Path, server: Valkey, api: Emulator, app: Celery) -> None:
        self.api, self.app, self.seen = api, app, Evidence()
        self.state = redis.Redis.from_url(server.url, decode_responses=True)
        self.env = {
            "CELERY_BROKER_URL": server.url,
            "CELERY_RESULT_BACKEND": server.url,
            "FREDDY_API_KEY": KEY,
            "FREDDY_BASE_URL": api.url,
            "FREDDY_PLAN": "unlimited",
            "FREDDY_TIERS": "inf:0.2",
            "FREDDY_LEASE": "2",
            "FREDDY_TIMEOUT": "1",
            "FREDDY_READ_TIMEOUT": "1.2",
            "FREDDY_MISSING_GRACE": "0.2",
        }
        self.directory = directory
        self.ledger = build(app, Settings(api_key=SecretStr(KEY), state_url=SecretStr(server.url))).ledger
        self.started: list[LocalProcess] = []
        self.commands: list[LocalProcess] = []
        self.open: dict[str, AsyncResult[Any]] = {}

    def live(self) -> Evidence:
        """From the start of a worker to its end."""
        worker = self.worker("worker", {})
        try:
            worker.ready()
            misled = self.worker("misled", {"FREDDY_TIMEOUT": KEY})
            self.looks_fail()
            self.submits_fail()
            self.requests_hang()
            self.others_interfere()
            self.requests_run_out()
            self.batches_end()
            for process in (misled, *self.commands):
                process.wait()
            assert misled.process.returncode != 0
            self.seen.left = self.read_everything()
        finally:
            for process in (*self.started, *self.commands):
                if process.status == "running":
                    process.kill()
        self.seen.logs |= {process.log.stem: process.logs() for process in (*self.started, *self.commands)}
        return self.seen

    def worker(self, name: str, env: dict[str, str]) -> Worker:
        """A worker that says all it can."""
        log = self.directory / f"{name}.log"
        started = Worker(log, {**self.env, **env}, pool="prefork", concurrency=4, options=["-l", "DEBUG"])
        self.started.append(started)
        return started

    def submit(self, name: str, **options: Any) -> AsyncResult[Any]:
        """A prompt under way; its end is waited for with the others'."""
        calls = {key: options.pop(key) for key in list(options) if key in ("time_limit", "countdown")}
        result = process_ai_response.apply_async((PROMPT,), options, **calls)
        self.open[name] = result
        return result

    def until(self, task_id: str, phase: Phase) -> None:
        """Wait until the ledger has a response in this phase."""
        wait_for(lambda: (record := self.ledger.record(task_id)) and record.phase is phase)

    def gather(self) -> None:
        """Wait for all that is under way."""
        for name, result in self.open.items():
            try:
                self.seen.returned[name] = result.get(timeout=DEADLINE)
            except Exception as error:
                self.seen.raised[name] = error
        self.open.clear()

    def looks_fail(self) -> None:
        """The response is there, and what is told of it is not what it should be."""
        faults = [f"{fault}@method=GET" for fault in LOOKS] + [*ENDS]
        self.api.set_faults(f"{fault}@job={number}" for number, fault in enumerate(faults, 1))
        names = [f"look {number} {fault}" for number, fault in enumerate(faults, 1)]
        for number, name in enumerate(names):
            self.submit(name, return_exceptions=bool(number % 2))
        self.command("status", self.open[f"look {faults.index('failed=echo') + 1} failed=echo"].id)
        self.command("status", self.open[f"look {faults.index('stuck') + 1} stuck"].id, "--json")
        self.gather()

    def submits_fail(self) -> None:
        """The prompt is refused, or nobody knows."""
        for number, fault in enumerate(SUBMITS):
            self.api.set_faults([f"{fault}@method=POST"])
            self.submit(f"submit {fault}", return_exceptions=bool(number % 2))
            self.gather()
        self.command("reconcile")

    def requests_hang(self) -> None:
        """Time limits hit, and somebody asks what the worker is about."""
        self.api.set_faults(["hang_after@method=POST"])
        for number in range(2):
            self.submit(f"time limit {number}", time_limit=0.5)
        for number in range(5):
            self.submit(f"hang {number}")
        later = self.submit("later", countdown=60)
        for question in ("reserved", "active", "scheduled"):
            wait_for(partial(self.ask, question))
        self.app.control.revoke(later.id)
        wait_for(partial(self.ask, "revoked"))
        del self.open["later"]
        self.gather()

    def others_interfere(self) -> None:
        """Cancelled, revoked, and forgotten by the state server."""
        self.api.set_faults(["stuck"])
        cancelled, revoked = self.submit("cancelled", timeout=60), self.submit("revoked", timeout=60)
        for result in (cancelled, revoked):
            self.until(result.id, Phase.WAITING)
        cancel_response(cancelled.id)
        revoked.revoke(terminate=True)
        lost = self.app.AsyncResult("a-lost-one")
        self.open["lost"] = lost
        with self.app.producer_pool.acquire(block=True) as producer:
            publish(self.app, producer, POLL, lost.id, [1], {}, {}, {GENERATION_HEADER: 1})
        self.gather()

    def requests_run_out(self) -> None:
        """A prompt lines up in the waiting room, and is answered in the end."""
        self.api.set_faults(["429=retry-after:1@method=POST@times=1"])
        self.submit("refused for now", timeout=60)
        self.until(self.open["refused for now"].id, Phase.QUEUED)
        lined_up = self.submit("lined up", timeout=60)
        self.until(lined_up.id, Phase.QUEUED)
        self.seen.lined_up = self.state.hgetall(f"{self.ledger.prefix}:job:{lined_up.id}")
        self.gather()

    def batches_end(self) -> None:
        """With every answer, and with none."""
        self.open["a stranger"] = self.app.send_task(SUBMIT, [STRANGER])
        for fault in ("delay=0", "failed=echo"):
            self.api.set_faults([fault])
            if fault == "failed=echo":
                self.command("run", PROMPT)
            batch = process_batch([PROMPT, PROMPT], timeout=5)
            self.seen.returned[f"batch {fault}"] = batch.get(DEADLINE).to_result()
            self.told(f"batch {fault}", repr(batch))
        self.gather()

    def command(self, *arguments: str) -> None:
        """Start one of our commands; what it prints on either output is kept."""
        env = {"PATH": os.environ["PATH"], **self.env}
        log = self.directory / f"command-{arguments[0]}-{len(self.commands)}.log"
        self.commands.append(LocalProcess([sys.executable, "-m", "freddy_tasks", *arguments], log, env))

    def ask(self, question: str) -> bool:
        """Put a question to the worker; whether it had something to tell."""
        reply = getattr(self.app.control.inspect(limit=1, timeout=DEADLINE), question)()
        self.told(f"inspect {question}", json.dumps(reply))
        return any(reply.values())

    def told(self, name: str, text: str) -> None:
        """Keep what was shown to somebody."""
        self.seen.told[name] = self.seen.told.get(name, "") + text

    def read_everything(self) -> dict[str, str]:
        """Each key and its value."""
        readers = {
            "string": self.state.get,
            "hash": self.state.hgetall,
            "list": lambda key: self.state.lrange(key, 0, -1),
            "set": self.state.smembers,
            "zset": lambda key: self.state.zrange(key, 0, -1, withscores=True),
        }
        keys = [str(key) for key in self.state.scan_iter()]
        return {key: str(readers[kind](key)) for key in keys if (kind := self.state.type(key)) in readers}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """The day, lived once for all tests."""
    directory = tmp_path_factory.mktemp("secrets")
    server = Valkey(directory)
    options = Options(
        durations=Constant(0.1),
        queue_seconds=0.0,
        per_minute=None,
        per_day=None,
        keys=(KEY,),
        answer=lambda _: ANSWER,
    )
    with Emulator(options) as api, pytest.MonkeyPatch.context() as patch:
        server.ready()
        app = client_of(server.url, server.url)
        day = Day(directory, server, api, app)
        for name, value in day.env.items():
            patch.setenv(name, value)
        tap = Tap(server.url)
        try:
            evidence = day.live()
        finally:
            commands = tap.stop()
            app.backend.result_consumer.subscribed_to.clear()
            app.close()
            server.teardown()
        evidence.commands = commands
        yield evidence


def message_in(argument: str) -> dict[str, Any] | None:
    """The Celery message that a command carries, alone or as kombu keeps one that is not acknowledged yet."""
    try:
        value = json.loads(argument)
    except ValueError:
        return None
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) and {"body", "headers"} <= value.keys() else None


def messages(commands: list[list[str]]) -> list[dict[str, Any]]:
    """All messages that were ever sent."""
    found = (message_in(argument) for command in commands for argument in command)
    return [message for message in found if message]


def events(commands: list[list[str]]) -> list[dict[str, Any]]:
    """All of Celery's events."""
    sent = [
        event
        for command in commands
        if command[0] == "PUBLISH" and "celeryev" in command[1]
        for event in [json.loads(base64.b64decode(json.loads(command[2])["body"]))]
    ]
    return [one for event in sent for one in (event if isinstance(event, list) else [event])]


def without(argument: str, tasks: set[str], record: set[str]) -> str:
    """An argument without the bodies of some tasks' messages, and without JSON of just these fields."""
    message = message_in(argument)
    if message and message["headers"].get("task") in tasks:
        return json.dumps({**message, "body": ""})
    try:
        value = json.loads(argument)
    except ValueError:
        return argument
    return "" if isinstance(value, dict) and value.keys() == record else argument


def returned(seen: Evidence) -> dict[str, str]:
    """What the caller was given."""
    return {f"returned {name}": json.dumps(value) for name, value in seen.returned.items()}


def texts_of(seen: Evidence) -> dict[str, str]:
    """All but what went over the wire and what was returned."""
    raised = {f"raised {name}": f"{error!r} {error}" for name, error in seen.raised.items()}
    return {**{f"log {name}": log for name, log in seen.logs.items()}, **seen.told, **raised}


ENDINGS = {
    *(
        "AccessDenied",
        "InvalidRequest",
        "LedgerLost",
        "OutcomeUnknown",
        "ResponseCancelled",
        "ResponseExpired",
    ),
    *("ResponseFailed", "ResponseIncomplete", "ResponseLost", "ResponseTimeout", "ServiceUnavailable"),
    *("SpendingLimitReached", "TaskRevokedError", "TimeLimitExceeded", "UnsupportedByServer"),
}
EVENTS = {
    *("task-sent", "task-received", "task-started", "task-polling"),
    *("task-succeeded", "task-failed", "task-cancelled"),
}


def test_every_error_path_was_taken(seen: Evidence) -> None:
    """What is searched is what it was meant to be, and the marks can be found where they belong."""
    values = [value for value in seen.returned.values() if value.get("error")]
    ended = {type(error).__name__ for error in seen.raised.values()} | {
        each["error"]["type"] for each in values
    }
    bodies = [base64.b64decode(message["body"]).decode() for message in messages(seen.commands)]
    printed = " ".join(seen.logs.values())

    assert ended >= ENDINGS
    assert {event["type"] for event in events(seen.commands)} >= EVENTS
    assert any(PROMPT in body for body in bodies)
    assert ANSWER in json.dumps(seen.returned)
    assert "freddy_tasks cannot start" in seen.logs["misled"]
    assert "TaskPool: Apply" in printed
    assert "Hard time limit" in printed
    assert "The model refused this prompt…" in printed


def test_the_key_is_nowhere(seen: Evidence) -> None:
    """Not in logs, results, messages, events, the ledger, replies to `inspect`, or what commands print."""
    sent = {str(number): " ".join(command) for number, command in enumerate(seen.commands)}

    assert where(texts_of(seen) | returned(seen) | sent | seen.left, KEY_MARK) == {}


def test_the_prompt_is_in_its_message_and_in_the_ledger_until_it_is_accepted(seen: Evidence) -> None:
    """The body of the message that submits it, and the record's `body`, which goes with the reply."""
    sent = {
        str(number): " ".join(without(argument, {SUBMIT}, {"args", "kwargs"}) for argument in command)
        for number, command in enumerate(seen.commands)
    }
    kept = {field for field, value in seen.lined_up.items() if PROMPT in value}
    unsettled = {
        key
        for key, value in seen.left.items()
        if PROMPT in value and not key.startswith(("unacked", "freddy_tasks"))
    }
    phases = {
        ast.literal_eval(value)["phase"]
        for key, value in seen.left.items()
        if ":job:" in key and PROMPT in value
    }

    assert where(texts_of(seen) | returned(seen) | sent, PROMPT_MARK) == {}
    assert kept == {"body"}
    assert phases == {Phase.SUSPENDED.value}
    assert unsettled == set()


def test_the_answer_is_in_results_alone(seen: Evidence) -> None:
    """Those in the backend, the ledger's `outcome` until it has one, and messages to what is made of them."""
    sent = {
        str(number): " ".join(without(argument, {COLLECT_BATCH}, {"result"}) for argument in command)
        for number, command in enumerate(seen.commands)
        if not any(argument.startswith(RESULTS) for argument in command)
    }
    left = {key: value for key, value in seen.left.items() if not key.startswith(RESULTS)}

    assert where(texts_of(seen) | sent | left, ANSWER_MARK) == {}


def test_a_worker_shows_no_prompt_that_its_sender_did_not_hide(seen: Evidence) -> None:
    """Not in its log at DEBUG level, nor in its events; the sender's own event is the sender's."""
    told = {str(number): str(event) for number, event in enumerate(events(seen.commands))}
    senders = {name for name, event in told.items() if "'task-sent'" in event}

    assert where(told, STRANGER).keys() <= senders
    assert where(texts_of(seen), STRANGER) == {}


def test_no_object_shows_a_secret() -> None:
    """Settings, runtime, client and the ledger's values, by repr and by str."""
    settings = Settings(api_key=SecretStr(KEY), state_url=SecretStr(f"redis://:{KEY}@127.0.0.1:1/0"))
    runtime = build(Celery("nobody", broker="memory://", set_as_current=False), settings)
    job, body = Job(0.0, "m"), {"args": [PROMPT], "kwargs": {"instructions": PROMPT}}
    held = Held(
        "id", 1, Phase.SENT, 0.0, job, body=body, outcome={"result": ANSWER}, options={"chain": [PROMPT]}
    )
    hop = Hop("id", 1, Phase.SENT, job, options={"chain": [PROMPT]}, body=body)
    request = Request(PROMPT, "m", {"instructions": PROMPT})
    result = ResponseResult.from_result({"id": "r", "output_text": ANSWER, "output": [ANSWER]})
    shown = {
        type(each).__name__: f"{each!r} {each}"
        for each in (settings, runtime, runtime.client, runtime.ledger, held, hop, request, result)
    }

    assert where(shown, KEY_MARK) | where(shown, PROMPT_MARK) | where(shown, ANSWER_MARK) == {}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_key_in_the_wrong_variable_is_not_repeated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad setting is named, and its value is not."""
    monkeypatch.setenv("FREDDY_API_KEY", "another")
    monkeypatch.setenv(f"FREDDY_{name.upper()}", KEY)
    try:
        build(Celery("nobody", broker="memory://", set_as_current=False), load_settings())
    except ConfigurationError as error:
        said = str(error)
    else:
        said = ""

    assert not shows(said, KEY_MARK)


def test_what_is_encoded_is_found() -> None:
    """The search sees through base64, in base64, in any text."""
    once = base64.b64encode(json.dumps({"argsrepr": PROMPT}).encode()).decode()
    twice = base64.b64encode(f'{{"body": "{once}"}}'.encode()).decode()

    assert shows(f"PUBLISH {twice} 1", PROMPT_MARK)
    assert not shows(f"PUBLISH {twice} 1", KEY_MARK)


def test_documentation_tells_the_truth_about_how_long() -> None:
    """Its figures are those of the code."""
    told = " ".join((CHECKOUT / "docs" / "security.md").read_text().split())  # wherever its lines break
    day = 86_400

    assert f"`freddy-tasks reconcile`, else {RECORD_TTL // day} days" in told
    assert f"`result_expires`: {celeryconfig.result_expires // day} days" in told
    assert f"texts of at least {LEAST} characters are hidden" in told
    assert f"and echoes of at least {ECHO} characters" in told
    assert f"replaced by `{HIDDEN}`" in told
