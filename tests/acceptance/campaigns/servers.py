"""The one Valkey that is broker, result backend and ledger: restarted, gone, cut off, full."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from campaigns.book import LOST, UNKNOWN, Verdict, judge
from campaigns.stage import SURVIVING, Plan, Stage, api_for
from freddy_tasks.emulator import LogNormal

FORGOTTEN = 1.5  # seconds before a crash that an append-only file synced every second may lack, and a margin
CUTS = 10  # times that all connections are cut
REFUSALS = ("maxmemory", "min-replicas-to-write")  # settings that, at 1, have a server refuse to write
TIMES = 3  # that it refuses them
REFUSED = 3.0  # seconds


@dataclass(frozen=True)
class Outage:
    """From when to when the server could not be used, in Unix seconds, and how much it has forgotten."""

    began: float
    ended: float
    forgets: float = 0.0  # seconds before its beginning whose writes are gone


def restart(plan: Plan, outage: float = 0.0, rounds: int = 3) -> Verdict:
    """SIGKILL the server with its append-only file, `rounds` times, and start it `outage` seconds later."""
    outages: list[Outage] = []

    def break_it(stage: Stage) -> None:
        for _ in range(rounds):
            stage.send(plan.size // 2 // rounds)
            time.sleep(stage.random.uniform(0.3, 2.0))
            stage.server.kill()
            began = time.time()
            _note_exits(stage, outage)
            stage.server.start()
            outages.append(Outage(began, time.time(), FORGOTTEN))
            _rest(stage, 3.0)

    name = f"outage of {outage:g} s" if outage else "restart"
    return ride(name, plan, break_it, outages)


def drop(plan: Plan) -> Verdict:
    """Cut all connections of all clients, again and again."""

    def break_it(stage: Stage) -> None:
        with redis.Redis(unix_socket_path=str(stage.server.socket)) as knife:
            for _ in range(CUTS):
                stage.send(plan.size // 2 // CUTS)
                time.sleep(stage.random.uniform(0.2, 1.0))
                for kind in ("normal", "pubsub"):
                    knife.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    return ride("drop", plan, break_it, [])


def refuse(plan: Plan, setting: str, rounds: int = TIMES) -> Verdict:
    """Every write is refused for a while, by one of the `REFUSALS` of a server's settings."""
    outages: list[Outage] = []

    def break_it(stage: Stage) -> None:
        with redis.Redis(unix_socket_path=str(stage.server.socket)) as client:
            for _ in range(rounds):
                stage.send(plan.size // 2 // rounds)
                time.sleep(stage.random.uniform(0.0, 0.5))
                client.config_set(setting, 1)
                began = time.time()
                _note_exits(stage, REFUSED)
                client.config_set(setting, 0)
                outages.append(Outage(began, time.time()))
                _rest(stage, 1.0)

    def none_is_gone(_: Stage, verdict: Verdict, swallowed: list[str]) -> None:
        verdict.lost += [f"{task_id}: its first message" for task_id in swallowed]

    return ride(setting, plan, break_it, outages, check=none_is_gone)


def ride(
    name: str,
    plan: Plan,
    break_it: Callable[[Stage], None],
    outages: Sequence[Outage],
    *,
    server: Any = None,
    check: Callable[[Stage, Verdict, list[str]], None] | None = None,
    **env: str,
) -> Verdict:
    """Break it with half of the responses under way, see the rest through, and judge.

    `break_it` adds to `outages`. `check` is given the tasks whose first message is nowhere.
    """
    options = api_for(
        plan,
        durations=LogNormal(3.0, 0.5),
        queue_seconds=0.3,
    )
    with Stage(plan, options, server=server, SURVIVE_CONSUMER=SURVIVING, **env) as stage:
        stage.open()
        stage.send(plan.size // 2)
        time.sleep(1.0)
        break_it(stage)
        left, swallowed = stage.see_through()
        forgotten = [(each.began - each.forgets, each.began) for each in outages if each.forgets]
        verdict = judge(
            name,
            stage.book,
            stage.api,
            also=(UNKNOWN, LOST) if forgotten else (UNKNOWN,),
            ignore_end=left,
            swallowed=swallowed,
            forgotten=forgotten,
        )
        verdict.slowest = _slowest(stage, outages, left)
        unknown = stage.unknown(verdict)
        if stage.ended:
            verdict.faults.append(f"workers ended with {stage.ended}")
        verdict.notes += [plan.pool, f"{len(unknown)} ended as OutcomeUnknown, all listed by reconcile"]
        if late := set(left) - set(swallowed):
            verdict.notes.append(f"{len(late)} not begun waited for the broker's visibility timeout")
        if found := [end for end in stage.book.ends.values() if end.word == LOST]:
            verdict.notes.append(f"{len(found)} ended as LedgerLost")
        if check:
            check(stage, verdict, swallowed)
        elif swallowed:
            verdict.notes.append(f"{len(swallowed)} not begun and lost by kombu")
        if not verdict.good:
            verdict.notes += [f"{each}: {stage.ledger.record(each)}" for each in stage.book.unfinished()[:3]]
        return verdict


def _slowest(stage: Stage, outages: Sequence[Outage], left: list[str]) -> float:
    """Seconds for which an answer was there, and the server too, before the outcome was stored, at most."""
    ready = {job.prompt_sha256: job.completed_at for job in stage.api.jobs() if job.completed_at}
    lags = [0.0]
    for task_id, end in stage.book.ends.items():
        since = ready.get(stage.book.digest(task_id))
        if since is not None and task_id not in left:
            away = sum(max(0.0, min(end.at, each.ended) - max(since, each.began)) for each in outages)
            lags.append(end.at - since - away)
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
