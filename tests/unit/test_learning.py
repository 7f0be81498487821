"""What a class learns from its finished responses, and when it looks then."""

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freddy_tasks.fitting import FREEDOMS, SPREADS, changed_at, fit, likeliest
from freddy_tasks.hazards import LogT
from freddy_tasks.history import KEPT, YOUNG, History
from freddy_tasks.learning import (
    WARM,
    Capped,
    Learned,
    Within,
    Young,
    price_for_p95,
    price_of_tiers,
    schedule_for,
    sharpened,
)
from freddy_tasks.optimum import late_share, outlook
from freddy_tasks.schedules import CEILING, FLOOR, MAX_STRETCH, Tiers, Wait

anything = st.floats(allow_nan=True, allow_infinity=True)
durations = st.lists(st.floats(0.0, 1e5), min_size=1, max_size=60)


def history_of(values, **more):
    """The history of these durations, one response after the other."""
    history = History.empty()
    for value in values:
        history = history.add(value, **more)
    return history


def drawn(law, count, seed=1):
    """Whole seconds, as the service tells them."""
    random = Random(seed)
    return [float(round(law.sample(random))) for _ in range(count)]


WARM_HISTORY = history_of(drawn(LogT(90.0, 0.5), 40))
LEARNED = schedule_for(WARM_HISTORY, Tiers())
BATCH = history_of(sorted(drawn(LogT(90.0, 0.5), 20)), submitted_at=1_000.0)
WAITS = st.builds(
    Wait,
    elapsed=anything,
    remaining=anything,
    polls=st.integers(),
    expected=st.none() | anything,
    started=st.none() | anything,
    progress=st.none() | anything,
)


@given(values=durations, ran=st.none() | st.floats(0.0, 1e4))
def test_a_history_is_read_back_from_its_own_json(values, ran):
    """to_json and from_json are inverse."""
    history = history_of(values, ran=ran)

    assert History.from_json(history.to_json()) == history
    assert len(history.past) <= KEPT


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        b"\xff",
        "null",
        "[1]",
        '{"past": 3}',
        '{"past": [[1, 2]]}',
        '{"past": [[0, -1, null, 0]]}',
        '{"past": [[0, NaN, null, 0]]}',
        '{"past": [[0, 1, -2, 0]]}',
        '{"past": [[Infinity, 1, null, 0]]}',
        '{"seen": "x"}',
    ],
)
def test_a_history_that_cannot_be_read_starts_anew(text):
    """Another version's text, or a torn one, costs what was learned and no more."""
    assert History.from_json(text) == History.empty()


@given(value=anything, moment=anything)
def test_what_is_no_duration_is_not_counted(value, moment):
    """Only finite, non-negative durations at finite moments change a history."""
    before = history_of([10.0, 12.0])
    after = before.add(value, submitted_at=moment)

    sound = math.isfinite(value) and 0 <= value < 1e9 and math.isfinite(moment)
    assert (after != before) == sound


def test_a_history_stays_small():
    """A thousand responses fit in 2 kB."""
    assert len(history_of(drawn(LogT(600.0, 0.8), 1_000)).to_json()) < 2_048


def test_the_quick_ones_of_a_batch_do_not_pass_for_the_class():
    """Submitted together, each known as it finishes: nothing settles until nearly all have."""
    batch = sorted(drawn(LogT(90.0, 0.5), 200))
    history, early = History.empty(), 0
    for place, duration in enumerate(batch):
        history = history.add(duration, submitted_at=1_000.0)
        early = early if place >= 170 else max(early, len(history.settled))

    assert early < WARM
    assert fit(history.settled).median == pytest.approx(90.0, rel=0.3)


def test_many_at_once_leave_a_sample_of_them_all():
    """Of a stream of ten a second, the sample spans minutes and has the right median and spread."""
    random, law = Random(3), LogT(90.0, 0.5)
    finished = sorted(((at / 10.0, law.sample(random)) for at in range(6_000)), key=sum)
    history = History.empty()
    for moment, duration in finished:
        history = history.add(duration, submitted_at=moment)
    fitted = fit(history.settled)

    assert history.past[-1].submitted - history.past[0].submitted > 180.0
    assert fitted.median == pytest.approx(90.0, rel=0.25)
    assert fitted.spread == pytest.approx(0.5, rel=0.4)


