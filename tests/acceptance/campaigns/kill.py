"""SIGKILL of workers, and of single children of prefork workers, at random moments."""

from __future__ import annotations

import time

from campaigns.book import UNKNOWN, Verdict, judge
from campaigns.stage import SURVIVING, Plan, Stage, api_for
from freddy_tasks.emulator import LogNormal

RESPONSES_A_KILL = 20
LONGEST_CALM = 1.5  # seconds between a worker's readiness and the next kill
SLOTS = 2  # concurrency of a worker


def run(plan: Plan, *, resubmit: bool = False, line_up: bool = False) -> Verdict:
    """Kill while prompts keep coming; the visibility timeout stays Celery's hour till the end.

    `resubmit`: an API that honours idempotency keys, and FREDDY_ON_UNKNOWN_OUTCOME=resubmit. First messages
    that a killed worker had taken and not begun belong to the broker, which gives them back after that hour;
    with `line_up`, which is FREDDY_LINE_UP, there are none, and none may need that hour.
    """
    options = api_for(
        plan,
        durations=LogNormal(2.0, 0.5),
        queue_seconds=0.3,
        latency=0.05,
        honour_idempotency=resubmit,
    )
    env = {"FREDDY_ON_UNKNOWN_OUTCOME": "resubmit"} if resubmit else {}
    if line_up:
        env["FREDDY_LINE_UP"] = "true"
    if plan.pool == "gevent":  # where Celery itself hardly ever takes back what a killed worker held
        env["SURVIVE_CONSUMER"] = SURVIVING
    with Stage(plan, options, **env) as stage:
        stage.open()
        kills = _kill_and_send(stage)
        left, swallowed = stage.see_through()
        verdict = judge(
            ", ".join(["kill", *["resubmit"] * resubmit, *["lined up"] * line_up]),
            stage.book,
            stage.api,
            also=() if resubmit else (UNKNOWN,),
            reposts_allowed=resubmit,
            ignore_end=left,
            swallowed=swallowed,
        )
        unknown = stage.unknown(verdict)
        verdict.notes += [
            f"{plan.pool}, {kills} kills",
            f"{len(unknown)} ended as OutcomeUnknown, all listed by reconcile",
            f"{len(left)} not begun came back with the broker's visibility timeout",
        ]
        if left and line_up:
            verdict.faults.append(f"{len(left)} were not on record")
        if swallowed:
            verdict.notes.append(f"{len(swallowed)} not begun and lost by kombu")
        if not verdict.good:
            verdict.faults += _story(stage)
        return verdict


def _kill_and_send(stage: Stage) -> int:
    plan, random = stage.plan, stage.random
    kills = 0
    while len(stage.book.sent) < plan.size:
        stage.send(min(RESPONSES_A_KILL, plan.size - len(stage.book.sent)))
        stage.look()
        time.sleep(random.uniform(0.0, LONGEST_CALM))
        worker = random.choice(stage.workers)
        if plan.pool == "prefork" and random.random() < 0.5:
            stage.kill_child(worker)
        else:
            stage.kill(worker)
            worker.start()
            worker.ready()
        kills += 1
    return kills


def _story(stage: Stage) -> list[str]:
    """Where the ledger has what is not finished."""
    return [f"{task_id}: {stage.ledger.record(task_id)}" for task_id in stage.book.unfinished()[:3]]
