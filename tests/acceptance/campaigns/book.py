"""What a campaign sent, how it ended, and the verdict on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from celery import Celery, states

from freddy_tasks.batch.look import ready_metas
from freddy_tasks.emulator import Emulator
from freddy_tasks.responses import idempotency_key

UNKNOWN = "OutcomeUnknown"
LOST = "LedgerLost"
ON_ITS_WAY = 1.0  # seconds


@dataclass
class End:
    """How a task ended: `completed`, the name of an error, or a Celery state."""

    word: str
    text: str = ""
    at: float = 0.0  # Unix seconds
    message: str = ""


@dataclass(frozen=True)
class Run:
    """One run of a chord's body: how many members it was given, and when, in Unix seconds."""

    members: int
    at: float


@dataclass
class Book:
    """What was sent, and what has ended so far."""

    sent: dict[str, str] = field(default_factory=dict)  # task id → prompt
    chords: dict[str, int] = field(default_factory=dict)  # name → members
    body_ids: dict[str, str] = field(default_factory=dict)  # name → task id of the body
    members: dict[str, str] = field(default_factory=dict)  # task id → name of its chord
    ends: dict[str, End] = field(default_factory=dict)
    bodies: dict[str, list[Run]] = field(default_factory=dict)  # chord → runs of its body
    failed: dict[str, End] = field(default_factory=dict)  # chord → why its body was never run
    changed: set[str] = field(default_factory=set)  # tasks whose end changed after it had been seen

    @property
    def open(self) -> int:
        """How many responses and chords have not ended."""
        without = sum(not self.bodies.get(name) and name not in self.failed for name in self.chords)
        return len(self.sent) - len(self.ends) + without

    def unfinished(self) -> list[str]:
        """Tasks without an end."""
        return [task_id for task_id in self.sent if task_id not in self.ends]

    def digest(self, task_id: str) -> str:
        """SHA-256 of a task's prompt, as the emulator records it."""
        return hashlib.sha256(self.sent[task_id].encode()).hexdigest()

    def look(self, desk: Celery) -> None:
        """Read from the result backend what has ended since."""
        for task_id, meta in ready_metas(desk.backend, self.unfinished()):
            self.ends[task_id] = end_of(meta)

    def look_again(self, desk: Celery) -> None:
        """Read all ends once more: one that is another by now was stored twice."""
        for task_id, meta in ready_metas(desk.backend, list(self.sent)):
            if end_of(meta).word != self.ends.get(task_id, end_of(meta)).word:
                self.changed.add(task_id)

    def count_bodies(self, folder: Path, desk: Celery) -> None:
        """Read which bodies of chords have run, how often, with how many members, and which never will."""
        for name in self.chords:
            path = folder / name
            lines = path.read_text().splitlines() if path.exists() else []
            self.bodies[name] = [Run(int(members), float(at)) for members, at in map(str.split, lines)]
        names = {self.body_ids[name]: name for name in self.chords if not self.bodies[name]}
        for task_id, meta in ready_metas(desk.backend, list(names)):
            self.failed[names[task_id]] = end_of(meta)


def end_of(meta: Mapping[str, Any]) -> End:
    """An end as the result backend keeps it."""
    done = meta.get("date_done")
    at = datetime.fromisoformat(done).timestamp() if isinstance(done, str) else 0.0
    result = meta.get("result")
    if meta["status"] == states.SUCCESS and isinstance(result, dict):
        if error := result.get("error"):
            return End(str(error.get("type") or error.get("code")), at=at, message=str(error.get("message")))
        return End(str(result.get("status")), str(result.get("output_text")), at)
    if meta["status"] == states.FAILURE:
        if isinstance(result, BaseException):
            return End(type(result).__name__, at=at, message=str(result))
        return End(str((result or {}).get("exc_type")), at=at, message=str(result))
    return End(str(meta["status"]), at=at)


@dataclass
class Verdict:
    """What a campaign found, in one line."""

    name: str
    responses: int
    lost: list[str]
    double_submitted: list[str]
    double_counted: list[str]
    hung: list[str]
    slowest: float
    unknown: int = 0
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # anything else that is wrong

    @property
    def good(self) -> bool:
        """Nothing is wrong."""
        return not (self.lost or self.double_submitted or self.double_counted or self.hung or self.faults)

    def __str__(self) -> str:
        """The line."""
        parts = [
            f"{self.responses} responses",
            f"{len(self.lost)} lost",
            f"{len(self.double_submitted)} double-submitted",
            f"{len(self.double_counted)} double-counted",
            f"{len(self.hung)} hung",
            f"slowest recovery {self.slowest:.1f} s",
        ]
        said = "; ".join([*(f"WRONG: {fault}" for fault in self.faults), *self.notes])
        return f"{self.name}: {', '.join(parts)}" + (f" ({said})" if said else "")

    def details(self, most: int = 5) -> str:
        """The first of each kind that went wrong."""
        kinds = ("lost", "double_submitted", "double_counted", "hung")
        return "\n".join(f"  {kind}: {each}" for kind in kinds for each in getattr(self, kind)[:most])


