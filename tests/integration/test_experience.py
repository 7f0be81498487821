"""The store of learned durations on a real Valkey."""

from __future__ import annotations

import itertools

import pytest
import redis

from freddy_tasks.budget import Budget
from freddy_tasks.experience import Experience
from freddy_tasks.ledger import LINE_PATIENCE, Ledger
from freddy_tasks.models import Job, Lane, Response, Status
from freddy_tasks.records import Held
from freddy_tasks.schedules import Tiers, Wait

TIERS = Tiers()
START = 1_800_000_000.0


def experience(state: redis.Redis, prefix: str) -> Experience:
    """One whose clock passes seconds at each look: it neither skips a lesson nor trusts its cache."""
    clock = itertools.count(step=3)
    return Experience(state, prefix, TIERS, monotonic=lambda: float(next(clock)))


def teach(store: Experience, job: Job, durations: list[float]) -> None:
    for number, duration in enumerate(durations):
        created = START + 1_000.0 * number
        body = Response("r", Status.COMPLETED, "completed", {}, created, completed_at=created + duration)
        store.learn(job, body)


def first_look(store: Experience, job: Job) -> float:
    return store.schedule(job).delay(Wait(elapsed=0.0, remaining=1_800.0))


def test_a_new_class_is_polled_by_the_tiers(state: redis.Redis, prefix: str) -> None:
    """Nothing is known of it yet."""
    job = Job(deadline=0, model="m")

    assert experience(state, prefix).schedule(job) == TIERS


def test_what_one_worker_learns_another_one_uses(state: redis.Redis, prefix: str) -> None:
    """The first look moves to where answers come."""
    job = Job(deadline=0, model="m", label="articles")
    teach(experience(state, prefix), job, [90.0, 92.0, 88.0, 91.0, 89.0, 90.0, 93.0, 87.0, 90.0, 91.0])
    look = first_look(experience(state, prefix), job)

    assert 60.0 < look < 120.0


def test_classes_do_not_mix(state: redis.Redis, prefix: str) -> None:
    """Another label, another model: another class."""
    teach(experience(state, prefix), Job(deadline=0, model="m", label="a"), [90.0] * 10)
    store = experience(state, prefix)

    assert store.schedule(Job(deadline=0, model="m", label="b")) == TIERS
    assert store.schedule(Job(deadline=0, model="n", label="a")) == TIERS


def test_a_response_without_times_teaches_nothing(state: redis.Redis, prefix: str) -> None:
    """No key appears for it."""
    store = experience(state, prefix)
    store.learn(Job(deadline=0, model="m"), Response("r", Status.COMPLETED, "completed", {}))

    assert list(state.scan_iter(f"{prefix}:*")) == []


def test_the_store_holds_no_label_and_expires(state: redis.Redis, prefix: str) -> None:
    """A label may be a customer's name."""
    teach(experience(state, prefix), Job(deadline=0, model="m", label="ACME"), [5.0])
    keys = list(state.scan_iter(f"{prefix}:*"))

    assert len(keys) == 1
    assert "ACME" not in keys[0]
    assert "ACME" not in state.get(keys[0])
    assert state.ttl(keys[0]) > 0


