"""The shared budget on a real Valkey: what leaves, when, and for whom."""

from __future__ import annotations

import pytest
import redis

from freddy_tasks.budget import Budget
from freddy_tasks.ledger import Ledger
from freddy_tasks.models import Job, Lane
from freddy_tasks.records import Held, LinedUp, Phase

PER_MINUTE, BURST = 600, 605


@pytest.fixture
def ledger(state: redis.Redis, prefix: str) -> Ledger:
    return Ledger(state, prefix, Budget.of(prefix, PER_MINUTE, 0, BURST))


def begin(ledger: Ledger, name: str, lane: Lane = Lane.NORMAL) -> bool:
    """True when the submit may leave at once."""
    job = Job(deadline=0.0, model="m", lane=lane)
    answer = ledger.begin(name, job, body={}, options={}, timeout=100.0, whole=False)
    assert isinstance(answer, Held | LinedUp)
    return isinstance(answer, Held)


def refuse(ledger: Ledger) -> float:
    """A 429 without a hint; the seconds of its pause, which are over at once."""
    pause = ledger.heed(refused=True, retry_in=None, per_minute=None, remaining=None)
    ledger.redis.hset(ledger.budget.keys[0], "paused_until", ledger.redis.time()[0] - 1)
    return pause


def set_tokens(ledger: Ledger, tokens: float) -> None:
    now = ledger.redis.time()
    ledger.redis.hset(ledger.budget.keys[0], mapping={"tokens": tokens, "updated": now[0] + now[1] / 1e6})


def test_no_more_than_the_burst_leaves_at_once(ledger: Ledger) -> None:
    """The rest lines up; nothing sleeps and nothing fails."""
    granted = [begin(ledger, f"t{n}") for n in range(20)]

    assert granted == [True] * 5 + [False] * 15


def test_what_is_lined_up_leaves_in_order_as_requests_come_free(ledger: Ledger) -> None:
    """First come, first served, one request each."""
    for n in range(5 + 4):
        begin(ledger, f"t{n}")
    set_tokens(ledger, 2)
    popped = ledger.pop()

    assert [hop.task_id for hop in popped.hops] == ["t5", "t6"]
    assert popped.lined_up == 2
    assert popped.wait is not None
    assert 0 < popped.wait <= 60 / PER_MINUTE / 0.9


def test_submits_and_looks_take_turns(ledger: Ledger) -> None:
    """Neither starves the other when requests are short."""
    for n in range(4):
        held = ledger.begin(f"w{n}", Job(deadline=0, model="m"), body={}, options={}, timeout=99, whole=False)
        assert isinstance(held, Held)
        ledger.park(held, Phase.WAITING, held.job, 0.0)
    set_tokens(ledger, 0)
    for n in range(4):
        begin(ledger, f"s{n}")
    ledger.pop()
    set_tokens(ledger, 5)
    kinds = [hop.phase for hop in ledger.pop().hops]

    assert kinds[:4] == [Phase.WAITING, Phase.QUEUED, Phase.WAITING, Phase.QUEUED]


def test_a_refusal_pauses_everybody_for_as_long_as_it_says(ledger: Ledger) -> None:
    """No request leaves before Retry-After, and none are saved up for afterwards."""
    paused = ledger.heed(refused=True, retry_in=30.0, per_minute=None, remaining=None)
    granted = begin(ledger, "t")
    popped = ledger.pop()

    assert paused == pytest.approx(30.0, abs=0.1)
    assert not granted
    assert popped.hops == ()
    assert popped.wait == pytest.approx(30.0, abs=0.5)
    assert float(ledger.redis.hget(ledger.budget.keys[0], "tokens")) == 0


