"""Text of the server's made fit to be shown: no key, no echo of the prompt, one short line. Pure."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

HIDDEN = "[…]"

ECHO = 16
"""Characters in a row, white space collapsed, from which a likeness to a secret is an echo of it."""

LEAST = 4
"""Shorter secrets are no keys and tell little, and would blot out the letters of every other word."""

MOST_READ = 2_000
"""Characters of a server's text that are looked at; what is shown of it is far less."""

KEY_LIKE = re.compile(
    r"(?:oak_|sk-|sk_|whsec_)[A-Za-z0-9_\-]{4,}|\b(?:Bearer|Basic)\s+[A-Za-z0-9_\-.~+/=%]{4,}", re.IGNORECASE
)

QUOTING = re.compile(
    r"[:;]\s|[\"`{\[<(“”„«»\n]|(?:^|\s)['\u2018]"
    r"|(?<=\bprompt)\s+(?!(?:is|was|has|must|can|could|may|exceeds|violates|too)\b)",
    re.IGNORECASE,
)

STRUCTURE = frozenset({"role", "type"})
"""Keys of a message whose values are words of the API's, and none of the caller's."""


def one_line(text: str, secrets: Iterable[str] = (), *, most: int = 160) -> str:
    """`text` without secrets, white space collapsed, at most `most` characters.

    Hidden are every secret of `LEAST` characters or more, its URL and base64 forms, every echo of `ECHO`
    characters or more of any of them, and whatever looks like a key. Takes time in proportion to the
    length of the secrets, about 0.1 s for a million characters.
    """
    # A secret may straddle the end of what is read: nothing behind it is shown.
    line = _collapse(text[:MOST_READ])
    line = KEY_LIKE.sub(HIDDEN, line)
    for secret in secrets:
        if len(secret) >= LEAST and line:
            line = _hide(line, secret)
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def opening(text: str) -> str:
    """What a text says before it may begin to quote: up to the first colon, quote, bracket or "prompt".

    For texts about a prompt that is no longer known, as at a poll: an echo cannot be recognised there, but
    it is nearly always introduced.
    """
    said = QUOTING.split(text, maxsplit=1)[0].rstrip()
    return said if said == text.rstrip() else f"{said}…"


def one_word(text: str, secrets: Iterable[str] = (), *, most: int = 64) -> str:
    """`text` redacted as by `one_line` if it is a single word, as codes are; "" for anything else."""
    return "" if len(text.split()) != 1 else one_line(text, secrets, most=most)


def texts_of(value: object) -> list[str]:
    """Every string in a prompt or another JSON value that is long enough to be known again.

    The words of its `STRUCTURE` are left out.
    """
    found: list[str] = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            found += [item] if len(item) >= LEAST else []
        elif isinstance(item, dict):
            pending += [inner for name, inner in item.items() if name not in STRUCTURE]
        elif isinstance(item, list | tuple):
            pending += item
    return found


def _collapse(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def _hide(line: str, secret: str) -> str:
    for form in _forms(secret):
        if form in line:
            line = line.replace(form, HIDDEN)
        if len(form) >= ECHO and len(line) >= ECHO:
            line = _hide_echoes(line, form)
    return line


def _forms(secret: str) -> Iterator[str]:
    """The secret as it may stand in a text: plain, in JSON, and, where it could be a key, encoded."""
    plain = _collapse(secret)
    forms = [
        plain,
        _collapse(json.dumps(secret)[1:-1]),
        _collapse(json.dumps(secret, ensure_ascii=False)[1:-1]),
    ]
    if len(secret) <= 512:
        raw = secret.encode("utf-8", "replace")
        forms += [quote(raw, safe=""), quote_plus(raw)]
        forms += [b64encode(raw).decode().rstrip("="), urlsafe_b64encode(raw).decode().rstrip("=")]
    yield from dict.fromkeys(form for form in forms if len(form) >= LEAST)


def _hide_echoes(line: str, secret: str) -> str:
    """One pass over the secret against the windows of the line: the line is short, the secret may not be."""
    windows = {line[start : start + ECHO] for start in range(len(line) - ECHO + 1)}
    echoed = {
        window
        for start in range(len(secret) - ECHO + 1)
        if (window := secret[start : start + ECHO]) in windows
    }
    if not echoed:
        return line
    hidden = bytearray(len(line))
    for start in range(len(line) - ECHO + 1):
        if line[start : start + ECHO] in echoed:
            hidden[start : start + ECHO] = b"\1" * ECHO
    return _replace_hidden(line, hidden)


def _replace_hidden(line: str, hidden: bytearray) -> str:
    shown: list[str] = []
    for index, character in enumerate(line):
        if not hidden[index]:
            shown.append(character)
        elif not index or not hidden[index - 1]:
            shown.append(HIDDEN)
    return "".join(shown)
