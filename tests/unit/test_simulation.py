"""Polling in virtual time: the account adds up, limits are kept, and policies come in the known order."""

import json
import math
from random import Random

import pytest

from freddy_tasks.durations import Trace, Uniform, parse_distribution, read_trace
from freddy_tasks.frontier import frontier, optimum_at, tier_price
from freddy_tasks.hazards import LogT
from freddy_tasks.policies import parse_policy
from freddy_tasks.schedules import Tiers
from freddy_tasks.simulation import Limit, simulate

LAW = LogT(90.0, 0.5)


def drawn(count, law=LAW, seed=1):
    """So many durations."""
    random = Random(seed)
    return [law.sample(random) for _ in range(count)]


def run(policy, durations=None, law=LAW, **more):
    """Simulate a policy by its text."""
    return simulate(parse_policy(policy, law), durations or drawn(300), law=law, **more)


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("lognormal:90,0.5", LogT(90.0, 0.5)),
        ("logt:90,0.5,3", LogT(90.0, 0.5, 3.0)),
        ("fixed:20", Uniform(20.0, 20.0)),
        ("uniform:10,30", Uniform(10.0, 30.0)),
    ],
)
def test_a_distribution_is_read_from_its_text(text, law):
    """Four forms."""
    assert parse_distribution(text) == law


@pytest.mark.parametrize(
    "text",
    ["", "90", "normal:90,1", "lognormal:90", "lognormal:0,1", "lognormal:x,1", "uniform:3,2", "fixed:inf"],
)
def test_a_distribution_that_is_none_is_refused_with_the_forms_there_are(text):
    """The error shows how to write one."""
    with pytest.raises(ValueError, match="write lognormal:90"):
        parse_distribution(text)


@pytest.mark.parametrize(
    "text", ["", "fixed", "fixed:0", "backoff:1,1,20", "backoff:5,2,1", "tiers:1", "best"]
)
def test_a_policy_that_is_none_is_refused_with_the_forms_there_are(text):
    """The error shows how to write one."""
    with pytest.raises(ValueError, match="write tiers, fixed:5"):
        parse_policy(text, LAW)


def test_a_trace_is_read_from_durations_or_from_moments():
    """Numbers, Unix seconds, ISO moments; a line without them, or of a cancelled response, is passed over."""
    lines = [
        '{"duration": 12.5, "id": "a"}',
        '{"created_at": 100, "completed_at": 130}',
        '{"created_at": "2030-01-01T00:00:00Z", "completed_at": "2030-01-01T00:01:00Z"}',
        '{"created_at": 100, "completed_at": null}',
        '{"duration": 3, "status": "cancelled"}',
        "",
    ]

    assert read_trace(lines).durations == (12.5, 30.0, 60.0)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [(["{}"], "no line has"), ([], "no line has"), (['{"duration": 1}', "x"], "line 2"), (["[1]"], "line 1")],
)
def test_a_trace_without_durations_is_refused(lines, problem):
    """The error names the line, or says that there was none."""
    with pytest.raises(ValueError, match=problem):
        read_trace(lines)


def test_a_fixed_pause_is_counted_exactly():
    """Responses of 12 s looked at each 5 s: the third look, 3 s late."""
    result = run("fixed:5", [12.0] * 20, Uniform(12.0, 12.0), price=2.0)

    assert result.polls == pytest.approx(3.0)
    assert result.requests == result.polls + 1.0
    assert result.lag == pytest.approx(3.0, abs=0.5)
    assert result.cost == pytest.approx(result.lag + 2.0 * result.polls)
    assert result.best_cost == pytest.approx(2.0, abs=0.01)


def test_a_back_off_grows_to_its_most():
    """Looks after 1, 2, 4, 8, 8 s: a response of 20 s is found at 23."""
    result = run("backoff:1,2,8", [20.0] * 20, Uniform(20.0, 20.0))

    assert result.polls == pytest.approx(5.0)
    assert result.lag == pytest.approx(3.0, abs=0.7)


def test_a_response_that_never_ends_is_given_up_at_the_deadline():
    """And counted apart."""
    result = run("fixed:5", [10.0, 1e6], timeout=60.0)

    assert (result.responses, result.expired) == (1, 1)
    assert result.seconds == pytest.approx(60.0, abs=1.0)


