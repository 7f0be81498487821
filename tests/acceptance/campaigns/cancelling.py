"""Every way to cancel: each running response is cancelled at the API, and ends once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

from campaigns.book import Verdict, judge
from campaigns.stage import Plan, Stage, api_for
from freddy_tasks import cancel_response

ENDLESS = "{} {} [emulate: duration=600]"
RACE = 1.5  # seconds that a racing response takes
RACING = f"race {{}} [emulate: duration={RACE:g}]"
LOOKS = 0.75  # seconds between two looks, at most
MANY = 10  # racing responses, of which some are won by each side
DEADLINE = 2.0  # seconds
WAYS = ("revoke", "terminate", "cancel_response", "deadline", "chord", "command", "ctrl-c")
ENDED = {"deadline": ("ResponseTimeout",)}
INTERRUPTED = 130
COMMAND = (sys.executable, "-m", "freddy_tasks")


def run(plan: Plan) -> Verdict:
    """A share of the responses each way, and as many that end by themselves while they are cancelled."""
    each = max(1, plan.size // (len(WAYS) + 1))
    options = api_for(plan, queue_seconds=0.1)
    with Stage(plan, options) as stage, ExitStack() as started:
        stage.open()
        faults: list[str] = []
        command = _run_command(stage, [ENDLESS.format("ctrl-c", number) for number in range(each)])
        started.callback(command.kill)  # where something fails before its end
        ways = {way: _send(stage, way, each) for way in WAYS if way != "ctrl-c"}
        _until_submitted(stage, each * len(WAYS))
        endless = {job.prompt_sha256 for job in stage.api.jobs()}
        for way, ids in ways.items():
            faults += _cancel(stage, way, ids)
        ways["ctrl-c"] = _interrupt(stage, command, faults)
        expected = {task_id: ENDED.get(way, ("REVOKED",)) for way, ids in ways.items() for task_id in ids}
        racing = stage.submit([RACING.format(number) for number in range(each)])
        expected.update(dict.fromkeys(racing, ("completed", "REVOKED")))
        _until_submitted(stage, each * (len(WAYS) + 1))
        _race(stage, racing)
        stage.wait()
        running = _until_cancelled(stage, endless)
        stage.book.look_again(stage.desk)
        verdict = judge("cancel", stage.book, stage.api, expected=expected)
        verdict.faults += faults
        verdict.faults += [f"{len(running)} still run at the API"] if running else []
        left = stage.waiting()
        verdict.faults += [f"{left} are still in the waiting room"] if left else []
        ends = [stage.book.ends[task_id].word for task_id in racing if task_id in stage.book.ends]
        if each >= MANY and len(set(ends)) < 2:
            verdict.faults.append("the race has had one winner only, and shows nothing")
        verdict.notes += [
            f"{plan.pool}, {stage.api.counts.deletes} DELETEs for {len(endless)} endless responses",
            f"of {len(racing)} that raced, {ends.count('completed')} completed",
        ]
        return verdict


def _send(stage: Stage, way: str, count: int) -> list[str]:
    prompts = [ENDLESS.format(way, number) for number in range(count)]
    if way == "chord":
        return stage.submit_group(prompts)
    return stage.submit(prompts, **({"timeout": DEADLINE} if way == "deadline" else {}))


def _run_command(stage: Stage, prompts: list[str]) -> subprocess.Popen[str]:
    argv = [*COMMAND, "run", "-A", "campaigns.app", "--json", *prompts]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=stage.environment(), stdout=pipe, stderr=pipe, text=True)


def _interrupt(stage: Stage, command: subprocess.Popen[str], faults: list[str]) -> list[str]:
    """Ctrl-C to `freddy-tasks run`; the tasks that it names."""
    command.send_signal(signal.SIGINT)
    said, complained = command.communicate(timeout=stage.plan.patience)
    if command.returncode != INTERRUPTED:
        faults.append(f"`run` ended with {command.returncode}: {complained[-500:]}")
    told = [json.loads(line) for line in said.splitlines()]
    faults += [f"`run` says {each}" for each in told if each["status"] != "cancelled"]
    return [stage.note(each["task_id"], ENDLESS.format("ctrl-c", n)) for n, each in enumerate(told)]


def _cancel(stage: Stage, way: str, ids: list[str]) -> list[str]:
    """Cancel that way; what is wrong with it."""
    match way:
        case "revoke" | "chord":
            stage.desk.control.revoke(ids)
        case "terminate":
            stage.desk.control.revoke(ids, terminate=True)
        case "cancel_response":
            for task_id in ids:
                cancel_response(task_id)
        case "command":
            argv = [*COMMAND, "cancel", "-A", "campaigns.app", *ids]
            told = subprocess.run(argv, env=stage.environment(), capture_output=True, text=True)
            if told.returncode or told.stdout.count("  cancelled") != len(ids):
                return [f"`cancel` ended with {told.returncode}: {told.stdout}{told.stderr[-500:]}"]
    return []


def _race(stage: Stage, ids: list[str]) -> None:
    """Cancel each about when its answer is there: some have been looked at by then, some not."""
    ready = {job.prompt_sha256: job.created_at + RACE for job in stage.api.jobs()}
    moments = [
        (ready[stage.book.digest(each)] + stage.random.uniform(-LOOKS / 3, LOOKS), each) for each in ids
    ]
    for moment, task_id in sorted(moments):
        time.sleep(max(0.0, moment - time.time()))
        cancel_response(task_id)


def _until_submitted(stage: Stage, count: int) -> None:
    until = time.monotonic() + stage.plan.patience
    while stage.api.counts.jobs < count and time.monotonic() < until:
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
