"""Workers that are told to stop: warm, soft and cold; nothing lost, nothing late."""

from __future__ import annotations

import subprocess
import time

from campaigns.book import Verdict, judge
from campaigns.stage import Plan, Stage, api_for
from freddy_tasks.emulator import LogNormal

WAYS = {"warm": ("SIGTERM", ""), "soft": ("SIGQUIT", "3"), "cold": ("SIGQUIT", "")}
PATIENCE = 30.0  # seconds for a worker to end
MOST_LATE = 1.0  # seconds beyond the longest wait between two looks
BETWEEN_LOOKS = 0.75  # seconds: the tier of 0.5 s with its jitter


def run(plan: Plan, way: str, most_late: float = MOST_LATE) -> Verdict:
    """Stop one worker after the other with prompts in flight; a fresh one takes each one's place.

    Celery 5.7 joins a prefork pool from within the handler of SIGQUIT, and waits for ever where the signal
    came just as it read a result: such a worker is killed, as a supervisor would.
    """
    signal, soft = WAYS[way]
    options = api_for(
        plan,
        durations=LogNormal(4.0, 0.3),
        queue_seconds=0.3,
    )
    with Stage(plan, options, SURVIVE_SOFT=soft, FREDDY_LEASE="60") as stage:
        stage.open()
        slices, stuck = 2 * plan.workers, 0
        for number in range(slices):
            stage.send(plan.size // slices)
            time.sleep(1.5)  # begun: what a cold stop does to a submit on its way is the kill campaign's
            worker = stage.workers[number % plan.workers]
            fresh = stage.hire(f"fresh-{number}")
            fresh.ready()
            worker.send(signal)
            try:
                worker.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                if way == "warm":
                    raise
                worker.kill()
                stuck += 1
            stage.workers[number % plan.workers] = fresh
            stage.look()
        stage.wait()
        stage.book.look_again(stage.desk)
        verdict = judge(f"term, {way}", stage.book, stage.api)
        late = verdict.slowest - BETWEEN_LOOKS
        # In a soft shutdown the main thread sleeps for as long, perhaps with the message of a look.
        most = most_late + 2 * float(soft or 0)
        verdict.notes += [f"{slices} workers stopped by {signal}", f"an answer was {late:.1f} s late at most"]
        if stuck:
            verdict.notes.append(f"{stuck} did not end by themselves, by a fault of Celery's prefork pool")
        elif late > most:
            verdict.faults.append("too late")
        return verdict
