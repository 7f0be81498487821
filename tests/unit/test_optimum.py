"""The exact program, against a brute force, the closed forms, and the published frontier."""

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freddy_tasks.frontier import frontier
from freddy_tasks.hazards import LogT
from freddy_tasks.optimum import best_plan, keller_plan, late_share, mean, outlook


def cost_of(looks, times, alive, price):
    """Cost of looking at these indices, by the definition."""
    places = [0, *looks]
    return sum(
        alive[place] * (price + times[following] - times[place]) for place, following in pairwise(places)
    )


grids = st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.0, 1.0)), min_size=2, max_size=8)


@given(steps=grids, price=st.floats(0.01, 20.0))
def test_the_program_finds_what_trying_everything_finds(steps, price):
    """On small grids every set of looks is tried; the last time is always one of them."""
    times, alive = [0.0], [1.0]
    for step, share in steps:
        times.append(times[-1] + step)
        alive.append(alive[-1] * share)
    alive[-1] = 0.0
    last = len(times) - 1
    tried = min(
        cost_of((*looks, last), times, alive, price)
        for count in range(last)
        for looks in combinations(range(1, last), count)
    )
    plan = best_plan(times, alive, price)
    looks, place = [], 0
    while place < last:
        place = times.index(plan.following[place]) if place < len(plan.following) else last
        looks.append(place)

    assert cost_of(looks, times, alive, price) == pytest.approx(tried)


FRONTIER = {
    (8.0, 0.5): (4.9, 3.3, 2.1, 1.2, 0.88, 0.57, 0.42),
    (90.0, 0.2): (20, 14, 9.3, 5.7, 4.2, 2.7, 2.0),
    (90.0, 0.5): (55, 37, 23, 14, 9.9, 6.4, 4.7),
    (90.0, 0.8): (103, 66, 39, 22, 16, 10, 7.4),
    (600.0, 0.5): (368, 246, 155, 92, 66, 42, 31),
}


@pytest.mark.parametrize(("median", "spread"), FRONTIER)
def test_the_frontier_is_the_one_computed_elsewhere(median, spread):
    """Polls times lag, within 4 % of a two-digit table made by an independent program."""
    points = frontier(LogT(median, spread), (1.25, 1.5, 2, 3, 4, 6, 8))

    for point, lag, polls in zip(points, FRONTIER[median, spread], (1.25, 1.5, 2, 3, 4, 6, 8), strict=True):
        assert point.polls * point.lag == pytest.approx(polls * lag, rel=0.04)


@pytest.mark.parametrize(("spread", "k"), [(0.2, 0.364), (0.5, 0.732), (0.8, 0.913)])
def test_polls_times_lag_tend_to_the_bound_of_cauchy_and_schwarz(spread, k):
    """With many looks N L is k E[T] / 2."""
    law = LogT(1.0, spread)
    times, alive = law.grid(1 / 200)
    look = outlook(keller_plan(times, alive, 1e-5).next_look, times, alive)
    bound = 0.5 * k * math.exp(spread * spread / 2.0)

    assert look.polls > 100
    assert look.polls * look.lag == pytest.approx(bound, rel=0.01)


def test_the_mean_of_a_grid_is_that_of_the_law():
    """The log-normal has a closed form."""
    assert mean(*LogT(90.0, 0.5).grid(1 / 100)) == pytest.approx(90.0 * math.exp(0.125), rel=1e-4)


def test_looking_at_one_pause_costs_what_arithmetic_says():
    """Durations even between 0 and 100 s, a look each 10 s: 5.5 polls, 5 s of lag."""
    times = tuple(float(t) for t in range(101))
    alive = tuple(1.0 - t / 100.0 for t in times)
    look = outlook(lambda now: now + 10.0, times, alive)

    assert look.polls == pytest.approx(5.5)
    assert look.lag == pytest.approx(5.0)
    assert look.cost(2.0) == pytest.approx(16.0)


def test_the_share_noticed_late_is_the_part_of_the_gaps_beyond_the_limit():
    """Even durations, gaps of 10: three tenths wait longer than 7."""
    times = tuple(float(t) for t in range(101))
    alive = tuple(1.0 - t / 100.0 for t in times)

    assert late_share(lambda now: now + 10.0, 7.0, times, alive) == pytest.approx(0.3)


@settings(deadline=None)
@given(
    spread=st.floats(0.05, 3.0),
    freedom=st.sampled_from([3.0, 6.0, math.inf]),
    price=st.floats(1e-6, 100.0),
    elapsed=st.floats(0.0, 1e6),
)
def test_a_plan_always_goes_forward(spread, freedom, price, elapsed):
    """Any law, price and moment, beyond the grid too: the next look is later, and the plan ends."""
    times, alive = LogT(1.0, spread, freedom).grid()

    for plan in (best_plan(times, alive, price), keller_plan(times, alive, price)):
        assert elapsed < plan.next_look(elapsed) < math.inf