def test_a_binding_budget_makes_polls_dearer_and_eases_afterwards(state: redis.Redis, prefix: str) -> None:
    """One dispatcher in a second is told, and its price reaches every claim."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 60, 0, 61))
    for number in range(20):
        ledger.begin(f"t{number}", Job(deadline=0, model="m"), body={}, options={}, timeout=99, whole=False)
    told = ledger.pressure()
    assert told is not None
    ledger.price({Lane.INTERACTIVE: 1.0, Lane.NORMAL: 4.0, Lane.BATCH: 9.0})
    state.hset(ledger.budget.keys[0], mapping={"tokens": 1})
    (hop,) = ledger.pop().hops
    held = ledger.claim(hop.task_id, hop.generation)

    assert told.stretch == dict.fromkeys(Lane, 1.0)
    assert told.backlog[Lane.NORMAL] == pytest.approx(19 / 0.98, rel=0.1)
    assert ledger.pressure() is None
    assert getattr(held, "stretch", None) == 4.0


def lined_up(ledger: Ledger, count: int, lane: Lane = Lane.NORMAL) -> Ledger:
    """The ledger with so many submits more, of which the bucket lets at most the first one go."""
    job = Job(deadline=0, model="m", lane=lane)
    for number in range(count):
        ledger.begin(f"{lane}{number}", job, body={}, options={}, timeout=99, whole=False)
    return ledger


def second_later(ledger: Ledger) -> None:
    """Let the next dispatcher that asks be told."""
    ledger.redis.hdel(ledger.budget.keys[0], "priced")


def test_the_price_is_set_by_the_lines_of_all_apps_that_use_the_key(state: redis.Redis, prefix: str) -> None:
    """Whichever app's dispatcher is told, it is told of everybody's."""
    budget = Budget.of(prefix, 60, 0, 61)
    one, other = (Ledger(state, f"{prefix}:{name}", budget) for name in ("one", "other"))
    lined_up(one, 20)
    lined_up(other, 10)
    alone = one.pressure()
    unasked = other.pressure()
    second_later(one)
    both = one.pressure()
    second_later(other)
    from_other = other.pressure()

    assert alone is not None
    assert alone.backlog[Lane.NORMAL] == pytest.approx(19 / 0.98, rel=0.1)
    assert unasked is None
    assert both is not None
    assert both.backlog[Lane.NORMAL] == pytest.approx(29 / 0.98, rel=0.1)
    assert from_other is not None
    assert from_other.backlog[Lane.NORMAL] == pytest.approx(both.backlog[Lane.NORMAL], rel=0.1)
    assert 0 < state.ttl(f"{budget.keys[0]}:lines") <= LINE_PATIENCE


def test_the_line_of_an_app_that_fell_silent_is_not_counted(state: redis.Redis, prefix: str) -> None:
    """Nobody takes from it, so that it asks for nothing of the budget; its word is dropped."""
    budget = Budget.of(prefix, 60, 0, 61)
    one, other = (Ledger(state, f"{prefix}:{name}", budget) for name in ("one", "other"))
    lined_up(one, 20)
    lined_up(other, 10).pressure()
    state.hset(f"{budget.keys[0]}:lines", other.prefix, f"{state.time()[0] - LINE_PATIENCE - 1} 0 10 10")
    second_later(one)
    told = one.pressure()

    assert told is not None
    assert told.backlog[Lane.NORMAL] == pytest.approx(19 / 0.98, rel=0.1)
    assert state.hkeys(f"{budget.keys[0]}:lines") == [one.prefix]


def test_a_line_that_is_gone_is_gone_for_the_price(state: redis.Redis, prefix: str) -> None:
    """Each word replaces the one before."""
    budget = Budget.of(prefix, 60, 0, 61)
    one, other = (Ledger(state, f"{prefix}:{name}", budget) for name in ("one", "other"))
    lined_up(one, 20)
    lined_up(other, 10).pressure()
    for number in range(10):
        other.cancel(f"{Lane.NORMAL}{number}")
    other.pop()
    other.pressure()
    second_later(one)
    told = one.pressure()

    assert told is not None
    assert told.backlog[Lane.NORMAL] == pytest.approx(19 / 0.98, rel=0.1)


def test_a_line_makes_no_polls_dearer_but_those_that_stand_behind(state: redis.Redis, prefix: str) -> None:
    """A batch of thousands is nothing to the looks at a person's prompt, which go before it."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 60, 0, 160))
    bucket = ledger.budget.keys[0]
    state.hset(bucket, mapping={"tokens": 0, "updated": state.time()[0] + 1})
    lined_up(lined_up(lined_up(ledger, 40, Lane.BATCH), 8), 3, Lane.INTERACTIVE)
    told = ledger.pressure()
    ledger.price({Lane.INTERACTIVE: 1.0, Lane.NORMAL: 2.0, Lane.BATCH: 11.0})
    state.hset(bucket, mapping={"tokens": 60})
    claims = [ledger.claim(hop.task_id, hop.generation) for hop in ledger.pop().hops]

    assert told is not None
    assert told.backlog[Lane.INTERACTIVE] == pytest.approx(3 / 0.98, rel=0.1)
    assert told.backlog[Lane.NORMAL] == pytest.approx(11 / 0.98, rel=0.1)
    assert told.backlog[Lane.BATCH] == pytest.approx(51 / 0.98, rel=0.1)
    assert {held.job.lane: held.stretch for held in claims if isinstance(held, Held)} == {
        Lane.INTERACTIVE: 1.0,
        Lane.NORMAL: 2.0,
        Lane.BATCH: 11.0,
    }


def test_an_older_version_on_the_same_key_keeps_a_price_of_its_own(state: redis.Redis, prefix: str) -> None:
    """One number for all lanes: neither reads what the other has written, while workers are replaced."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 60, 0, 160))
    bucket, job = ledger.budget.keys[0], Job(deadline=0, model="m")
    state.hset(bucket, "stretch", "4")
    held = ledger.begin("t", job, body={}, options={}, timeout=99, whole=False)
    told = ledger.pressure()
    ledger.price(dict.fromkeys(Lane, 2.0))

    assert isinstance(held, Held)
    assert held.stretch == 1.0
    assert told is not None
    assert told.stretch == dict.fromkeys(Lane, 1.0)
    assert state.hget(bucket, "stretch") == "4"


def test_without_limits_there_is_no_pressure(state: redis.Redis, prefix: str) -> None:
    """Nothing to price."""
    assert Ledger(state, prefix, Budget.of(prefix, 0, 0, 0)).pressure() is None
