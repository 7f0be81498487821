"""Pauses after failed calls."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from freddy_tasks.retries import backoff

shares = st.floats(0, 1)
failures = st.integers(-5, 10_000)
bounds = st.tuples(st.floats(0.01, 100), st.floats(0.01, 1_000))


@settings(deadline=None)
@given(failures, shares, bounds)
def test_pause_is_positive_and_bounded(count: int, share: float, bound: tuple[float, float]) -> None:
    """However many failures, whatever the dice: never zero, never above the bound."""
    base, most = bound

    pause = backoff(count, lambda: share, base=base, most=most)

    assert 0 < pause <= most


@settings(deadline=None)
@given(st.integers(1, 1_000), shares)
def test_pause_grows_with_failures(count: int, share: float) -> None:
    """With the same luck, one more failure never shortens the pause."""
    assert backoff(count, lambda: share) <= backoff(count + 1, lambda: share)


@settings(deadline=None)
@given(st.integers(1, 200))
def test_half_of_the_pause_is_certain(count: int) -> None:
    """Equal jitter: the luckiest draw still waits half of the unluckiest."""
    assert backoff(count, lambda: 0.0) * 2 == backoff(count, lambda: 1.0)


def test_pause_doubles_until_the_bound() -> None:
    """The documented series of the longest pauses."""
    series = [backoff(count, lambda: 1.0) for count in range(1, 9)]

    assert series == [1, 2, 4, 8, 16, 32, 60, 60]
