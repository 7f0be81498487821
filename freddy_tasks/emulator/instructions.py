"""What a request asks of the emulator itself: `[emulate: duration=3 status=failed]` in prompt or metadata."""

from __future__ import annotations

import re
from dataclasses import replace

from freddy_tasks.emulator.durations import AfterPolls
from freddy_tasks.emulator.jobs import Life

_IN_PROMPT = re.compile(r"\[emulate:(?P<words>[^\]]*)\]", re.IGNORECASE)


def find_instruction(prompt: str, metadata: object) -> dict[str, str]:
    """Return the words of an instruction, metadata's before the prompt's; empty without one.

    The words are `duration` (seconds, queue included), `queue` (seconds), `polls` (in place of a duration),
    `status` (the word it ends with), `code` and `message` (of a failure; `_` for a blank), `stuck` (a running
    status). ValueError for a word without `=` or one not known.
    """
    words = metadata.get("emulate") if isinstance(metadata, dict) else None
    if isinstance(words, dict):
        return _known({str(name): str(value) for name, value in words.items()})
    found = _IN_PROMPT.search(prompt)
    text = words if isinstance(words, str) else found["words"] if found else ""
    return _known(dict(_pair(word) for word in text.replace(",", " ").split()))


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{word!r} in an emulate instruction is not NAME=VALUE")
    return name.lower(), value


def _known(words: dict[str, str]) -> dict[str, str]:
    for name in words.keys() - {"duration", "queue", "polls", "status", "code", "message", "stuck"}:
        raise ValueError(f"an emulate instruction knows no {name!r}")
    if words.get("stuck", "queued") not in ("queued", "in_progress"):
        raise ValueError("an emulate instruction's stuck is queued or in_progress")
    return words


def instructed_pace(words: dict[str, str], otherwise: float | AfterPolls) -> float | AfterPolls:
    """Return the pace an instruction asks for; ValueError for what is not a number of 0 or more."""
    if "polls" in words:
        return AfterPolls(int(_number(words["polls"])))
    return _number(words["duration"]) if "duration" in words else otherwise


def instructed_queue(words: dict[str, str], otherwise: float) -> float:
    """Return the seconds in the queue an instruction asks for."""
    return _number(words["queue"]) if "queue" in words else otherwise


def instructed_life(words: dict[str, str], life: Life) -> Life:
    """Return the life with the end an instruction asks for."""
    if "stuck" in words:
        return replace(life, stuck="queued" if words["stuck"] == "queued" else "in_progress")
    if "status" in words:
        life = replace(life, ending=words["status"])
    told = {
        name: words[name].replace("_", " ") if name == "message" else words[name]
        for name in ("code", "message")
        if name in words
    }
    return replace(life, error=life.error | told) if told and isinstance(life.error, dict) else life


def _number(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{text} in an emulate instruction is not a number of 0 or more")
    return number
