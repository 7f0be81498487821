"""The ledger's transitions on a real Valkey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry

from freddy_tasks.budget import Budget
from freddy_tasks.ledger import Ledger
from freddy_tasks.models import Job, Lane
from freddy_tasks.records import Fenced, Gone, Held, LinedUp, Parked, Phase, Popped

UNLIMITED = Budget.of("key", 0, 0, 0)


@pytest.fixture
def ledger(state: redis.Redis, prefix: str) -> Ledger:
    return Ledger(state, prefix, UNLIMITED, lease=60.0)


def job(**fields: object) -> Job:
    return Job(**{"deadline": 0.0, "model": "gpt-4.1", **fields})


def begin(ledger: Ledger, task_id: str = "t1", lane: Lane = Lane.NORMAL) -> Held | LinedUp | Fenced:
    return ledger.begin(
        task_id, job(lane=lane), body={"args": ["p"]}, options={"queue": "q"}, timeout=100.0, whole=False
    )


def waiting(ledger: Ledger, task_id: str = "t1", delay: float = 0.0) -> Job:
    """A response that was submitted and waits for its poll."""
    held = begin(ledger, task_id)
    assert isinstance(held, Held)
    submitted = job(response_id="resp_1", submitted_at=held.now, deadline=held.job.deadline)
    assert isinstance(ledger.park(held, Phase.WAITING, submitted, delay), Parked)
    return submitted


def pop_one(ledger: Ledger) -> tuple[Popped, str, int]:
    popped = ledger.pop()
    (hop,) = popped.hops
    return popped, hop.task_id, hop.generation


def test_a_submit_is_granted_once(ledger: Ledger) -> None:
    """A redelivered submit finds the record and is turned away."""
    first, second = begin(ledger), begin(ledger)

    assert isinstance(first, Held)
    assert first.phase is Phase.QUEUED
    assert first.job.deadline == pytest.approx(first.now + 100.0, abs=0.01)
    assert second == Fenced(Phase.SENT)


def test_a_parked_job_comes_back_when_due_with_its_options_and_without_its_prompt(
    ledger: Ledger, state: redis.Redis
) -> None:
    """The prompt leaves the ledger as soon as the id is on record."""
    submitted = waiting(ledger)
    popped = ledger.pop()

    (hop,) = popped.hops
    assert hop.phase is Phase.WAITING
    assert hop.generation == 2
    assert hop.options == {"queue": "q"}
    assert hop.body == {}
    assert hop.job.response_id == submitted.response_id
    assert not hop.recovered
    assert not state.hexists(f"{ledger.prefix}:job:t1", "body")


def test_a_job_is_not_due_before_its_time(ledger: Ledger) -> None:
    """The waiting room tells how long there is nothing to do."""
    waiting(ledger, delay=30.0)
    popped = ledger.pop()

    assert popped.hops == ()
    assert popped.wait == pytest.approx(30.0, abs=1.0)


def test_only_one_of_two_deliveries_may_act(ledger: Ledger) -> None:
    """A duplicate of a message loses the claim."""
    waiting(ledger)
    _, task_id, generation = pop_one(ledger)

    assert isinstance(ledger.claim(task_id, generation), Held)
    assert ledger.claim(task_id, generation) == Fenced(Phase.WAITING)
    assert ledger.claim(task_id, generation - 1) == Fenced(Phase.WAITING)


def test_an_unknown_id_is_gone(ledger: Ledger) -> None:
    """A flushed ledger is told apart from a finished job."""
    assert ledger.claim("nobody", 1) == Gone()


def test_a_lost_poll_comes_back_after_its_lease_and_says_so(state: redis.Redis, prefix: str) -> None:
    """Nothing but the lease is needed to recover a poll."""
    ledger = Ledger(state, prefix, UNLIMITED, lease=0.0)
    waiting(ledger)
    first = ledger.pop()
    again = ledger.pop()

    assert [hop.recovered for hop in (*first.hops, *again.hops)] == [False, True]
    assert again.hops[0].generation == first.hops[0].generation + 1


def test_an_unclaimed_hop_waits_twice_as_long_each_time(state: redis.Redis, prefix: str) -> None:
    """A long queue in the broker is not fed with copies."""
    ledger = Ledger(state, prefix, UNLIMITED, lease=60.0)
    waiting(ledger)
    waits = []
    for _ in range(3):
        ledger.pop()
        due = float(state.zscore(f"{prefix}:due", "t1"))
        waits.append(due - float(state.time()[0]))
        state.zadd(f"{prefix}:due", {"t1": 0})

    assert waits == [pytest.approx(60, abs=2), pytest.approx(120, abs=2), pytest.approx(240, abs=2)]


@pytest.mark.parametrize("is_claimed", [False, True], ids=["taken", "killed"])
def test_a_hop_that_is_handed_back_goes_to_another_worker_at_once(ledger: Ledger, is_claimed: bool) -> None:
    """Its own worker, should it go on after all, can write nothing."""
    waiting(ledger)
    _, task_id, generation = pop_one(ledger)
    held = ledger.claim(task_id, generation) if is_claimed else None
    handed_back = [ledger.hand_back(task_id, generation + 1), ledger.hand_back(task_id, generation)]
    (hop,) = ledger.pop().hops

    assert handed_back == [False, True]
    assert (hop.task_id, hop.generation, hop.recovered) == (task_id, generation + 1, True)
    assert isinstance(ledger.claim(task_id, generation), Fenced)
    if isinstance(held, Held):
        assert isinstance(ledger.park(held, Phase.WAITING, held.job, 1.0), Fenced)


def test_a_submit_on_its_way_and_a_job_that_waits_are_not_handed_back(ledger: Ledger) -> None:
    """The one may still arrive, the other has no hop."""
    begin(ledger)
    sent = ledger.hand_back("t1", 1)
    waiting(ledger, "t2", delay=60.0)

    assert not sent
    assert not ledger.hand_back("t2", 1)
    assert ledger.pop().hops == ()


def test_an_outcome_is_kept_until_celery_has_it(ledger: Ledger, state: redis.Redis) -> None:
    """A settled job hands out its outcome again until it is closed."""
    waiting(ledger)
    _, task_id, generation = pop_one(ledger)
    held = ledger.claim(task_id, generation)
    assert isinstance(held, Held)
    assert ledger.settle(held, {"result": {"id": "resp_1"}}, held.job)
    state.zadd(f"{ledger.prefix}:due", {"t1": 0})
    (hop,) = ledger.pop().hops
    again = ledger.claim(hop.task_id, hop.generation)

    assert isinstance(again, Held)
    assert again.phase is Phase.SETTLED
    assert again.recovered
    assert again.outcome == {"result": {"id": "resp_1"}}
    assert not ledger.close(task_id, generation)
    assert ledger.close(task_id, again.generation)
    assert ledger.pop().wait is None
    assert ledger.claim(hop.task_id, hop.generation) == Fenced(Phase.CLOSED)


def test_a_submit_that_died_is_handed_out_as_sent(state: redis.Redis, prefix: str) -> None:
    """Intent without an id is an unknown outcome, never a second submit."""
    ledger = Ledger(state, prefix, UNLIMITED, lease=0.0)
    begin(ledger)
    (hop,) = ledger.pop().hops
    held = ledger.claim(hop.task_id, hop.generation)

    assert hop.body == {"args": ["p"]}
    assert isinstance(held, Held)
    assert held.phase is Phase.SENT


def test_cancel_fences_a_poll_in_flight(ledger: Ledger) -> None:
    """The holder of a poll can neither park nor settle once the job is cancelled."""
    waiting(ledger)
    _, task_id, generation = pop_one(ledger)
    held = ledger.claim(task_id, generation)
    assert isinstance(held, Held)

    assert ledger.cancel(task_id) is Phase.WAITING
    assert ledger.park(held, Phase.WAITING, held.job, 1.0) == Fenced(Phase.CANCELLING)
    assert not ledger.settle(held, {"result": {}}, held.job)
    (hop,) = ledger.pop().hops
    assert hop.phase is Phase.CANCELLING
    assert ledger.cancel(task_id) is Phase.CANCELLING


def test_cancel_of_a_submit_in_flight_waits_for_its_id(ledger: Ledger) -> None:
    """The id is needed to cancel at the API, so the holder's own write turns into the cancel."""
    held = begin(ledger)
    assert isinstance(held, Held)

    assert ledger.cancel("t1") is Phase.SENT
    parked = ledger.park(held, Phase.WAITING, job(response_id="resp_1"), 5.0)
    assert isinstance(parked, Parked)
    assert parked.phase is Phase.CANCELLING
    (hop,) = ledger.pop().hops
    assert hop.phase is Phase.CANCELLING
    assert hop.job.response_id == "resp_1"


