"""Every way to cancel: each running response is cancelled at the API, and ends once."""

from __future__ import annotations

import time

from campaigns.book import Verdict, judge
from campaigns.stage import Plan, Stage
from freddy_tasks import cancel_response
from freddy_tasks.emulator import Options

ENDLESS = "{} {} [emulate: duration=600]"
RACING = "race {} [emulate: duration=1.5]"
WAYS = ("revoke", "terminate", "cancel_response", "deadline", "chord")
DEADLINE = 2.0  # seconds
ENDED = {"deadline": ("ResponseTimeout",)}


def run(plan: Plan) -> Verdict:
    """A share of the responses each way, and as many that end by themselves while they are cancelled."""
    each = max(1, plan.size // (len(WAYS) + 1))
    options = Options(
        queue_seconds=0.1, per_minute=None, per_day=None, answer="About {}".format, seed=plan.seed
    )
    with Stage(plan, options) as stage:
        stage.open()
        expected: dict[str, tuple[str, ...]] = {}
        ways = {way: _send(stage, way, each) for way in WAYS}
        for way, ids in ways.items():
            expected.update(dict.fromkeys(ids, ENDED.get(way, ("REVOKED",))))
        racing = stage.submit([RACING.format(number) for number in range(each)])
        expected.update(dict.fromkeys(racing, ("completed", "REVOKED")))
        _until_submitted(stage)
        for way, ids in ways.items():
            _cancel(stage, way, ids)
        for task_id in racing:
            cancel_response(task_id)
            time.sleep(stage.random.uniform(0.0, 0.1))
        stage.wait()
        endless = {job.prompt_sha256 for job in stage.api.jobs()} - {
            stage.book.digest(task_id) for task_id in racing
        }
        running = _until_cancelled(stage, endless)
        stage.book.look_again(stage.desk)
        verdict = judge("cancel", stage.book, stage.api, expected=expected)
        verdict.faults += [f"{len(running)} still run at the API"] if running else []
        left = stage.state.zcard(f"{stage.ledger.prefix}:due")
        verdict.faults += [f"{left} are still in the waiting room"] if left else []
        ends = [stage.book.ends[task_id].word for task_id in racing if task_id in stage.book.ends]
        verdict.notes += [
            f"{stage.api.counts.deletes} DELETEs for {len(endless)} endless responses",
            f"of {len(racing)} that raced, {ends.count('completed')} completed",
        ]
        return verdict


def _send(stage: Stage, way: str, count: int) -> list[str]:
    prompts = [ENDLESS.format(way, number) for number in range(count)]
    if way == "chord":
        return stage.submit_group(prompts)
    return stage.submit(prompts, **({"timeout": DEADLINE} if way == "deadline" else {}))


def _cancel(stage: Stage, way: str, ids: list[str]) -> None:
    match way:
        case "revoke":
            stage.desk.control.revoke(ids)
        case "terminate":
            stage.desk.control.revoke(ids, terminate=True)
        case "chord":
            stage.desk.control.revoke(ids)
        case "cancel_response":
            for task_id in ids:
                cancel_response(task_id)


def _until_submitted(stage: Stage) -> None:
    until = time.monotonic() + stage.plan.patience
    while stage.api.counts.jobs < len(stage.book.sent) and time.monotonic() < until:
        time.sleep(0.05)


def _until_cancelled(stage: Stage, digests: set[str]) -> list[str]:
    until = time.monotonic() + stage.plan.patience
    while True:
        running = [
            job.id
            for job in stage.api.jobs()
            if job.prompt_sha256 in digests and job.status in {"queued", "in_progress"}
        ]
        if not running or time.monotonic() > until:
            return running
        time.sleep(0.05)
