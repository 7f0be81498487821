"""The servers, workers and caller of one campaign; all end with it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis
from celery import Celery, chord
from celery._state import _tls
from celery.result import denied_join_result
from nodes import CHECKOUT, Worker

from campaigns.book import UNKNOWN, Book, Verdict
from freddy_tasks import process_ai_response
from freddy_tasks.cli.suspended import unknown_outcomes
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator, Options
from freddy_tasks.ledger import Ledger
from freddy_tasks.runtime import build, use
from freddy_tasks.settings import load_settings

LEASE = 2.0  # seconds
TICK = 0.1  # seconds between two looks of the campaign
MEMBERS = 10  # of a chord
SURVIVING = "freddy_tasks.consumer:SurvivingConsumer"


@dataclass
class Plan:
    """What a campaign is run with."""

    size: int = 40
    seed: int = 0
    pool: str = "threads"
    workers: int = 2
    concurrency: int = 4
    patience: float = 150.0  # seconds without any change, more than the longest lease: the rest is hung


def api_for(plan: Plan, **options: Any) -> Options:
    """An API without limits that repeats each prompt, the same for the same seed."""
    return Options(per_minute=None, per_day=None, answer="About {}".format, seed=plan.seed, **options)


class Stage:
    """A Valkey, an emulator, workers, and the app that sends; use it in a `with` block."""

    def __init__(
        self, plan: Plan, options: Options, *, server: Any = None, app: str = "campaigns.app", **env: str
    ) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.api = Emulator(options)
        self.book = Book()
        self.ended: list[int] = []  # exit statuses of workers that ended by themselves
        self._folder = tempfile.TemporaryDirectory(prefix="survive-")
        self.folder = Path(self._folder.name)
        self._bodies_folder = self.folder / "bodies"
        self._bodies_folder.mkdir()
        self.server = server or EmbeddedServer()
        self._app = app
        self._env = env
        self._exits = contextlib.ExitStack()
        self.workers: list[Worker] = []
        self.bodies: Worker | None = None

    def __enter__(self) -> Self:
        try:
            self._exits.callback(self._put_away)
            self._exits.enter_context(self.server)
            self._exits.enter_context(self.api)
            self._exits.callback(self._kill_workers)
            self.env = {
                "CELERY_BROKER_URL": self.server.url,
                "CELERY_RESULT_BACKEND": self.server.url,
                "FREDDY_API_KEY": self.api.key,
                "FREDDY_BASE_URL": self.api.url,
                "FREDDY_PLAN": "unlimited",
                "FREDDY_TIERS": "inf:0.5",
                "FREDDY_LEASE": f"{LEASE:g}",
                "SURVIVE_BODIES": str(self._bodies_folder),
                **self._env,
            }
            self._open_desk()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _open_desk(self) -> None:
        before = getattr(_tls, "current_app", None)
        master = {"master_name": self.env["SURVIVE_MASTER"]} if "SURVIVE_MASTER" in self.env else {}
        options = {"socket_timeout": 60.0, "retry_policy": {"timeout": 60.0}, **master}
        self.desk = Celery("survive", broker=self.server.url, backend=self.server.url, set_as_current=False)
        self.desk.conf.update(
            broker_transport_options=master,
            result_backend_transport_options=options,
            task_routes={"survive.collect": {"queue": "bodies"}},
        )
        self.desk.set_current()
        if before is not None:
            self._exits.callback(before.set_current)
        self._exits.enter_context(_environment(self.env))
        runtime = build(self.desk, load_settings())
        use(self.desk, runtime)
        # A result that is collected after the server has gone must not ask it for twenty seconds.
        self._exits.callback(self.desk.backend.result_consumer.subscribed_to.clear)
        self.ledger: Ledger = runtime.ledger
        self.state: redis.Redis = runtime.ledger.redis
        self._broker: redis.Redis = self.desk.backend.client  # bytes, where the ledger's client has text

    def open(self, **options: Any) -> None:
        """Start the workers, and one of its own, never harmed, for the bodies of chords."""
        self.bodies = self._worker("bodies", "threads", 2, {}, ("-Q", "bodies"))
        for number in range(self.plan.workers):
            self.workers.append(self.hire(f"worker-{number}", **options))
        for worker in (self.bodies, *self.workers):
            worker.ready()

    def hire(self, name: str, *, options: Sequence[str] = (), **env: str) -> Worker:
        """One worker more, not yet ready."""
        return self._worker(name, self.plan.pool, self.plan.concurrency, env, ("-Q", "celery", *options))

    def _worker(
        self, name: str, pool: str, concurrency: int, env: dict[str, str], options: Sequence[str]
    ) -> Worker:
        log = self.folder / f"{name}.log"
        chosen = {**self.env, **env}
        return Worker(log, chosen, app=self._app, pool=pool, concurrency=concurrency, options=options)

    def submit(self, prompts: Sequence[str], **options: Any) -> list[str]:
        """Send prompts, each a task of its own; their task ids."""
        return [self.note(process_ai_response.delay(prompt, **options).id, prompt) for prompt in prompts]

    def submit_chord(self, name: str, prompts: Sequence[str], **options: Any) -> list[str]:
        """Send prompts as one chord; their failures are values, so that its body runs."""
        header = [process_ai_response.s(prompt, return_exceptions=True, **options) for prompt in prompts]
        body = self.desk.signature("survive.collect", kwargs={"name": name}, app=self.desk)
        result = chord(header, app=self.desk)(body)
        self.book.chords[name] = len(prompts)
        self.book.body_ids[name] = result.id
        ids = [member.id for member in result.parent.results]
        return [self.note(task_id, prompt, name) for task_id, prompt in zip(ids, prompts, strict=True)]

    def submit_group(self, prompts: Sequence[str]) -> list[str]:
        """Send prompts as a chord whose body nobody expects to run: its members will be cancelled."""
        header = [process_ai_response.s(prompt) for prompt in prompts]
        result = chord(header, app=self.desk)(self.desk.signature("survive.collect", kwargs={"name": ""}))
        members = result.parent.results if result.parent else [result]
        return [self.note(member.id, prompt) for member, prompt in zip(members, prompts, strict=True)]

    def send(self, count: int, prompt: str = "prompt {}") -> list[str]:
        """Send so many, the first half in chords of ten as far as they go."""
        start = len(self.book.sent)
        prompts = [prompt.format(start + number) for number in range(count)]
        ids: list[str] = []
        with denied_join_result():  # nobody waits for these results: subscribe to none
            while len(prompts) >= 2 * MEMBERS:
                ids += self.submit_chord(f"chord {start + len(ids)}", prompts[:MEMBERS])
                ids += self.submit(prompts[MEMBERS : 2 * MEMBERS])
                prompts = prompts[2 * MEMBERS :]
            if len(prompts) >= MEMBERS:
                ids += self.submit_chord(f"chord {start + len(ids)}", prompts[:MEMBERS])
                prompts = prompts[MEMBERS:]
            return ids + self.submit(prompts)

    def note(self, task_id: str, prompt: str, chord_name: str | None = None) -> str:
        """Count a task among what was sent."""
        self.book.sent[task_id] = prompt
        if chord_name is not None:
            self.book.members[task_id] = chord_name
        return task_id

    def look(self) -> int:
        """Note what has ended since the last look; how many have not."""
        with contextlib.suppress(redis.RedisError, OSError):
            self.book.look(self.desk)
            self.book.count_bodies(self._bodies_folder, self.desk)
        return self.book.open

    def supervise(self) -> None:
        """Start again, as any supervisor would, a worker that has ended by itself."""
        for worker in (*self.workers, *((self.bodies,) if self.bodies else ())):
            status = worker.process.poll()
            if status is not None:
                self.ended.append(status)
                worker.start()

    def wait(self, patience: float | None = None, but_for: int = 0) -> bool:
        """Wait until all but so many have ended; False when nothing has changed for too long."""
        patience = self.plan.patience if patience is None else patience
        last, since = -1, time.monotonic()
        while (left := self.look()) > but_for:
            self.supervise()
            if left != last:
                last, since = left, time.monotonic()
            if time.monotonic() - since > patience:
                return False
            time.sleep(TICK)
        return True

    def kill(self, worker: Worker) -> None:
        """SIGKILL to a worker and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.process.wait()

    def kill_child(self, worker: Worker) -> None:
        """SIGKILL to one process of a worker's pool."""
        if children := worker.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(children), signal.SIGKILL)

    def unbegun(self) -> list[str]:
        """Tasks that no worker has begun: their messages are still the broker's."""
        return [task_id for task_id in self.book.unfinished() if self.ledger.record(task_id) is None]

    def swallowed(self) -> list[str]:
        """Tasks not begun whose message the broker has not either: a dying worker took it with it.

        kombu (5.7, `transport.redis.Channel._brpop_read`) takes a message out of its list with BRPOP and
        notes it as unacknowledged only after the reply is read: one on its way to a process that dies at
        this moment is nowhere. Celery's tasks all share this; such a prompt was never sent, nor billed.
        """
        kept = b" ".join([*self._broker.hvals("unacked"), *self._broker.lrange("celery", 0, -1)])
        return [task_id for task_id in self.unbegun() if task_id.encode() not in kept]

    def waiting(self, timeout: float = 10.0) -> int:
        """How many are in the waiting room, when it has had some seconds to get empty."""
        until = time.monotonic() + timeout
        while (left := self.state.zcard(f"{self.ledger.prefix}:due")) and time.monotonic() < until:
            time.sleep(TICK)
        return int(left)

    def pass_an_hour(self) -> None:
        """Let the visibility timeout of the killed workers' messages run out.

        With a worker of a short one: Celery's default is an hour, and any worker restores for all.
        """
        name = f"hour-{len(self.workers)}"
        self.workers.append(self.hire(name, SURVIVE_VISIBILITY_TIMEOUT="1"))

    def see_through(self) -> tuple[list[str], list[str]]:
        """Wait for all ends; the tasks not begun until the broker gave them back, and those it has lost."""
        self.wait(patience=15.0)
        left = self.unbegun()
        if left:
            self.pass_an_hour()
        self.wait(patience=30.0)
        swallowed = self.swallowed()
        self.book.look_again(self.desk)
        return left, swallowed

    def unknown(self, verdict: Verdict) -> set[str]:
        """Tasks that ended in `OutcomeUnknown`; a fault of the package unless `reconcile` lists the same."""
        unknown = {task_id for task_id, end in self.book.ends.items() if end.word == UNKNOWN}
        listed = {record.task_id for record in unknown_outcomes(self.ledger)}
        if listed != unknown:
            verdict.faults.append(f"reconcile lists {len(listed)} of {len(unknown)} unknown outcomes")
        return unknown

    def environment(self) -> dict[str, str]:
        """What a command needs to work on the same app as the workers."""
        path = f"{CHECKOUT / 'tests' / 'acceptance'}{os.pathsep}{CHECKOUT}"
        return {**os.environ, "PYTHONPATH": path, **self.env}

    def logs(self) -> str:
        """What the workers have said."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def _put_away(self) -> None:
        if kept := os.environ.get("SURVIVE_KEEP"):
            shutil.copytree(self.folder, Path(kept) / self.folder.name)
        self._folder.cleanup()

    def _kill_workers(self) -> None:
        for worker in (*self.workers, *((self.bodies,) if self.bodies else ())):
            if worker.process.poll() is None:
                self.kill(worker)


@contextlib.contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