@pytest.mark.parametrize("factor", [4.0, 0.25])
@pytest.mark.parametrize("spread", [0.2, 0.5, 0.8])
def test_a_jump_of_the_median_is_followed_within_thirty_responses(factor, spread):
    """After 50 of one level, 30 of another leave a law of the other."""
    after = LogT(90.0 * factor, spread)
    history = history_of([*drawn(LogT(90.0, spread), 50), *drawn(after, 30, seed=2)])

    assert fit(history.settled).median == pytest.approx(after.median, rel=0.35)
    assert len(history.settled) <= 34


@pytest.mark.parametrize("law", [LogT(90.0, 0.5), LogT(90.0, 0.5, 3.0)])
def test_chance_alone_is_seldom_taken_for_a_jump(law):
    """200 steady classes of 40: under 5 % forget anything."""
    forgot = sum(changed_at(tuple(drawn(law, 40, seed))) > 0 for seed in range(200))

    assert forgot < 10


def test_a_fit_takes_off_what_whole_seconds_add():
    """Durations of 2 s and spread 0.1, told in whole seconds, are not taken for three times as wide."""
    random = Random(5)
    told = tuple(
        float(math.floor(begin + LogT(2.0, 0.1).sample(random)))
        for begin in (random.random() for _ in range(KEPT))
    )
    exact = tuple(value + 1e-3 for value in told)

    assert fit(told).spread < 0.6 * fit(exact).spread


@given(values=durations)
def test_a_fit_is_within_what_is_believed(values):
    """Any durations give a finite law of a believable spread."""
    law = fit(tuple(values))

    assert 0 < law.median < math.inf
    assert SPREADS[0] <= law.spread <= SPREADS[1]


@pytest.mark.parametrize(
    ("law", "right", "wrong"),
    [
        (LogT(90.0, 0.2), max(FREEDOMS), min(FREEDOMS)),
        (LogT(90.0, 0.5, 3.0), min(FREEDOMS), max(FREEDOMS)),
    ],
    ids=["log-normal", "heavy"],
)
def test_the_tail_is_as_heavy_as_the_durations_say(law, right, wrong):
    """Of 40 classes, a third or more has the right tail by `KEPT` durations, and none the opposite."""
    chosen = [likeliest(tuple(drawn(law, KEPT, seed))).freedom for seed in range(40)]

    assert chosen.count(right) > 13
    assert wrong not in chosen


def test_of_few_durations_none_is_evidence_for_a_tail():
    """What was most probable before stays so."""
    assert likeliest((80.0, 90.0, 100.0)).freedom == max(FREEDOMS, key=FREEDOMS.__getitem__)
    assert sum(FREEDOMS.values()) == pytest.approx(1.0)


@given(values=durations)
def test_the_likeliest_law_is_one_of_the_fits(values):
    """And none of the others has more evidence for it."""
    law = likeliest(tuple(values))

    assert law in [fit(tuple(values), freedom) for freedom in FREEDOMS]


def test_an_outlier_hardly_moves_a_fit():
    """One response a thousand times as long as 20 others."""
    usual = drawn(LogT(90.0, 0.3), 20)
    before, after = fit(tuple(usual)), fit((*usual, 90_000.0))

    assert after.median == pytest.approx(before.median, rel=0.05)
    assert after.spread < 1.5 * before.spread


def pauses(schedule, stretch=1.0):
    """Pauses after looks at many moments."""
    waits = (Wait(elapsed=float(elapsed), remaining=math.inf, polls=1) for elapsed in range(0, 600, 7))
    return [schedule.delay(wait, stretch) for wait in waits]


def test_a_new_class_is_polled_by_the_tiers():
    """Nothing known, nothing changed."""
    assert schedule_for(History.empty(), Tiers()) == Tiers()
    assert pauses(schedule_for(history_of([90.0] * 2), Tiers())) == pauses(Tiers())


