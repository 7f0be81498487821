"""A crash of the whole worker at each named point of a response's way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from campaigns.book import UNKNOWN, Book, Verdict, judge
from campaigns.points import POINTS, UNKNOWABLE
from campaigns.stage import Plan, Stage, api_for
from freddy_tasks.emulator import Constant

LEASE = "1"  # second
CLAIM = 30.0  # seconds, at most, for which Celery lets nobody but a dead worker start the body of a chord
SINGLES, MEMBERS = 1, 3


@dataclass
class Row:
    """What became of the four responses of one point."""

    point: str
    ends: Counter[str]
    posts: int
    jobs: int
    recovery: float  # seconds from the crash to the last end
    how: str

    def __str__(self) -> str:
        """A line of the table."""
        ends = ", ".join(f"{count} {word}" for word, count in sorted(self.ends.items()))
        return f"| {self.point} | {ends} | {self.posts} | {self.jobs} | {self.recovery:.1f} | {self.how} |"


HEADER = (
    "| point | final states | POSTs | jobs | recovered in s | by |\n| --- | --- | --- | --- | --- | --- |"
)


def run(plan: Plan, *, resubmit: bool = False, points: Sequence[str] = POINTS) -> tuple[Verdict, list[Row]]:
    """One single response and a chord of three for each point, a worker that dies there, and its supervisor.

    The visibility timeout is Celery's hour; where the broker alone has a first message, it is let pass.
    """
    options = api_for(
        plan,
        durations=Constant(1.5),
        queue_seconds=0.1,
        honour_idempotency=resubmit,
    )
    env = {"FREDDY_LEASE": LEASE, "FREDDY_TIERS": "inf:0.5", "SURVIVE_PREFETCH": "1"}
    if resubmit:
        env["FREDDY_ON_UNKNOWN_OUTCOME"] = "resubmit"
    with Stage(replace(plan, workers=1, concurrency=1), options, **env) as stage:
        stage.open()
        rows, faults = [], []
        for point in points:
            row, fault = _die_at(stage, point)
            rows.append(row)
            faults += fault
            if row.ends[UNKNOWN] != (point in UNKNOWABLE and not resubmit):
                faults.append(f"{point}: {row.ends[UNKNOWN]} unknown outcomes")
        stage.book.look_again(stage.desk)
        name = "points, resubmit" if resubmit else "points"
        verdict = judge(
            name, stage.book, stage.api, also=() if resubmit else (UNKNOWN,), reposts_allowed=resubmit
        )
        verdict.faults += faults
        verdict.slowest = max(row.recovery for row in rows)
        verdict.notes.append(f"{plan.pool}, {len(rows)} points, lease {LEASE} s")
        return verdict, rows


def _die_at(stage: Stage, point: str) -> tuple[Row, list[str]]:
    [worker] = stage.workers
    stage.kill(worker)
    if not stage.book.open:
        # What the broker still has are copies for those that have ended: one of them would be what dies here.
        stage.state.delete("unacked", "unacked_index", "unacked_mutex")
        stage.desk.control.purge()
    flag = stage.folder / point.replace(" ", "-")
    worker.env = {**(worker.env or {}), "SURVIVE_POINT": point, "SURVIVE_FLAG": str(flag)}
    before = stage.api.counts
    open_before = stage.book.open
    worker.start()
    worker.ready()
    members = [f"{point} member {number}" for number in range(MEMBERS)]
    # A label of its own: of a kind that is known the first look finds the end, and no later one is parked.
    ids = stage.submit([f"{point} alone"], label=point) + stage.submit_chord(point, members, label=point)
    how, patience = "lease", CLAIM if point.startswith("body") else 8.0
    if not stage.wait(patience, open_before) and set(stage.unbegun()) & set(ids):
        how = "visibility timeout"
        hour = stage.hire("hour", SURVIVE_VISIBILITY_TIMEOUT="1")
        stage.wait(8.0, open_before)
        stage.kill(hour)
    after = stage.api.counts
    ended = [stage.book.ends[task_id].at for task_id in ids if task_id in stage.book.ends]
    died = flag.stat().st_mtime if flag.exists() else 0.0
    row = Row(
        point,
        _ends(stage.book, ids),
        after.posts - before.posts,
        after.jobs - before.jobs,
        max([0.0, *(moment - died for moment in ended)]),
        how,
    )
    return row, [] if died else [f"{point}: nobody came there"]


def _ends(book: Book, ids: Sequence[str]) -> Counter[str]:
    return Counter(book.ends[task_id].word if task_id in book.ends else "none" for task_id in ids)
