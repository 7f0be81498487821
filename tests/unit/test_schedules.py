"""The documented tiers and the rules every pause obeys."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freddy_tasks.schedules import (
    CEILING,
    EASE,
    FLOOR,
    LENGTHS,
    MAX_STRETCH,
    Band,
    Tiers,
    Wait,
    expected_seconds,
    jittered,
    next_delay,
    next_stretch,
    parse_tiers,
)

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


@given(wait=waits, stretch=anything, random=st.floats(0, 1))
def test_the_next_delay_is_jittered_and_still_bounded(wait, stretch, random):
    """Jitter carries no look past the deadline, nor under the floor."""
    delay = next_delay(Tiers(), wait, random=lambda: random, stretch=stretch)

    assert FLOOR <= delay <= CEILING
    assert math.isnan(wait.remaining) or delay <= max(FLOOR, wait.remaining)


def test_a_stretched_pause_ends_by_twice_the_estimate():
    """However dear a poll is, a response said to take 600 s is not first looked at after 1,400."""
    wait = Wait(elapsed=0, remaining=10_000, expected=600)

    assert Tiers().delay(wait, stretch=MAX_STRETCH) == 1_200


@given(elapsed=st.floats(1, 5_000), stretch=anything)
def test_a_stretched_pause_is_no_longer_than_twice_the_time_gone_by(elapsed, stretch):
    """From the second look on, nobody waits for three times the duration, however dear a poll is."""
    wait = Wait(elapsed=elapsed, remaining=math.inf, polls=1)

    assert Tiers().delay(wait, stretch) <= max(Tiers().delay(wait), 2 * elapsed)


def test_the_first_look_is_stretched_by_the_price_alone():
    """Of a response just submitted nothing is known that would end the pause."""
    assert Tiers().delay(Wait(elapsed=0, remaining=math.inf), stretch=900) == 75.0
    assert Tiers().delay(Wait(elapsed=75, remaining=math.inf, polls=1), stretch=900) == 150.0


@given(stretch=st.floats(1, MAX_STRETCH), more=st.floats(1, MAX_STRETCH), elapsed=st.floats(0, 2_000))
def test_a_dearer_poll_never_comes_sooner_in_the_tiers(stretch, more, elapsed):
    """The pause grows with the price."""
    wait = Wait(elapsed=elapsed, remaining=math.inf)
    cheap, dear = sorted((stretch, more))

    assert Tiers().delay(wait, cheap) <= Tiers().delay(wait, dear)


@pytest.mark.parametrize("word", LENGTHS)
def test_a_word_for_the_length_falls_inside_its_documented_band(word):
    """short, medium and long are polled each at their own pause."""
    pauses = {"short": 2.5, "medium": 7.5, "long": 45.0}

    assert Tiers().pause(expected_seconds(word)) == pauses[word]


@pytest.mark.parametrize(("given_", "seconds"), [(None, None), (12, 12.0), (0.5, 0.5)])
def test_an_estimate_in_seconds_is_itself(given_, seconds):
    """None stays unknown."""
    assert expected_seconds(given_) == seconds


@pytest.mark.parametrize("wrong", ["", "Short", "10", 0, -1, math.nan, math.inf])
def test_an_estimate_that_is_none_is_refused(wrong):
    """Neither a number of seconds above 0 nor one of the words."""
    with pytest.raises(ValueError, match="give seconds"):
        expected_seconds(wrong)


bands = st.lists(
    st.tuples(st.integers(1, 99_999), st.integers(1, 9_999)), max_size=5, unique_by=lambda pair: pair[0]
)


@given(pairs=bands, last=st.integers(1, 9_999))
def test_tiers_are_read_back_from_their_own_text(pairs, last):
    """Str and parse_tiers are inverse."""
    tiers = Tiers((*(Band(*map(float, pair)) for pair in sorted(pairs)), Band(math.inf, float(last))))

    assert parse_tiers(str(tiers)) == tiers


def test_the_default_tiers_have_the_documented_text():
    """The form a deployment writes."""
    assert str(Tiers()) == "30:2.5,300:7.5,inf:45"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "30:2.5",
        "30:2.5,inf",
        "inf:45,30:2.5",
        "30:0,inf:45",
        "30:x,inf:45",
        "30:1:2,inf:3",
        "inf:inf",
    ],
)
def test_tiers_that_leave_a_job_without_a_pause_are_refused(text):
    """Each error says what is wrong with the tiers."""
    with pytest.raises(ValueError, match="tiers"):
        parse_tiers(text)


def settled(demand, start=1.0, seconds=4_000):
    """Drive a line of requests whose demand falls as the root of the stretch; return both, second by second.

    `demand` is in multiples of the limit; the polls in flight answer a new price half a minute later.
    """
    backlog, past, line = 0.0, [start] * 30, []
    for _ in range(seconds):
        backlog = max(0.0, backlog + demand / math.sqrt(past[-30]) - 1.0)
        past.append(next_stretch(past[-1], backlog_seconds=backlog))
        line.append(backlog)
    return past, line


@pytest.mark.parametrize("demand", [1.1, 1.5, 3.0, 8.0])
def test_the_stretch_comes_to_rest_where_demand_meets_the_limit(demand):
    """An answer half a minute late does not drive it to and fro; the line that stays is what holds it."""
    past, line = settled(demand)

    assert past[-1] == pytest.approx(demand**2, rel=0.02)
    assert max(past[-500:]) < 1.02 * min(past[-500:])
    assert line[-1] == pytest.approx(EASE * (demand - 1.0), rel=0.02)


def test_the_stretch_falls_back_to_one_when_the_line_is_gone():
    """Demand under the limit leaves nothing of the highest price."""
    past, line = settled(0.5, start=MAX_STRETCH)

    assert past[-1] == pytest.approx(1.0)
    assert line[-1] == 0.0


@pytest.mark.parametrize(("left", "called"), [(1.0, 1), (0.5, 1), (0.25, 4), (0.05, 100), (0.0, 1_600)])
def test_polls_slow_down_in_step_with_what_is_left_of_the_day(left, called):
    """Half as many polls when half of the ample share is left: four times the price."""
    assert next_stretch(1, backlog_seconds=0, day_left=left, interval=1e3) == pytest.approx(called)


@pytest.mark.parametrize(("backlog", "called"), [(0, 1), (EASE, 4), (3 * EASE, 16), (math.inf, 1_600)])
def test_pauses_grow_in_proportion_to_the_line(backlog, called):
    """The price with its square."""
    assert next_stretch(1, backlog_seconds=backlog, interval=1e3) == pytest.approx(called)


def test_two_short_intervals_are_one_long_one():
    """How often the dispatcher looks does not change where the price is after a while."""
    once = next_stretch(1, backlog_seconds=60, interval=2)
    twice = next_stretch(next_stretch(1, backlog_seconds=60), backlog_seconds=60)

    assert once == pytest.approx(twice)


@given(stretch=anything, backlog=anything, left=anything, interval=st.floats(0, 1e9))
def test_the_stretch_is_always_within_its_bounds(stretch, backlog, left, interval):
    """Whatever goes in, even no number."""
    after = next_stretch(stretch, backlog_seconds=backlog, day_left=left, interval=interval)

    assert 1.0 <= after <= MAX_STRETCH
