"""Workers that are told to stop: warm, soft and cold; nothing lost, nothing late."""

from __future__ import annotations

import time

from campaigns.book import Verdict, judge
from campaigns.stage import Plan, Stage, api_for
from freddy_tasks.emulator import LogNormal

WAYS = {"warm": ("SIGTERM", ""), "soft": ("SIGQUIT", "3"), "cold": ("SIGQUIT", "")}
PATIENCE = 45.0  # seconds for a worker to end; `docs/survival.md` says why one may take half a minute
MOST_LATE = 1.0  # seconds beyond the longest wait between two looks
BETWEEN_LOOKS = 0.75  # seconds: the tier of 0.5 s with its jitter


def run(plan: Plan, way: str, most_late: float = MOST_LATE) -> Verdict:
    """Stop one worker after the other with prompts in flight; a fresh one takes each one's place."""
    signal, soft = WAYS[way]
    options = api_for(
        plan,
        durations=LogNormal(4.0, 0.3),
        queue_seconds=0.3,
    )
    with Stage(plan, options, SURVIVE_SOFT=soft, FREDDY_LEASE="60") as stage:
        stage.open()
        slices = 2 * plan.workers
        for number in range(slices):
            stage.send(plan.size // slices)
            time.sleep(1.5)  # begun: what a cold stop does to a submit on its way is the kill campaign's
            worker = stage.workers[number % plan.workers]
            fresh = stage.hire(f"fresh-{number}")
            fresh.ready()
            worker.send(signal)
            worker.process.wait(PATIENCE)
            stage.workers[number % plan.workers] = fresh
            stage.look()
        stage.wait()
        stage.book.look_again(stage.desk)
        verdict = judge(f"term, {way}", stage.book, stage.api)
        late = verdict.slowest - BETWEEN_LOOKS
        verdict.notes += [f"{slices} workers stopped by {signal}", f"an answer was {late:.1f} s late at most"]
        if late > most_late:
            verdict.faults.append("too late")
        return verdict