def test_a_new_class_with_a_bound_on_lag_is_polled_by_the_capped_tiers():
    """No pause is longer than the lag asked for, until the budget binds."""
    schedule = schedule_for(History.empty(), Tiers(), lag_p95=5.0)
    late = Wait(elapsed=400, remaining=1_000)

    assert schedule == Capped(Tiers(), 5.0)
    assert schedule.delay(late) == 5.0
    assert schedule.delay(late, stretch=4) == 10.0


def test_the_first_look_waits_until_a_finish_is_likely():
    """Of responses of about 90 s, none is looked at in its first quarter minute."""
    delay = LEARNED.delay(Wait(elapsed=0, remaining=1_800))

    assert 20 < delay < 60


@settings(deadline=None)
@given(wait=WAITS, stretch=anything)
def test_a_learned_schedule_answers_every_question_with_a_finite_pause(wait, stretch):
    """Whatever goes in, a usable pause comes out, and never past the deadline."""
    delay = LEARNED.delay(wait, stretch)

    assert FLOOR <= delay <= CEILING
    assert math.isnan(wait.remaining) or delay <= max(FLOOR, wait.remaining)


@settings(deadline=None)
@given(elapsed=st.floats(0, 1_000), stretch=st.floats(1, MAX_STRETCH), factor=st.floats(1.2, 10))
def test_a_dearer_poll_does_not_come_sooner(elapsed, stretch, factor):
    """The pause grows with the price, but for the steps in which plans are kept."""
    wait = Wait(elapsed=elapsed, remaining=math.inf)

    assert LEARNED.delay(wait, stretch) <= 1.05 * LEARNED.delay(wait, stretch * factor) + FLOOR


@given(elapsed=st.floats(0, 2_000), later=st.floats(0, 2_000))
def test_a_later_look_is_never_followed_by_an_earlier_one(elapsed, later):
    """The moment of the next look rises with the moment of this one."""
    first, second = sorted((elapsed, later))

    assert (
        first + LEARNED.delay(Wait(first, math.inf)) <= second + LEARNED.delay(Wait(second, math.inf)) + FLOOR
    )


def test_an_unlucky_response_is_still_looked_at():
    """Ten medians on, the pause is minutes, not hours."""
    assert LEARNED.delay(Wait(elapsed=900, remaining=math.inf)) < 120


@pytest.mark.parametrize(("median", "spread"), [(8.0, 0.2), (90.0, 0.5), (600.0, 0.8)])
def test_a_class_is_noticed_no_later_than_by_the_tiers_and_with_fewer_polls(median, spread):
    """The default price, under the fitted law itself."""
    law = LogT(median, spread, 6.0)
    times, alive = law.grid(1 / 100, 30.0)
    learned = Learned(law, price_of_tiers(law, Tiers()))
    ours = outlook(lambda now: now + learned.delay(Wait(now, math.inf)), times, alive)
    tiers = outlook(lambda now: now + Tiers().pause(now), times, alive)

    assert ours.lag <= 1.05 * tiers.lag
    assert ours.polls < 0.7 * tiers.polls


@pytest.mark.parametrize("lag", [3.0, 10.0, 60.0])
def test_a_bound_on_lag_is_kept_by_95_of_100_responses(lag):
    """And used: a much tighter one is not what was asked for."""
    law = LogT(90.0, 0.5, 6.0)
    times, alive = law.grid(1 / 100, 30.0)
    learned = Learned(law, price_for_p95(law, lag))
    late = late_share(lambda now: now + learned.delay(Wait(now, math.inf)), lag, times, alive)

    assert 0.03 < late < 0.06


def test_the_start_of_running_takes_the_queue_out_of_the_estimate():
    """Ten minutes in the queue, just started, runs of 20 s: looked at in that order of time."""
    history = history_of(drawn(LogT(300.0, 0.8), 40), ran=20.0)
    schedule = schedule_for(history, Tiers())
    wait = Wait(elapsed=600, remaining=1_200, started=1.0)

    assert 10 < schedule.delay(wait) < 25