def test_a_cancel_before_the_submit_arrives_wins(ledger: Ledger) -> None:
    """A revoke may overtake the message it is about."""
    assert ledger.cancel("t1") is None
    assert begin(ledger) == Fenced(Phase.CANCELLED)


def test_a_suspended_job_is_listed_and_revived(ledger: Ledger) -> None:
    """A person decides; nothing happens until then."""
    waiting(ledger)
    _, task_id, generation = pop_one(ledger)
    held = ledger.claim(task_id, generation)
    assert isinstance(held, Held)
    ledger.settle(held, {"error": {}}, held.job, after=Phase.SUSPENDED)
    ledger.close(task_id, generation)

    assert [record.task_id for record in ledger.suspended()] == ["t1"]
    assert ledger.pop().wait is None
    assert ledger.revive("t1", Phase.WAITING, 100.0)
    assert ledger.suspended() == ()
    assert [hop.phase for hop in ledger.pop().hops] == [Phase.WAITING]


@pytest.fixture
def lose_reply(state: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """Cut the connection right after the next reply to a script: the client library calls it again."""
    state.set_retry(Retry(NoBackoff(), 1))
    read = AbstractConnection.read_response
    armed: list[bool] = []
    lost: list[Any] = []

    def read_or_lose(self: AbstractConnection, *args: Any, **options: Any) -> Any:
        reply = read(self, *args, **options)
        if armed and isinstance(reply, list):
            armed.clear()
            lost.append(reply)
            raise redis.exceptions.ConnectionError("cut off")
        return reply

    def arm() -> list[Any]:
        armed.append(True)
        return lost

    monkeypatch.setattr(AbstractConnection, "read_response", read_or_lose)
    return arm


def suspend(ledger: Ledger, task_id: str) -> None:
    """A response whose task has failed, and which may be taken up again."""
    waiting(ledger, task_id)
    held = ledger.claim(*pop_one(ledger)[1:])
    assert isinstance(held, Held)
    ledger.settle(held, {"error": {}}, held.job, Phase.SUSPENDED)
    ledger.close(task_id, held.generation)


def test_a_revival_is_told_though_its_first_reply_was_lost(
    ledger: Ledger, lose_reply: Callable[[], list[Any]]
) -> None:
    """Whoever asked hears that it goes on; nobody else does."""
    suspend(ledger, "t1")
    lost = lose_reply()
    revived = ledger.revive("t1", Phase.WAITING, 100.0)

    assert lost == [["revived", "waiting"]]
    assert revived
    assert not ledger.revive("t1", Phase.WAITING, 100.0)
    assert len(ledger.pop().hops) == 1


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.SENT, Phase.SUSPENDED, None])
def test_a_cancel_is_told_though_its_first_reply_was_lost(
    ledger: Ledger, lose_reply: Callable[[], list[Any]], phase: Phase | None
) -> None:
    """In which phase it came, and whether there was anything to cancel."""
    match phase:
        case Phase.WAITING:
            waiting(ledger)
        case Phase.SENT:
            begin(ledger)
        case Phase.SUSPENDED:
            suspend(ledger, "t1")
    lost = lose_reply()
    found = ledger.cancel("t1")

    assert len(lost) == 1
    assert found is phase