def judge(
    name: str,
    book: Book,
    api: Emulator,
    *,
    expected: Mapping[str, Iterable[str]] | None = None,
    also: Iterable[str] = (),
    reposts_allowed: bool = False,
    ignore_end: Iterable[str] = (),
    swallowed: Iterable[str] = (),
    forgotten: Iterable[tuple[float, float]] = (),
    texts: Callable[[str], str] = "About {}".format,
) -> Verdict:
    """Hold what was sent against what the API saw and what the result backend has.

    `expected` names the ends of tasks that are not `completed`, `also` the errors that any may end in;
    with `reposts_allowed` a key may be posted again, as long as it makes one job. The `swallowed` were never
    begun, as the broker lost their message; how late those of `ignore_end` came is the broker's doing, too.
    What was done twice counts as known to be so when the first time is within one of the `forgotten` spans,
    in Unix seconds: the server lost it in a crash. `texts` makes the answer that belongs to a prompt.
    """
    expected, swallowed, ignore_end = expected or {}, set(swallowed), set(ignore_end)
    jobs = api.jobs()
    by_prompt = Counter(job.prompt_sha256 for job in jobs)
    posts = api.counts.submits
    first_sent: dict[str, float] = {}
    for job in jobs:
        first_sent.setdefault(job.prompt_sha256, job.created_at)
    forgotten = tuple(forgotten)
    forgot = []
    ended_at = {job.prompt_sha256: job.completed_at for job in jobs if job.completed_at is not None}
    lost, doubled, hung, lags, unknown = [], [], [], [0.0], 0
    for task_id, prompt in book.sent.items():
        digest = book.digest(task_id)
        sent_at = first_sent.get(digest, 0.0)
        if by_prompt[digest] == 2 and _within(sent_at, forgotten):
            forgot.append(task_id)
        elif by_prompt[digest] > 1:
            doubled.append(f"{task_id} made {by_prompt[digest]} jobs")
        elif posts.get(idempotency_key(task_id), 0) > 1 and not reposts_allowed:
            doubled.append(f"{task_id} was posted {posts[idempotency_key(task_id)]} times")
        end = book.ends.get(task_id)
        if end is None:
            # One that was sent had a record, which only a crash can have taken.
            if task_id not in swallowed or (digest in first_sent and not _within(sent_at, forgotten)):
                hung.append(f"{task_id} {prompt!r}")
            continue
        if end.word == UNKNOWN:
            unknown += 1
        allowed = {*expected.get(task_id, ("completed",)), *also}
        if end.word not in allowed or (end.word == "completed" and end.text != texts(prompt)):
            lost.append(f"{task_id} ended as {end.word} {end.message}")
        elif end.word == "completed" and digest in ended_at and task_id not in ignore_end:
            lags.append(end.at - ended_at[digest])
    again = [name for name, runs in book.bodies.items() if len(runs) == 2 and _within(runs[0].at, forgotten)]
    counted = [
        f"{name} ran {runs}, has {book.chords[name]} members"
        for name, runs in book.bodies.items()
        if len(runs) > 1 + (name in again) or any(run.members != book.chords[name] for run in runs)
    ]
    counted += [f"{task_id} ended twice" for task_id in book.changed]
    cut_short = {book.members[task_id] for task_id in swallowed if task_id in book.members}
    failed = {chord: end for chord, end in book.failed.items() if not book.bodies.get(chord)}
    if not forgotten:
        lost += [f"{chord} failed as {end.word} {end.message}" for chord, end in failed.items()]
    hung += [
        f"{name}, whose body is {book.body_ids[name]}"
        for name in book.chords
        if not book.bodies.get(name) and name not in cut_short and name not in failed
    ]
    verdict = Verdict(name, len(book.sent), lost, doubled, counted, hung, max(lags), unknown)
    if forgot:
        verdict.notes.append(f"{len(forgot)} submitted again, as the crash took the server's last second")
    if failed and forgotten:
        verdict.notes.append(f"{len(failed)} chords failed, as a member had")
    if again:
        verdict.notes.append(f"{len(again)} bodies of chords run again, for the same reason")
    return verdict


def _within(moment: float, spans: Iterable[tuple[float, float]]) -> bool:
    # An intent that was lost may have left a request a moment after.
    return any(start <= moment <= end + ON_ITS_WAY for start, end in spans)
