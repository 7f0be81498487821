"""Laws of duration: known values, and digits kept in the far tail."""

import math
from itertools import pairwise
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freddy_tasks.hazards import LogT, incomplete_beta, upper_quantile, upper_tail

laws = st.builds(
    LogT,
    median=st.floats(0.1, 1e5),
    spread=st.floats(0.05, 1.0) | st.floats(0.05, 3.0),
    freedom=st.just(math.inf) | st.floats(1.0, 200.0),
)

usual = laws.filter(lambda law: law.freedom >= 3.0 and law.spread <= 1.0)
"""Laws whose quantiles are not under an instant."""


@pytest.mark.parametrize(
    ("z", "freedom", "tail"),
    [
        (0.0, 6.0, 0.5),
        (1.0, 1.0, 0.25),  # Cauchy: 1/2 - arctan(1)/pi
        (2.0, 2.0, 0.5 - 1.0 / math.sqrt(6.0)),  # closed form of two degrees
        (2.0, 5.0, 0.0509697394),  # printed tables
        (3.0, 6.0, 0.0120041),
        (-2.0, 5.0, 0.9490302606),
        (1.959964, math.inf, 0.025),
    ],
)
def test_the_upper_tail_agrees_with_printed_tables(z, freedom, tail):
    """Student and normal values to six digits."""
    assert upper_tail(z, freedom) == pytest.approx(tail, rel=1e-5)


def test_a_power_law_tail_keeps_its_digits():
    """A Cauchy a million million spreads out still has its 1/(pi z)."""
    assert upper_tail(1e12, 1.0) == pytest.approx(1.0 / (math.pi * 1e12), rel=1e-12)


def test_the_normal_hazard_survives_where_density_and_tail_underflow():
    """Past 38 spreads both are 0 in floats; the hazard is nearly z."""
    law = LogT(median=1.0, spread=1.0)
    far = math.exp(50.0)

    assert law.sf(far) == 0.0
    assert law.hazard(far) * far == pytest.approx(50.0199840319, rel=1e-9)


def test_the_two_ways_to_the_normal_hazard_meet():
    """The fraction takes over from the quotient without a step."""
    law = LogT(median=1.0, spread=1.0)
    before, after = (law.hazard(math.exp(z)) * math.exp(z) for z in (19.999999, 20.000001))

    assert after == pytest.approx(before, rel=1e-6)


@given(law=usual, share=st.floats(0.001, 0.999))
def test_a_quantile_is_where_the_tail_is_what_is_left(law, share):
    """Sf is the inverse of quantile."""
    assert law.sf(law.quantile(share)) == pytest.approx(1.0 - share, rel=1e-6)


@given(law=usual, share=st.floats(0.01, 0.99), elapsed=st.floats(0.0, 1e8))
def test_a_quantile_after_some_time_is_later_than_that_time(law, share, elapsed):
    """Conditioning on being unfinished never points to the past, however improbable the wait is."""
    moment = law.quantile_after(share, elapsed)

    assert elapsed <= moment < math.inf
    if law.sf(elapsed) > 1e-6:
        assert law.sf(moment) / law.sf(elapsed) == pytest.approx(1.0 - share, rel=1e-3)


@given(law=laws, t=st.floats(0.0, 1e12))
def test_every_function_is_finite_and_not_negative(law, t):
    """No time overflows, divides by zero, or gives less than nothing."""
    assert 0.0 <= law.sf(t) <= 1.0
    assert 0.0 <= law.pdf(t) < math.inf
    assert 0.0 <= law.hazard(t) < math.inf


@given(law=laws)
def test_the_hazard_is_the_slope_of_the_log_survival(law):
    """Against a difference quotient at the upper quartile."""
    t = law.quantile(0.75)
    step = 1e-5 * t * law.spread
    slope = -(math.log(law.sf(t + step)) - math.log(law.sf(t - step))) / (2.0 * step)

    assert law.hazard(t) == pytest.approx(slope, rel=1e-4)


@given(law=laws)
def test_a_grid_rises_from_zero_and_loses_nobody_on_the_way(law):
    """Times rise strictly; the share unfinished falls from one."""
    times, alive = law.grid()

    assert times[0] == 0.0
    assert alive[0] == 1.0
    assert all(left < right for left, right in pairwise(times))
    assert all(first >= second for first, second in pairwise(alive))


@pytest.mark.parametrize("law", [LogT(90.0, 0.5), LogT(90.0, 0.5, 3.0)])
def test_samples_have_the_quartiles_of_the_law(law):
    """4,000 draws: the median within five standard errors, the upper quartile with it."""
    random = Random(7)
    drawn = [law.sample(random) for _ in range(4_000)]
    upper = sorted(drawn)[3_000]

    assert median(drawn) == pytest.approx(90.0, rel=0.06)
    assert upper == pytest.approx(law.quantile(0.75), rel=0.08)


@given(x=st.floats(0.0, 1.0), a=st.floats(0.5, 50.0))
def test_the_incomplete_beta_is_one_minus_its_mirror_image(x, a):
    """I_x(a, b) + I_{1-x}(b, a) = 1."""
    rest = 1.0 - x
    both = incomplete_beta(x, a, 0.5, rest=rest) + incomplete_beta(rest, 0.5, a, rest=x)

    assert both == pytest.approx(1.0, abs=1e-12)


def test_an_upper_quantile_mirrors_around_the_middle():
    """The lower tail is the upper one with its sign turned."""
    assert upper_quantile(0.9, 6.0) == pytest.approx(-upper_quantile(0.1, 6.0))