def test_a_cancel_that_is_done_before_its_reply_was_repeated_is_told(state: redis.Redis, prefix: str) -> None:
    """The client library may be slower than the worker that cancels."""

    class Slow(Ledger):
        """Calls each cancel again when all has been done."""

        def _run(self, name: str, *args: Any, **options: Any) -> Any:
            answer = super()._run(name, *args, **options)
            if name != "cancel":
                return answer
            held = self.claim(*pop_one(self)[1:])
            assert isinstance(held, Held)
            assert self.close(held.task_id, held.generation)
            return super()._run(name, *args, **options)

    ledger = Slow(state, prefix, UNLIMITED)
    waiting(ledger)

    assert ledger.cancel("t1") is Phase.WAITING


def test_a_record_that_was_lost_is_rebuilt_once(ledger: Ledger, lose_reply: Callable[[], list[Any]]) -> None:
    """It waits for a poll that is due now; a record that is there stays as it is."""
    known = job(response_id="resp_1")
    lost = lose_reply()
    rebuilt = ledger.rebuild("t1", known, options={"routing_key": "q"}, timeout=100.0)
    (hop,) = ledger.pop().hops

    assert len(lost) == 1
    assert rebuilt
    assert not ledger.rebuild("t1", known, options={}, timeout=100.0)
    assert (hop.phase, hop.job.response_id, hop.options) == (Phase.WAITING, "resp_1", {"routing_key": "q"})
    assert isinstance(ledger.claim("t1", hop.generation), Held)


