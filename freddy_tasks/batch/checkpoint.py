"""What a batch run keeps beside its output, so that the same command goes on where a killed one was.

`answers.jsonl.manifest` says which run this is and how far prompts may have been sent;
`answers.jsonl.journal` takes each outcome as it comes, and is the truth that the output is made of.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from io import BufferedRandom
from pathlib import Path
from typing import Any, BinaryIO, Self

from freddy_tasks.errors import ConfigurationError

from .result import Outcome

VERSION = 1
NOWHERE = -1  # place in the journal of what has no outcome yet


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which run this is; its prompts and options are known by their fingerprint only."""

    fingerprint: str
    total: int
    run: str  # a UUID, of which the task ids are made
    round: int = 0  # goes up whenever some of those with an outcome are to be sent again
    again: tuple[str, ...] = ()  # the outcomes of earlier rounds that are sent again in this one
    sent_below: int = 0  # no prompt from this position on has been published in this round
    resent_below: int = 0  # nor, of those that had an outcome before it, from this one on
    version: int = VERSION

    @property
    def is_begun(self) -> bool:
        """True when prompts may have been sent."""
        return self.sent_below > 0 or self.round > 0


class Checkpoint:
    """The state of one batch run on disk; a context manager, and one process at a time may be in it.

    Raises `ConfigurationError` when the files belong to other prompts or options, or another process is at
    work on them; `OSError` when they cannot be written.
    """

    def __init__(self, output: Path, fingerprint: str, total: int) -> None:
        self.output = output
        self.manifest = Manifest(fingerprint, total, str(uuid.uuid4()))
        self._manifest_path = manifest_of(output)
        self._journal_path = output.with_name(f"{output.name}.journal")
        self._places = array("q", [NOWHERE]) * total
        self._rounds = array("L", [0]) * total
        self._tries = array("L", [0]) * total
        self._outcomes: list[Outcome | None] = [None] * total
        self._journal: BufferedRandom

    def __enter__(self) -> Self:
        self._refuse_others(self._kept())  # before there is a file of ours beside it
        self._journal = _locked(self._journal_path)
        kept = self._kept()  # whoever held the lock has begun the run
        self._refuse_others(kept)
        if kept is None or not self._is_mine(kept):
            self._keep(self.manifest)
        else:
            self.manifest = kept
        self._replay()
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def outcome(self, index: int) -> Outcome | None:
        """How a prompt ended; None for one that is to be sent, or was sent and has not ended."""
        outcome = self._outcomes[index]
        if (
            outcome is not None
            and self._rounds[index] < self.manifest.round
            and outcome in self.manifest.again
        ):
            return None
        return outcome

    def open_below(self, end: int, again: Collection[Outcome] = ()) -> int:
        """How many of the first `end` prompts have no outcome, or one that is to be tried again."""
        outcomes = map(self.outcome, range(end))
        return sum(outcome is None or outcome in again for outcome in outcomes)

    def counts(self, end: int) -> dict[Outcome, int]:
        """How many of the first `end` prompts ended each way."""
        found = [self.outcome(index) for index in range(end)]
        return {outcome: found.count(outcome) for outcome in Outcome}

    def task_id(self, index: int) -> str:
        """The task id of a prompt until it has its next outcome, however often the run is killed."""
        return str(uuid.uuid5(uuid.UUID(self.manifest.run), f"{self._tries[index]}/{index}"))

    def send_again(self, outcomes: Iterable[Outcome], end: int) -> None:
        """Take those that ended in one of these ways for open, once; a round that was killed goes on.

        A round has come to its end when none of the first `end` prompts is open.
        """
        wanted = tuple(sorted(outcomes))
        if self.open_below(end) and wanted == self.manifest.again:
            return
        if wanted and any(outcome in wanted for outcome in self._outcomes):
            sent_below = self.manifest.sent_below if self.open_below(self.manifest.total) else 0
            again = any(
                self._tries[index] and self.outcome(index) is None for index in range(self.manifest.total)
            )
            self._keep(
                replace(
                    self.manifest,
                    round=self.manifest.round + 1,
                    again=wanted,
                    sent_below=sent_below,
                    resent_below=self.manifest.resent_below if again else 0,
                )
            )

    def may_have_been_sent(self, index: int) -> bool:
        """Whether a prompt that has no outcome was published, or was about to be."""
        return index < (self.manifest.resent_below if self._tries[index] else self.manifest.sent_below)

    def note_sent_below(self, index: int) -> None:
        """Put on disk, before it is done, that prompts up to a position are published."""
        if index > self.manifest.resent_below:  # never above `sent_below`
            sent_below = max(index, self.manifest.sent_below)
            self._keep(replace(self.manifest, sent_below=sent_below, resent_below=index))

    def forget_sent(self) -> None:
        """Nothing that was sent exists any more, nor did it cost anything: it is sent anew."""
        self._keep(replace(self.manifest, run=str(uuid.uuid4()), sent_below=0, resent_below=0))

    def append(self, outcomes: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Put outcomes on disk, each as the line of the output it will be; returns when they are safe."""
        self._journal.seek(0, os.SEEK_END)
        for index, line in outcomes:
            entry = {"index": index, "round": self.manifest.round, "line": line}
            self._take(entry, self._journal.tell())
            self._journal.write(_json(entry))
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def write_output(self) -> None:
        """Write all lines there are in the order of the prompts, in place of the output as a whole."""
        self._journal.flush()
        with _replacing(self.output) as file:
            for place in self._places:
                if place != NOWHERE:
                    self._journal.seek(place)
                    file.write(_json(json.loads(self._journal.readline())["line"]))
            _make_safe(file)
        _rename(self.output)

    def _replay(self) -> None:
        place = 0
        self._journal.seek(0)
        for raw in self._journal:
            entry = _entry(raw)
            if entry is None:
                self._journal.truncate(place)
                break
            self._take(entry, place)
            place += len(raw)

    def _take(self, entry: Mapping[str, Any], place: int) -> None:
        index = entry["index"]
        self._places[index] = place
        self._rounds[index] = entry["round"]
        self._tries[index] += 1
        self._outcomes[index] = Outcome(entry["line"]["outcome"])

    def _refuse_others(self, kept: Manifest | None) -> None:
        if kept is None and self.output.exists():
            raise ConfigurationError(f"{self.output} exists, and no manifest beside it: choose another -o.")
        if kept is not None and not self._is_mine(kept) and self._is_used(kept):
            raise ConfigurationError(
                f"{self.output} was begun with other prompts or other options. Call the command that it was "
                "begun with, or choose another -o."
            )

    def _is_mine(self, kept: Manifest) -> bool:
        return (kept.fingerprint, kept.total) == (self.manifest.fingerprint, self.manifest.total)

    def _is_used(self, kept: Manifest) -> bool:
        """Whether the run may have sent anything; if not, another one may take its place."""
        return kept.is_begun or (self._journal_path.exists() and self._journal_path.stat().st_size > 0)

    def _kept(self) -> Manifest | None:
        try:
            kept = json.loads(self._manifest_path.read_bytes())
        except FileNotFoundError:
            return None
        if kept["version"] != VERSION:
            raise ConfigurationError(f"{self._manifest_path} was written by another version of this package.")
        return Manifest(**{**kept, "again": tuple(kept["again"])})

    def _keep(self, manifest: Manifest) -> None:
        with _replacing(self._manifest_path) as file:
            file.write(_json(asdict(manifest)))
            _make_safe(file)
        _rename(self._manifest_path)
        self.manifest = manifest


def manifest_of(output: Path) -> Path:
    """Where the manifest of a batch run is."""
    return output.with_name(f"{output.name}.manifest")


def _entry(raw: bytes) -> Mapping[str, Any] | None:
    """A line of the journal; None where a write was cut off, of which the disk may have any part."""
    try:
        entry = json.loads(raw) if raw.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _json(value: Mapping[str, Any]) -> bytes:
    # Half a surrogate pair is no UTF-8, and this way the escape that JSON has for it.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _locked(path: Path) -> BufferedRandom:
    try:
        file = path.open("a+b")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}. Choose another -o.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigurationError(f"Another process is at work on {path.stem}: let it end.") from None
    return file


def _replacing(path: Path) -> BinaryIO:
    return path.with_name(f"{path.name}.new").open("wb")


def _rename(path: Path) -> None:
    path.with_name(f"{path.name}.new").replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _make_safe(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
