"""The documented tiers and the rules every pause obeys."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freddy_tasks.schedules import CEILING, FLOOR, Tiers, Wait, jittered

anything = st.floats(allow_nan=True, allow_infinity=True)
waits = st.builds(
    Wait,
    elapsed=anything,
    remaining=anything,
    polls=st.integers(),
    expected=st.none() | anything,
    started=st.none() | anything,
    progress=st.none() | anything,
)


@pytest.mark.parametrize(
    ("elapsed", "expected", "pause"),
    [
        (0, None, 2.5),
        (29, None, 2.5),
        (30, None, 7.5),
        (299, None, 7.5),
        (300, None, 45.0),
        (0, 10, 2.5),
        (0, 90, 7.5),
        (0, 600, 45.0),
        (90, 10, 7.5),
    ],
)
def test_the_pause_is_the_middle_of_the_documented_band(elapsed, expected, pause):
    """The estimate picks the band, the time gone by where there is none or it was too short."""
    wait = Wait(elapsed=elapsed, remaining=1800 - elapsed, expected=expected)

    assert Tiers().delay(wait) == pause


def test_a_dearer_poll_widens_the_tiers_by_its_root():
    """Four times the price is twice the pause."""
    wait = Wait(elapsed=0, remaining=1800)

    assert Tiers().delay(wait, stretch=4) == 5.0


def test_the_last_look_is_at_the_deadline():
    """A pause is cut at the deadline, and never under the floor."""
    assert Tiers().delay(Wait(elapsed=900, remaining=20)) == 20
    assert Tiers().delay(Wait(elapsed=900, remaining=0.1)) == FLOOR
    assert Tiers().delay(Wait(elapsed=900, remaining=-5)) == FLOOR


@given(wait=waits, stretch=anything)
def test_tiers_answer_every_question_with_a_finite_pause(wait, stretch):
    """Whatever goes in, even no number, a usable pause comes out."""
    delay = Tiers().delay(wait, stretch)

    assert FLOOR <= delay <= CEILING
    assert math.isnan(wait.remaining) or delay <= max(FLOOR, wait.remaining)


@given(delay=st.floats(FLOOR, CEILING), random=st.floats(0, 1))
def test_jitter_moves_a_pause_by_a_few_per_cent_at_most(delay, random):
    """The share bounds the move on both sides."""
    moved = jittered(delay, random, share=0.05)

    assert 0.9499 * delay <= moved <= 1.0501 * delay
