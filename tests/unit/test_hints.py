"""Hints about the plan's limit, in all their spellings."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freddy_tasks.hints import LONGEST, parse_retry_after, read_hints
from freddy_tasks.models import RateHints

NOW = 1_800_000_000.0

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("12", 12),
        (" 1.5 ", 1.5),
        ("-3", 0),
        ("+7", 7),
        ("6m0s", 360),
        ("250ms", 0.25),
        ("1h30m", 5_400),
        ("1d", 86_400),
        ("2.5s", 2.5),
        ("999999", LONGEST),
        (str(int(NOW) + 30), 30),
        (str(int(NOW) * 1_000 + 30_000), 30),
        (str(int(NOW) - 30), 0),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        ("2027-01-15T08:01:00Z", 60),
        ("2027-01-15T08:01:00", 60),
        ("2027-01-15T09:01:00+01:00", 60),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("12 apples", None),
        ("6m0", None),
        ("5s5", None),
        ("٣", None),
        ("1_000", None),
        ("0001-01-01T00:00:00", 0),
    ],
)
def test_retry_after_is_read_in_every_form(text: str, seconds: float | None) -> None:
    """Seconds, dates, Unix times and durations are hints; anything else is none."""
    assert parse_retry_after(text, NOW) == (None if seconds is None else pytest.approx(seconds))


@settings(deadline=None)
@given(st.text() | st.from_regex(r"[0-9.+\-eEmshdTZ: ]{0,40}"), st.floats(0, 1e12))
def test_retry_after_is_total_and_bounded(text: str, now: float) -> None:
    """No text raises, and what is read is between nothing and a day."""
    seconds = parse_retry_after(text, now)

    assert seconds is None or 0 <= seconds <= LONGEST


@pytest.mark.parametrize(
    ("headers", "body", "hints"),
    [
        ({}, None, RateHints()),
        ({"Retry-After": "5"}, None, RateHints(retry_at=NOW + 5)),
        (
            {
                "X-RateLimit-Limit": "100",
                "X-RateLimit-Remaining": "7",
                "X-RateLimit-Reset": str(int(NOW) + 20),
                "X-RateLimit-Retry-After": "0",
            },
            None,
            RateHints(100, 7, NOW + 20, None),
        ),
        ({"X-RateLimit-Retry-After": "9"}, None, RateHints(retry_at=NOW + 9)),
        ({"Retry-After": "3", "X-RateLimit-Retry-After": "9"}, None, RateHints(retry_at=NOW + 3)),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-tokens": "5000",
            },
            None,
            RateHints(60, 0, NOW + 360, None),
        ),
        ({}, {"error": {"retry_after": 4}}, RateHints(retry_at=NOW + 4)),
        ({}, {"error": {"retry_after": 0.5}}, RateHints(retry_at=NOW + 0.5)),
        ({}, {"error": {"details": {"retry_after": "8"}}}, RateHints(retry_at=NOW + 8)),
        ({}, {"error": {"retry_after": True}}, RateHints()),
        ({}, {"error": {"retry_after": 10**400}}, RateHints()),
        ({"X-RateLimit-Limit": "many", "X-RateLimit-Remaining": "-1"}, None, RateHints()),
        ({"X-RateLimit-Limit": "100, 100;w=60"}, None, RateHints(limit=100)),
    ],
)
def test_hints_of_every_family_are_read(headers: dict[str, str], body: object, hints: RateHints) -> None:
    """Each family alone, and their order where several speak."""
    assert read_hints(headers, body, NOW) == hints


def test_moments_are_told_by_our_clock() -> None:
    """A server whose clock is an hour ahead still asks for ten seconds."""
    ahead = NOW + 3_600
    headers = {"Date": formatdate(ahead, usegmt=True), "X-RateLimit-Reset": str(int(ahead) + 10)}

    assert read_hints(headers, None, NOW).reset_at == NOW + 10


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["Retry-After", "X-RateLimit-Reset", "X-RateLimit-Limit", "x-ratelimit-retry-after", "Date"]
        ),
        st.text(),
    ),
    json_values
    | st.fixed_dictionaries({"error": json_values | st.fixed_dictionaries({"retry_after": json_values})}),
)
def test_hints_are_total(headers: dict[str, str], body: object) -> None:
    """No header and no JSON raises; moments lie within the coming day."""
    hints = read_hints(headers, body, NOW)

    assert all(at is None or NOW <= at <= NOW + LONGEST for at in (hints.reset_at, hints.retry_at))
