"""Thousands of responses through the same workers: what they leave behind is nothing."""

from __future__ import annotations

import time
from pathlib import Path

from nodes import Worker

from campaigns.book import Verdict, judge
from campaigns.stage import Plan, Stage, api_for
from freddy_tasks.emulator import LogNormal

MEDIAN = 5.0  # seconds of a response
SLICES = 20
PAGE = 4096  # bytes
KOMBU = ("_kombu.", "unacked")  # first parts of keys that the broker's client keeps as long as it is used
GROWTH = 1.15  # of a worker's memory from the middle to the end, at most


def run(plan: Plan) -> Verdict:
    """Send in twenty slices, a quarter under way at most; then nothing waits, and no key is for ever."""
    began = time.monotonic()
    options = api_for(
        plan,
        durations=LogNormal(MEDIAN, 0.5),
        queue_seconds=0.5,
    )
    with Stage(plan, options, FREDDY_TIERS="inf:2", FREDDY_LEASE="60") as stage:
        stage.open()
        sizes = [_memory(stage)]
        for number in range(SLICES):
            stage.send(plan.size // SLICES)
            while stage.look() > plan.size // 4:
                time.sleep(0.2)
            if number == SLICES // 2:
                sizes.append(_memory(stage))
        stage.wait()
        stage.book.look_again(stage.desk)
        sizes.append(_memory(stage))
        verdict = judge("soak", stage.book, stage.api)
        verdict.faults += _left(stage)
        took, calls = time.monotonic() - began, stage.api.counts.posts + stage.api.counts.gets
        verdict.notes += [
            f"{plan.pool}, {took:.0f} s in all, {calls / len(stage.book.sent):.1f} calls a response",
            "memory of a worker at start, middle and end: " + ", ".join(f"{size:.0f} MB" for size in sizes),
        ]
        if sizes[2] > sizes[1] * GROWTH:
            verdict.faults.append("the workers grow")
        return verdict


def _left(stage: Stage) -> list[str]:
    """What a run should not have left behind: waiting jobs, messages, open records, keys for ever."""
    state, prefix = stage.state, stage.ledger.prefix
    waiting, held = stage.waiting(), state.hlen("unacked")
    keys = [key for key in state.scan_iter(count=1000) if not key.startswith(KOMBU)]
    with state.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.ttl(key)
        forever = [key for key, ttl in zip(keys, pipe.execute(), strict=True) if ttl == -1]
        records = [key for key in keys if key.startswith(f"{prefix}:job:")]
        for key in records:
            pipe.hget(key, "phase")
        phases = set(pipe.execute())
    found = [f"{waiting} left in the waiting room"] if waiting else []
    found += [f"{held} messages not acknowledged"] if held else []
    found += [f"{len(forever)} keys without an end, such as {forever[0]}"] if forever else []
    found += [f"phases left: {phases}"] if phases != {"closed"} else []
    return found


def _memory(stage: Stage) -> float:
    """Resident memory of the largest worker with its children, MB."""
    return max(_resident(worker) for worker in stage.workers)


def _resident(worker: Worker) -> float:
    pages = [
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (worker.pid, *worker.children())
    ]
    return sum(pages) * PAGE / 2**20