def test_a_refusal_without_a_hint_pauses_longer_each_time(ledger: Ledger) -> None:
    """Doubling from one second, until a call goes through."""
    first, second, third = refuse(ledger), refuse(ledger), refuse(ledger)
    ledger.heed(refused=False, retry_in=None, per_minute=100, remaining=50)
    again = refuse(ledger)

    assert (first, second, third) == (
        pytest.approx(1, abs=0.1),
        pytest.approx(2, abs=0.1),
        pytest.approx(4, abs=0.1),
    )
    assert again == pytest.approx(1, abs=0.1)


def test_refusals_of_one_moment_are_one_refusal(ledger: Ledger) -> None:
    """Those that left before the pause began say nothing new, however many workers there are."""
    pauses = [ledger.heed(refused=True, retry_in=None, per_minute=None, remaining=None) for _ in range(16)]

    assert max(pauses) == 1.0


def test_a_refusal_long_after_the_last_begins_again_at_one_second(ledger: Ledger) -> None:
    """An API that names no limits says nothing of the calls that went through between."""
    refuse(ledger)
    refuse(ledger)
    ledger.redis.hset(ledger.budget.keys[0], "paused_until", ledger.redis.time()[0] - 100)
    again = refuse(ledger)

    assert again == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("told", "expected"), [(60, 60 * 0.98 / 60), (6000, None)], ids=["lower limit", "higher limit"]
)
def test_the_servers_limit_only_lowers_ours(ledger: Ledger, told: int, expected: float | None) -> None:
    """The plan's setting is the ceiling."""
    ledger.heed(refused=False, retry_in=None, per_minute=told, remaining=None)
    rate = ledger.redis.hget(ledger.budget.keys[0], "rate")

    assert (None if rate is None else float(rate)) == (None if expected is None else pytest.approx(expected))


def test_what_the_server_has_left_is_the_most_that_leaves(ledger: Ledger) -> None:
    """Somebody else may use the same key."""
    ledger.heed(refused=False, retry_in=None, per_minute=None, remaining=1)

    assert [begin(ledger, "a"), begin(ledger, "b")] == [True, False]


def test_the_day_is_counted_over_24_hours(state: redis.Redis, prefix: str) -> None:
    """A spent day is no failure: the rest waits for the hour that expires."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 0, 3, 0))
    granted = begin(ledger, "t")
    state.hset(ledger.budget.keys[1], state.time()[0] // 900, 3)
    state.hdel(ledger.budget.keys[0], "slot")  # so that the day is counted anew
    refused = begin(ledger, "later")
    popped = ledger.pop()

    assert (granted, refused) == (True, False)
    assert popped.hops == ()
    assert popped.wait is not None
    assert popped.wait > 0


def test_two_keys_have_two_budgets_and_one_key_has_one(state: redis.Redis, prefix: str) -> None:
    """The key itself is nowhere in Redis."""
    one, same, other = (
        Ledger(state, f"{prefix}:{n}", Budget.of(key, 60, 0, 61))
        for n, key in enumerate([f"{prefix}-secret", f"{prefix}-secret", f"{prefix}-other"])
    )

    assert [begin(one, "a"), begin(same, "b"), begin(other, "c")] == [True, False, True]
    assert not [key for key in state.scan_iter("*") if "secret" in key]


def test_the_last_requests_of_a_day_are_for_looks(state: redis.Redis, prefix: str) -> None:
    """Three in flight and four requests left: another submit would leave one without a look."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 0, 7, 7))
    for n in range(3):
        held = ledger.begin(f"w{n}", Job(deadline=0, model="m"), body={}, options={}, timeout=99, whole=False)
        assert isinstance(held, Held)
        ledger.park(held, Phase.WAITING, held.job, 0.0)
    granted = begin(ledger, "s")
    popped = ledger.pop()

    assert not granted
    assert [hop.phase for hop in popped.hops] == [Phase.WAITING] * 3
    assert popped.lined_up == 1
    assert popped.wait is not None
    assert popped.wait > 0.0


def test_a_day_of_one_request_is_not_withheld_from_an_idle_app(state: redis.Redis, prefix: str) -> None:
    """Nothing in flight needs it."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 0, 1, 1))

    assert begin(ledger, "s")