def test_progress_moves_the_next_look_to_the_forecast_end():
    """Nine tenths done after 180 s: due at about 200, whatever the class is used to."""
    wait = Wait(elapsed=180, remaining=1_600, progress=0.9)

    assert LEARNED.delay(wait, stretch=10) < 40


def test_a_forecast_counts_for_more_the_less_is_left():
    """Weighed by the share still to do."""
    law = LogT(90.0, 0.5, 6.0)
    early, late = sharpened(law, 300.0, 0.1), sharpened(law, 300.0, 0.95)

    assert law.median < early.median < late.median < 300.0
    assert late.spread < early.spread < law.spread


def test_a_batch_is_young_until_its_first_responses_are_old():
    """By the medians of what is known of it: the quick ones alone make a class no older."""
    grown = history_of([20.0, 21.0, 22.0, 30.0], submitted_at=1_000.0)
    old = grown.add(20.0, submitted_at=1_000.0 + YOUNG * 22.0)

    assert (grown.longest, grown.span, grown.is_young) == (30.0, 30.0, True)
    assert not old.is_young
    assert not History.empty().is_young


def test_what_a_sample_cannot_have_shown_is_polled_by_the_tiers():
    """A response older than the oldest known, by the law up to there."""
    schedule = schedule_for(WARM_HISTORY, Tiers())
    older, younger = (Wait(WARM_HISTORY.span + more, math.inf, 1) for more in (1.0, -1.0))

    assert isinstance(schedule, Within)
    assert schedule.delay(older) == Tiers().delay(older)
    assert schedule.delay(younger) == schedule.schedule.delay(younger) != Tiers().delay(younger)


@given(wait=WAITS)
def test_a_young_class_is_polled_as_any_other_while_polls_are_not_dear(wait):
    """To the last digit."""
    schedule = schedule_for(BATCH, Tiers())

    assert isinstance(schedule, Young)
    assert schedule.delay(wait) == schedule.schedule.delay(wait)


def test_the_longest_duration_known_of_a_young_class_counts_as_an_estimate_when_polls_are_dear():
    """As if the caller had said it, once the price is high enough; a greater one of the caller's stays."""
    schedule = Young(Tiers(), 60.0, Tiers())
    first, told = (Wait(0.0, math.inf, expected=expected) for expected in (None, 60.0))

    assert schedule.delay(first, 2.0) == 2.0 * Tiers().delay(first)
    assert schedule.delay(first, 100.0) == Tiers().delay(told, 100.0) == 75.0
    assert schedule.delay(replace(first, expected=600.0), 400.0) == 900.0


@settings(deadline=None)
@given(wait=WAITS, stretch=anything)
def test_a_young_class_is_never_polled_sooner_for_being_young(wait, stretch):
    """Its pause is finite, within the deadline, and at least the other schedule's."""
    schedule = schedule_for(BATCH, Tiers())
    delay = schedule.delay(wait, stretch)

    assert FLOOR <= delay <= CEILING
    assert math.isnan(wait.remaining) or delay <= max(FLOOR, wait.remaining)
    assert delay >= schedule.schedule.delay(wait, stretch)


@settings(deadline=None)
@given(elapsed=st.floats(0, 1_000), stretch=st.floats(1, 50), polls=st.integers(0, 3))
def test_a_little_dearer_poll_is_a_little_later_in_a_young_class(elapsed, stretch, polls):
    """A hundredth on the price is a hundredth on the pause, but for the steps in which plans are kept."""
    schedule, wait = schedule_for(BATCH, Tiers()), Wait(elapsed, math.inf, polls)
    before, after = (schedule.delay(wait, price) for price in (stretch, 1.01 * stretch))

    assert 0.95 * before - FLOOR <= after <= 1.06 * before + FLOOR


def test_a_stretched_price_stops_where_a_response_takes_little_more_than_one_poll():
    """A thousandfold price does not put the first look hours away."""
    delay = LEARNED.delay(Wait(elapsed=0, remaining=math.inf), MAX_STRETCH)

    assert 100 < delay < 300