def test_the_same_seed_gives_the_same_result():
    """And another one another."""
    first, again, other = (run("learned", per_hour=600, seed=seed) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_policies_come_in_their_known_order():
    """Optimum, learned, tiers, back-off: by cost, where responses come one by one."""
    durations = drawn(1_500)
    costs = [
        run(policy, durations, per_hour=400).over_optimum
        for policy in ("optimal", "learned", "tiers", "backoff:1,1.25,60")
    ]

    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(1.0, abs=0.03)
    assert costs[1] < 1.06
    assert costs[2] > 1.4


def test_nothing_ever_leaves_above_the_limit():
    """In no minute and no day, by counting what was sent."""
    limit = Limit(per_minute=60, per_day=900, at_once=10)
    result = run("learned", drawn(800), limit=limit, timeout=1e6)

    assert result.responses == 800
    assert result.busiest_minute <= 70
    assert result.busiest_day <= 900


def test_a_limit_that_binds_is_used_for_two_requests_a_response():
    """One to submit and hardly more than one to find it finished."""
    result = run("learned", drawn(2_000), limit=Limit(per_minute=100), timeout=1e6)

    assert result.requests < 2.2
    assert result.limit_used > 0.95
    assert result.stretch > 100


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("law", [LogT(8.0, 0.8), LogT(90.0, 0.2), LogT(600.0, 0.8), LogT(90.0, 0.5, 3.0)])
def test_the_first_batch_of_a_class_is_polled_by_the_tiers_to_its_end(law, seed):
    """What its quick responses teach is not turned on its slow ones: none costs more than by the tiers."""
    durations = drawn(300, law, seed)
    learned, tiers = (run(policy, durations, law, timeout=1e6) for policy in ("learned", "tiers"))

    assert learned == tiers


@pytest.mark.parametrize("seed", range(3))
def test_an_unknown_class_under_a_limit_that_binds_takes_little_more_than_two_requests(seed):
    """What is submitted before anything has settled profits from the longest response known so far."""
    durations = drawn(3_000, seed=seed)
    limit = Limit(per_minute=250, at_once=50)
    learned, tiers = (run(policy, durations, limit=limit, timeout=1e6) for policy in ("learned", "tiers"))

    assert learned.requests < 2.2 < tiers.requests


def test_a_day_that_is_used_up_is_waited_for():
    """To ask when a request may leave is to take none from the days to come."""
    result = run("fixed:600", [3_000.0] * 30, limit=Limit(per_day=100), timeout=1e6)

    assert result.responses == 30
    assert result.requests > 4.0
    assert result.busiest_day <= 100


def test_without_need_nothing_is_stretched():
    """A limit that does not bind changes nothing."""
    free, limited = (
        run("learned", per_hour=60, limit=limit) for limit in (None, Limit(per_minute=1_000, per_day=10**6))
    )

    assert limited.stretch == pytest.approx(1.0, abs=0.01)
    assert limited.polls == pytest.approx(free.polls, rel=0.01)
    assert free.limit_used is None


def test_what_arrives_over_time_is_submitted_over_time():
    """600 an hour take 50 for five minutes."""
    result = run("fixed:5", [1.0] * 600, per_hour=600)

    assert result.per_hour == pytest.approx(600, rel=0.15)


def test_a_result_is_plain_json():
    """For a report or a plot."""
    told = json.loads(json.dumps(run("tiers").to_json()))

    assert told["responses"] == 300
    assert told["over_optimum"] == pytest.approx(told["cost"] / told["best_cost"])


def test_the_frontier_falls():
    """More polls, less lag, cheaper polls: for every kind of law."""
    for law in (LAW, Uniform(10.0, 30.0), Trace(tuple(drawn(500)))):
        points = frontier(law, (1.5, 2, 4, 8))
        lags, prices = [point.lag for point in points], [point.price for point in points]

        assert lags == sorted(lags, reverse=True)
        assert prices == sorted(prices, reverse=True)


def test_a_trace_of_many_is_worth_as_much_as_their_law():
    """The optimum does not profit from the accidents of a sample."""
    trace = Trace(tuple(drawn(5_000)))

    assert optimum_at(trace, 2.0).cost(2.0) == pytest.approx(optimum_at(LAW, 2.0).cost(2.0), rel=0.05)


def test_the_tiers_price_makes_the_optimum_as_quick_as_the_tiers():
    """By simulation of both."""
    durations = drawn(2_000)
    best, tiers = (run(policy, durations, per_hour=600) for policy in ("optimal", "tiers"))

    assert best.price == pytest.approx(tier_price(LAW, Tiers()))
    assert best.lag == pytest.approx(tiers.lag, rel=0.05)
    assert best.polls < tiers.polls / 1.35


def test_no_limit_is_an_infinite_rate():
    """0 stands for none."""
    assert Limit().rate == math.inf
    assert Limit(per_minute=90).rate == 1.5


def test_no_response_waits_a_day_for_its_look() -> None:
    """The last requests of a day go to what is in flight: where one look is enough, nobody is late."""
    limit = Limit(per_minute=100, per_day=400, at_once=20)
    result = run("fixed:600", [300.0] * 500, limit=limit, timeout=1e6)

    assert result.polls == 1.0
    assert result.seconds > 86_400.0
    assert result.lag_p95 < 1_800.0
    assert result.busiest_day == 400