def test_a_full_budget_lines_submits_up_by_lane(state: redis.Redis, prefix: str) -> None:
    """An interactive prompt passes a batch that came first."""
    state.delete(*Budget.of("lanes", 60, 0, 61).keys)
    ledger = Ledger(state, prefix, Budget.of("lanes", 60, 0, 61))
    answers = [begin(ledger, f"b{n}", Lane.BATCH) for n in range(3)]
    begin(ledger, "i", Lane.INTERACTIVE)
    state.hset(ledger.budget.keys[0], mapping={"tokens": 1})

    assert [type(answer) for answer in answers] == [Held, LinedUp, LinedUp]
    assert [hop.task_id for hop in ledger.pop().hops] == ["i"]


def test_a_released_request_is_paid_for(state: redis.Redis, prefix: str) -> None:
    """The claim that follows a release takes no second request."""
    ledger = Ledger(state, prefix, Budget.of("paid", 60, 0, 61))
    state.delete(*ledger.budget.keys)
    begin(ledger, "a")
    begin(ledger, "b")
    state.hset(ledger.budget.keys[0], mapping={"tokens": 1})
    (hop,) = ledger.pop().hops

    held = ledger.claim(hop.task_id, hop.generation)
    assert isinstance(held, Held)
    assert held.phase is Phase.QUEUED
    assert float(state.hget(ledger.budget.keys[0], "tokens")) < 1


def test_a_new_key_without_limits_leaves_nothing_for_ever(state: redis.Redis, prefix: str) -> None:
    """Jobs that lined up for the plan of the old key leave by the new one, which has no other books."""
    limited = Ledger(state, prefix, Budget.of(f"{prefix}:old", 60, 0, 61))
    begin(limited, "a")
    begin(limited, "b")
    renewed = Ledger(state, prefix, Budget.of(f"{prefix}:new", 0, 0, 0))
    popped = renewed.pop()

    assert [hop.task_id for hop in popped.hops] == ["b"]
    assert state.ttl(renewed.budget.keys[0]) != -1


def test_every_key_expires(ledger: Ledger, state: redis.Redis) -> None:
    """No key is left behind for ever, whatever happens."""
    waiting(ledger, "a")
    begin(ledger, "b")
    ledger.pop()
    ledger.cancel("c")
    keys = list(state.scan_iter(f"{ledger.prefix}:*"))

    assert keys
    assert all(state.ttl(key) > 0 for key in keys)
