"""The one Valkey that is broker, result backend and ledger: restarted, gone, cut off, full."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import redis

from campaigns.book import UNKNOWN, Verdict, judge
from campaigns.stage import Plan, Stage
from freddy_tasks.cli.suspended import unknown_outcomes
from freddy_tasks.emulator import LogNormal, Options

FORGOTTEN = 1.5  # seconds before a crash that an append-only file synced every second may lack, and a margin
CUTS = 10  # times that all connections are cut
FULL = 3.0  # seconds without memory
SURVIVING = "freddy_tasks.worker:SurvivingConsumer"


def restart(plan: Plan, outage: float = 0.0, rounds: int = 3) -> Verdict:
    """SIGKILL the server with its append-only file, `rounds` times, and start it `outage` seconds later."""
    moments: list[float] = []

    def break_it(stage: Stage) -> None:
        for number in range(rounds):
            stage.send(plan.size // 2 // rounds)
            time.sleep(stage.random.uniform(0.3, 2.0))
            stage.server.kill()
            moments.append(time.time())
            _note_exits(stage, outage)
            stage.server.start()
            del number
            _rest(stage, 3.0)

    name = f"outage of {outage:g} s" if outage else "restart"
    return _run(name, plan, break_it, moments)


def drop(plan: Plan) -> Verdict:
    """Cut all connections of all clients, again and again."""

    def break_it(stage: Stage) -> None:
        with redis.Redis(unix_socket_path=str(stage.server.socket)) as knife:
            for number in range(CUTS):
                stage.send(plan.size // 2 // CUTS)
                del number
                time.sleep(stage.random.uniform(0.2, 1.0))
                for kind in ("normal", "pubsub"):
                    knife.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    return _run("drop", plan, break_it, [])


def fill(plan: Plan) -> Verdict:
    """No memory left under `noeviction`: every write is refused for a while."""

    def break_it(stage: Stage) -> None:
        stage.send(plan.size // 2)
        time.sleep(0.5)
        with redis.Redis(unix_socket_path=str(stage.server.socket)) as client:
            client.config_set("maxmemory", 1)
            _note_exits(stage, FULL)
            client.config_set("maxmemory", 0)

    return _run("maxmemory", plan, break_it, [])


def _run(name: str, plan: Plan, break_it: Callable[[Stage], None], crashes: list[float]) -> Verdict:
    options = Options(
        durations=LogNormal(3.0, 0.5),
        queue_seconds=0.3,
        per_minute=None,
        per_day=None,
        answer="About {}".format,
        seed=plan.seed,
    )
    with Stage(plan, options, SURVIVE_CONSUMER=SURVIVING) as stage:
        stage.open()
        stage.send(plan.size // 2)
        time.sleep(1.0)
        break_it(stage)
        back = time.time()
        stage.wait(patience=15.0)
        left = stage.unbegun()
        if left:
            stage.pass_an_hour()
        stage.wait(patience=30.0)
        swallowed = stage.swallowed()
        stage.book.look_again(stage.desk)
        verdict = judge(
            name,
            stage.book,
            stage.api,
            unknown_allowed=True,
            ignore_end=left,
            swallowed=swallowed,
            forgotten=[(moment - FORGOTTEN, moment) for moment in crashes],
        )
        verdict.slowest = _slowest_after(stage, back, left)
        unknown = {task_id for task_id, end in stage.book.ends.items() if end.word == UNKNOWN}
        listed = {record.task_id for record in unknown_outcomes(stage.ledger)}
        if listed != unknown:
            verdict.faults.append(f"reconcile lists {len(listed)} of {len(unknown)} unknown outcomes")
        if stage.ended and name == "maxmemory":
            # kombu 5.7 lets a refused note of a message end the worker, as it does for any Celery app.
            verdict.notes.append(f"{len(stage.ended)} workers ended, and were started again")
        elif stage.ended:
            verdict.faults.append(f"workers ended with {stage.ended}")
        verdict.notes += [plan.pool, f"{len(unknown)} ended as OutcomeUnknown, all listed by reconcile"]
        if left:
            verdict.notes.append(f"{len(left)} not begun waited for the broker's visibility timeout")
        if swallowed:
            verdict.notes.append(f"{len(swallowed)} not begun and lost by kombu")
        if not verdict.good:
            verdict.notes += [f"{each}: {stage.ledger.record(each)}" for each in stage.book.unfinished()[:3]]
        return verdict


def _slowest_after(stage: Stage, back: float, left: list[str]) -> float:
    """Seconds from the server's return, or from a later end at the API, to the last outcome."""
    ended = {job.prompt_sha256: job.completed_at or 0.0 for job in stage.api.jobs()}
    lags = [0.0]
    for task_id, end in stage.book.ends.items():
        if task_id not in left:
            lags.append(end.at - max(back, ended.get(stage.book.digest(task_id), 0.0)))
    return max(lags)


def _note_exits(stage: Stage, seconds: float) -> None:
    """Wait so long, and start again whatever worker ends meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stage.supervise()
        time.sleep(0.1)


def _rest(stage: Stage, seconds: float) -> None:
    with contextlib.suppress(redis.RedisError):
        _note_exits(stage, seconds)
