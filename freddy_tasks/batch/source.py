"""Prompts in a file: JSON lines, CSV, or plain lines, read one at a time and as often as needed."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from freddy_tasks.errors import InvalidRequest

from .items import Item, read_item

Format = Literal["jsonl", "csv", "text"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: Mapping[str, Format] = {".csv": "csv", ".tsv": "csv", ".txt": "text"}
ID = "id"
PROMPT = "prompt"
MOST_NAMED = 20  # bad lines that are named one by one
LONGEST_FIELD = 2**31 - 1  # letters of a field of CSV


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be sent, and why; `number` counts from 1, as an editor does."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file of prompts. An item without an id has its line's number.

    `jsonl`: a line is a JSON string, a list of input messages, or an object with the prompt, perhaps `id`,
    and any option. `csv`: the first line names the columns, of which only the prompt's and `id` are read.
    `text`: a line is a prompt. Empty lines are passed over. `column` names the prompt's column or key.
    """

    path: Path
    format: Format
    column: str = PROMPT

    def __iter__(self) -> Iterator[tuple[int, Item | BadLine]]:
        """Each line that is not empty, with its number."""
        match self.format:
            case "jsonl":
                lines = self._numbered(self._from_json)
            case "text":
                lines = self._numbered(lambda text: text)
            case "csv":
                lines = self._from_csv()
        for number, written in lines:
            if isinstance(written, BadLine):
                yield number, written
                continue
            try:
                yield number, read_item(written, number)
            except InvalidRequest as error:
                yield number, BadLine(number, error.message)

    def _numbered(self, read: Callable[[str], Any]) -> Iterator[tuple[int, Any]]:
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                    if text.strip():
                        yield number, read(text)
                except (ValueError, RecursionError) as error:  # of the decoding, or of the JSON
                    yield number, BadLine(number, _reason(error))

    def _from_json(self, text: str) -> Any:
        written = json.loads(text)
        if isinstance(written, dict) and self.column != PROMPT and self.column in written:
            written[PROMPT] = written.pop(self.column)
        return written

    def _from_csv(self) -> Iterator[tuple[int, Any]]:
        csv.field_size_limit(LONGEST_FIELD)  # of the process, as Python has it; a prompt can be a whole book
        delimiter = "\t" if self.path.suffix == ".tsv" else ","
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            names = self._names(rows)
            while True:
                number = rows.line_num + 1
                try:
                    row = next(rows, None)
                except csv.Error as error:
                    yield number, BadLine(number, f"not CSV: {error}")
                    continue
                if row is None:
                    return
                if row:
                    yield number, self._from_row(number, names, row)

    def _names(self, rows: Iterator[list[str]]) -> list[str]:
        try:
            names = next(rows, [])
        except csv.Error as error:
            raise InvalidRequest(f"The first line, which names the columns, is not CSV: {error}.") from None
        if self.column not in names:
            raise InvalidRequest(
                f"There is no column {self.column!r}: name the prompts' column with --column. "
                f"There are: {', '.join(names) or 'none'}."
            )
        return names

    def _from_row(self, number: int, names: Sequence[str], row: Sequence[str]) -> Any:
        if any(row[len(names) :]):
            # One of its commas stands in a text without quotes, and what follows would be cut off.
            return BadLine(number, "it has more columns than the first line: is a quote missing?")
        named = dict(zip(names, row, strict=False))
        prompt = named.get(self.column)
        if prompt is None:
            return BadLine(number, "it has too few columns.")
        if any("\udc80" <= letter <= "\udcff" for letter in prompt):
            return BadLine(number, "it is not UTF-8.")
        return {PROMPT: prompt, **({ID: named[ID]} if named.get(ID) else {})}


@dataclass(frozen=True, slots=True)
class Checked:
    """What one reading of the whole file found: enough to know it again, and no prompt."""

    fingerprint: str
    total: int
    bad: tuple[BadLine, ...]
    bad_count: int


@dataclass(frozen=True, slots=True)
class GoodItems:
    """The items of a source that can be sent, in order, as often as they are asked for.

    `verify` raises `InvalidRequest` for one that cannot.
    """

    source: Source
    verify: Callable[[Item], None]

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self.judged() if isinstance(item, Item))

    def judged(self) -> Iterator[Item | BadLine]:
        """All of them, the bad ones as such."""
        seen: dict[bytes, int] = {}
        for number, item in self.source:
            yield item if isinstance(item, BadLine) else self._problem(number, item, seen) or item

    def _problem(self, number: int, item: Item, seen: dict[bytes, int]) -> BadLine | None:
        try:
            self.verify(item)
        except InvalidRequest as error:
            return BadLine(number, error.message)
        # Eight bytes an id: of 50,000, two are taken for one in one of ten billion files.
        named = str(item.id).encode("utf-8", "surrogatepass")
        first = seen.setdefault(hashlib.blake2b(named, digest_size=8).digest(), number)
        return None if first == number else BadLine(number, f"its id is that of line {first}.")


def check(items: GoodItems, options: Mapping[str, Any]) -> Checked:
    """Read all of it once; the fingerprint is that of the items and of `options`, which all of them share."""
    digest = hashlib.sha256(_canonical(dict(options)))
    bad: list[BadLine] = []
    total = bad_count = 0
    for item in items.judged():
        if isinstance(item, Item):
            total += 1
            digest.update(_canonical([item.id, item.prompt, item.options]))
        else:
            bad_count += 1
            bad += [item] if len(bad) < MOST_NAMED else []
    return Checked(digest.hexdigest(), total, tuple(bad), bad_count)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _reason(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} at column {error.colno}."
        case UnicodeDecodeError():
            return "it is not UTF-8."
        case RecursionError():
            return "not JSON: it is nested too deep."
        case _:
            return "not JSON: it holds a number of too many digits."
