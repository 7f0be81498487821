"""What a reply says about the plan's limit: four families of hints, read into one value. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from .models import RateHints

LONGEST = 86_400.0
"""Seconds; no hint is taken for more: after a day the response itself is gone."""

EPOCH_FROM = 1e9
"""A number from here on is a moment (2001 and later), below it a pause of seconds."""

MILLISECONDS_FROM = 1e11
"""A moment from here on counts milliseconds: in seconds it would lie beyond the year 5000."""

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{0,18})?")
_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(ms|s|m|h|d)")
_COUNT = re.compile(r"\s*([0-9]{1,15})(?![0-9.])")


def parse_retry_after(text: str, now: float) -> float | None:
    """Seconds from `now` (Unix seconds) that a hint asks to wait, 0 to `LONGEST`; None for what is no hint.

    Reads seconds (`12`, `1.5`), moments (HTTP date, ISO 8601, Unix time) and durations (`6m0s`, `250ms`).

    >>> parse_retry_after("6m0s", now=0.0)
    360.0
    """
    text = text.strip()[:64]
    if _NUMBER.fullmatch(text):
        number = float(text)
        seconds = _moment(number) - now if number >= EPOCH_FROM else number
    elif _PART.match(text):
        seconds = _duration(text)
    else:
        seconds = _date(text) - now
    return min(max(seconds, 0.0), LONGEST) if math.isfinite(seconds) else None


def read_hints(headers: Mapping[str, str], body: object, now: float) -> RateHints:
    """The hints in a reply's headers and its JSON body; moments in Unix seconds by the clock of `now`.

    The service names moments by its own clock, which the `Date` header tells: only the span between the
    two is used, so a clock that is wrong on either side does no harm.
    """
    fields = {name.lower(): value for name, value in headers.items()}
    theirs = _date(fields.get("date", ""))
    hints = _Hints(fields, theirs if math.isfinite(theirs) else now, now)
    return RateHints(
        limit=hints.count("x-ratelimit-limit", "x-ratelimit-limit-requests"),
        remaining=hints.count("x-ratelimit-remaining", "x-ratelimit-remaining-requests"),
        reset_at=hints.moment("x-ratelimit-reset", "x-ratelimit-reset-requests"),
        retry_at=hints.retry_at(body),
        skew=theirs - now if math.isfinite(theirs) else None,
    )


class _Hints:
    def __init__(self, fields: Mapping[str, str], theirs: float, ours: float) -> None:
        self._fields = fields
        self._theirs = theirs
        self._ours = ours

    def count(self, *names: str) -> int | None:
        for name in names:
            if match := _COUNT.match(self._fields.get(name, "")):
                return int(match[1])
        return None

    def moment(self, *names: str) -> float | None:
        for name in names:
            seconds = parse_retry_after(self._fields.get(name, ""), self._theirs)
            if seconds is not None:
                return self._ours + seconds
        return None

    def retry_at(self, body: object) -> float | None:
        told = self.moment("retry-after")
        if told is not None:
            return told
        # Sent with every reply, and 0 while all is well.
        plan = self.moment("x-ratelimit-retry-after")
        if plan is not None and plan > self._ours:
            return plan
        seconds = parse_retry_after(_body_hint(body), self._theirs)
        return None if seconds is None else self._ours + seconds


def _body_hint(body: object) -> str:
    error = body.get("error") if isinstance(body, Mapping) else None
    details = error.get("details") if isinstance(error, Mapping) else None
    for place in (error, details, body):
        hint = place.get("retry_after") if isinstance(place, Mapping) else None
        if isinstance(hint, str):
            return hint
        if isinstance(hint, int | float) and not isinstance(hint, bool) and abs(hint) < 1e15:
            return f"{hint:.6f}"  # in plain digits: `1e-05` is no form of the hint
    return ""


def _moment(number: float) -> float:
    return number / 1_000 if number >= MILLISECONDS_FROM else number


def _duration(text: str) -> float:
    seconds, position = 0.0, 0
    while part := _PART.match(text, position):
        seconds += float(part[1]) * UNITS[part[2]]
        position = part.end()
    return seconds if position == len(text) else math.nan


def _date(text: str) -> float:
    """Unix seconds of an ISO 8601 or HTTP date, UTC where it names no zone; NaN for anything else."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
            return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return math.nan
