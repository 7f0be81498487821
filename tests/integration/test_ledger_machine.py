"""The ledger's scripts against a model in plain Python, in any order of steps, on a real Valkey.

`pytest --hypothesis-profile long tests/integration/test_ledger_machine.py` walks for minutes.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from freddy_tasks.budget import Budget
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.ledger import RANKS, Ledger
from freddy_tasks.models import Job, Lane
from freddy_tasks.records import Enlisted, Fenced, Held, LinedUp, Parked, Phase, Unsent

OPEN = {Phase.QUEUED, Phase.SENT, Phase.WAITING, Phase.SETTLED, Phase.CANCELLING}
IDS = st.sampled_from(["a", "b", "c", "d"])
TWICE = st.booleans()  # the first reply of the script is lost, and the client library calls it again
ANY = st.integers(0, 10**6)
SECOND_LIFE = 1e6  # seconds for which a paid request stays valid here: no test depends on its own pace
SLOT, SLOTS = 900, 96
CAPACITY = 3  # requests that may leave at once, where they are limited by the minute


@dataclass(slots=True)
class Entry:
    """What the model knows of one task id."""

    phase: Phase
    lane: Lane = Lane.NORMAL
    generation: int = 1
    holder: str = "claimed"
    ringing: bool = False  # its alarm has rung
    lined_up: bool = False
    asleep: bool = False  # it lines up later
    paid: bool = False
    outlived: bool = False  # its request was paid for too long ago
    body: bool = True
    response: bool = False
    dated: bool = False  # its deadline runs
    whole: bool = False  # and has, since it arrived
    late: bool = False  # its deadline has passed
    cancel: bool = False
    after: Phase = Phase.CLOSED
    abandoned: bool = False  # Celery has an outcome
    resubmits: int = 0  # that somebody decided on
    posts: int = 0

    @property
    def costs(self) -> bool:
        """True when its next step is a request."""
        return self.phase in {Phase.QUEUED, Phase.WAITING} or (
            self.phase is Phase.CANCELLING and self.response
        )

    @property
    def waits(self) -> bool:
        """True when its next step waits until a request is free."""
        return self.costs and (not self.late if self.phase is not Phase.CANCELLING else self.abandoned)

    @property
    def line(self) -> str:
        """Which of the two lines it waits in for a request."""
        return "submit" if self.phase is Phase.QUEUED else "look"


class RetryingLedger(Ledger):
    """Runs each script `times` times, as redis-py does when it does not hear of the first."""

    times = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.calls: list[tuple[Any, ...]] = []  # that may be repeated yet

    def _run(self, name: str, *args: Any, client: Any = None) -> Any:
        if name in {"begin", "claim"}:
            self.calls.append((name, *args))
        answer = super()._run(name, *args, client=client)
        for _ in range(self.times - 1):
            answer = super()._run(name, *args, client=client)
        return answer


class LedgerMachine(RuleBasedStateMachine):
    """Workers, dispatchers, users and accidents, one step at a time."""

    server: redis.Redis

    @initialize(plan=st.sampled_from(["unlimited", "minute", "day", "both"]))
    def set_up(self, plan: str) -> None:
        """An empty ledger under one of four plans."""
        self.prefix = f"machine:{uuid.uuid4().hex[:12]}"
        per_minute = 1 if plan in {"minute", "both"} else 0  # too few to come free while the test runs
        self.per_day = 3 if plan in {"day", "both"} else 0
        self.tokens = CAPACITY if per_minute else None
        self.spent = 0
        self.budget = Budget.of(self.prefix, per_minute, self.per_day, per_minute + CAPACITY)
        self.ledger = RetryingLedger(self.server, self.prefix, self.budget, lease=1_000.0)
        self.model: dict[str, Entry] = {}
        self.messages: list[tuple[str, int]] = []  # all that were ever published: any may be redelivered
        self.holders: list[Held] = []
        self.claims: Counter[tuple[str, int]] = Counter()

    def teardown(self) -> None:
        """Leave nothing for the next walk."""
        for key in self.server.scan_iter(f"{self.prefix}*"):
            self.server.delete(key)
        self.server.delete(*self.budget.keys)

    # What the model says of the budget

    @property
    def room(self) -> float:
        """Requests that may leave now."""
        left = self.per_day - self.spent if self.per_day else float("inf")
        return max(0.0, min(float("inf") if self.tokens is None else self.tokens, left))

    @property
    def limited(self) -> bool:
        """True when the plan has a limit."""
        return self.tokens is not None or bool(self.per_day)

    def may_submit(self, in_flight: int, left: float) -> bool:
        """False where the day's last requests are for looks at what is in flight."""
        return not self.per_day or in_flight == 0 or left > in_flight + 1

    def in_flight(self, lined_up: set[str]) -> int:
        """Jobs that will need a look, all but submits that wait in line, or for the moment to."""
        submits = {name for name in lined_up if self.model[name].line == "submit"}
        return sum(entry.phase in OPEN and not entry.asleep for entry in self.model.values()) - len(submits)

    def leaving(self, lined_up: set[str], most: int, submits: int, turn: str) -> int:
        """How many of the line leave at once: submits and looks in turns, while they may."""
        waiting = Counter(self.model[name].line for name in lined_up)
        in_flight, left = self.in_flight(lined_up), self.per_day - self.spent
        gone = 0
        while gone < min(self.room, most):
            other = "submit" if turn == "look" else "look"
            may = {"look": True, "submit": submits > 0 and self.may_submit(in_flight, left - gone)}
            kind = next((kind for kind in (turn, other) if waiting[kind] and may[kind]), None)
            if kind is None:
                break
            waiting[kind] -= 1
            in_flight += kind == "submit"
            submits -= kind == "submit"
            gone, turn = gone + 1, other
        return gone

    def pay(self) -> None:
        """Take one request."""
        if self.tokens is not None:
            self.tokens -= 1
        if self.per_day:
            self.spent += 1

    def key(self, task_id: str) -> str:
        """Where its record is."""
        return f"{self.prefix}:job:{task_id}"

    def calling(self, twice: bool) -> Ledger:
        """The ledger, with or without a client library that repeats."""
        self.ledger.times = 1 + twice
        return self.ledger

    def holds(self, held: Held) -> bool:
        """True while this holder may write."""
        entry = self.model[held.task_id]
        return (entry.generation, entry.holder) == (held.generation, "claimed")

    def one_of_the_holders(self, which: int) -> Held:
        """One that still may write, or one that may not any more, whose job another may hold."""
        live = [held for held in self.holders if self.holds(held)]
        late = [held for held in self.holders if not self.holds(held)]
        among = (late or live) if which % 2 else (live or late)
        return among[which // 2 % len(among)]

    def posted(self, held: Held, entry: Entry) -> None:
        """Somebody holds it, and sends the prompt where that is next."""
        self.holders.append(held)
        self.claims[held.task_id, held.generation] += 1
        if held.phase is Phase.QUEUED and held.may_ask and held.now < held.job.deadline:
            entry.posts += 1
            assert held.body == {"args": ["prompt"]}

    # Steps of workers

    @rule(task_id=IDS, lane=st.sampled_from(Lane), whole=st.booleans(), twice=TWICE)
    def begin(self, task_id: str, lane: Lane, whole: bool, twice: bool) -> None:
        """A submit arrives, for the first time or again."""
        ahead = any(
            entry.lined_up and (entry.line == "look" or RANKS[entry.lane] <= RANKS[lane])
            for entry in self.model.values()
        )
        lined_up = {name for name, entry in self.model.items() if entry.lined_up}
        may = self.may_submit(self.in_flight(lined_up), self.per_day - self.spent)
        granted = self.room >= 1 and may and not (self.limited and ahead)
        answer = self.calling(twice).begin(
            task_id,
            Job(deadline=0.0, model="m", lane=lane),
            body={"args": ["prompt"]},
            options={"queue": "q"},
            timeout=1_000.0,
            whole=whole,
        )
        if known := self.model.get(task_id):
            assert answer == Fenced(known.phase)
        elif granted:
            entry = self.model[task_id] = Entry(Phase.SENT, lane, dated=True, whole=whole)
            assert isinstance(answer, Held)
            self.pay()
            self.posted(answer, entry)
        else:
            assert answer == (Fenced(Phase.QUEUED) if twice else LinedUp())
            self.model[task_id] = Entry(
                Phase.QUEUED, lane, holder="", lined_up=True, dated=whole, whole=whole
            )

    @rule(task_id=IDS, lane=st.sampled_from(Lane), whole=st.booleans(), later=st.booleans(), twice=TWICE)
    def enlist(self, task_id: str, lane: Lane, whole: bool, later: bool, twice: bool) -> None:
        """A prompt of a batch lines up, now or later, unless its id has been here before."""
        prompt = self.prompt(task_id, lane, whole, delay=500.0 if later else 0.0)
        answers = [self.calling(False).enlist([prompt]) for _ in range(1 + twice)][-1]
        known = self.model.get(task_id)
        if known is None:
            known = self.model[task_id] = Entry(
                Phase.QUEUED, lane, holder="", lined_up=not later, asleep=later, dated=whole, whole=whole
            )
        assert answers == [known.phase]

    @precondition(lambda self: len(self.model) < len("abcd"))
    @rule(lane=st.sampled_from(Lane), twice=TWICE)
    def enlist_too_late(self, lane: Lane, twice: bool) -> None:
        """A prompt of a batch expires before it lines up."""
        task_id = min(set("abcd") - self.model.keys())
        prompt = self.prompt(task_id, lane, whole=False, patience=0.0)
        answers = [self.calling(False).enlist([prompt]) for _ in range(1 + twice)][-1]
        assert answers == [Phase.QUEUED]
        self.model[task_id] = Entry(
            Phase.QUEUED, lane, holder="", asleep=True, ringing=True, dated=True, late=True
        )

    def prompt(self, task_id: str, lane: Lane, whole: bool, **options: Any) -> Enlisted:
        """What a caller puts on record."""
        job = Job(deadline=0.0, model="m", lane=lane)
        body = {"args": ["prompt"]}
        return Enlisted(task_id, job, 1_000.0, whole, options={"queue": "q"}, body=body, **options)

    @precondition(lambda self: self.messages)
    @rule(which=ANY, twice=TWICE)
    def claim(self, which: int, twice: bool) -> None:
        """A message is delivered: the newest, a late one, or one that was delivered before."""
        task_id, generation = self.messages[-1 - which % len(self.messages)]
        entry = self.model[task_id]
        answer = self.calling(twice).claim(task_id, generation)
        if (entry.generation, entry.holder) != (generation, "published"):
            assert answer == Fenced(entry.phase)
            return
        costs = entry.costs and not entry.paid and not (entry.phase is Phase.QUEUED and entry.late)
        room = (self.tokens is None or self.tokens >= 0) if entry.outlived else self.room >= 1
        if costs and not room and entry.waits:
            assert answer == (Fenced(entry.phase) if twice else LinedUp())
            entry.holder, entry.lined_up, entry.ringing, entry.outlived = "", True, False, False
            return
        assert isinstance(answer, Held)
        assert answer.phase is entry.phase
        assert answer.phase in OPEN
        assert answer.may_ask is (not costs or room)
        if costs and room and not entry.outlived:
            self.pay()
        elif costs and room and self.tokens is not None:
            self.tokens -= 1
        entry.holder, entry.ringing = "claimed", False
        if entry.phase is Phase.QUEUED and not (entry.late and entry.dated):
            entry.phase, entry.dated, entry.late = Phase.SENT, True, False
        self.posted(answer, entry)

    @precondition(lambda self: self.holders)
    @rule(which=ANY, phase=st.sampled_from([Phase.QUEUED, Phase.WAITING]), at_once=st.booleans())
    def park(self, which: int, phase: Phase, at_once: bool) -> None:
        """A holder puts its job back: a submit to be repeated, or a response to be looked at."""
        held = self.one_of_the_holders(which)
        self.holders.remove(held)
        if held.phase is Phase.SETTLED:
            return  # it hands over, or dies
        if held.phase is not Phase.QUEUED and held.phase is not Phase.SENT:
            phase = held.phase
        job = replace(held.job, response_id="" if phase is Phase.QUEUED else "resp_1")
        answer = self.calling(False).park(held, phase, job, 0.0 if at_once else 500.0)
        entry = self.model[held.task_id]
        if not self.holds(held) or entry.phase is Phase.SETTLED:
            assert answer == Fenced(entry.phase)
            return
        assert isinstance(answer, Parked)
        entry.abandoned = entry.abandoned or phase is Phase.CANCELLING
        entry.response = phase is not Phase.QUEUED
        if entry.cancel and phase is not Phase.CANCELLING:  # a cancel that is repeated keeps its pause
            phase, at_once = Phase.CANCELLING, True
        assert answer.phase is phase
        entry.resubmits += phase is Phase.QUEUED
        entry.body = entry.body and phase is Phase.QUEUED
        entry.phase, entry.holder = phase, ""
        entry.ringing = at_once or (entry.late and phase is not Phase.CANCELLING)

    @precondition(lambda self: self.holders)
    @rule(which=ANY)
    def unsend(self, which: int) -> None:
        """A holder was about to submit, and did not."""
        held = self.one_of_the_holders(which)
        if held.phase is not Phase.QUEUED or not held.may_ask or held.now >= held.job.deadline:
            return
        self.holders.remove(held)
        entry = self.model[held.task_id]
        answer = self.calling(False).unsend(held)
        if not self.holds(held) or entry.phase is not Phase.SENT:
            assert answer == Fenced(entry.phase)
            return
        assert isinstance(answer, Unsent)
        entry.posts -= 1
        if self.tokens is not None:
            self.tokens = min(CAPACITY, self.tokens + 1)
        self.spent = max(0, self.spent - 1)
        entry.phase, entry.holder = (Phase.CANCELLING if entry.cancel else Phase.QUEUED), ""
        entry.body, entry.ringing, entry.dated = not entry.cancel, entry.cancel, entry.whole

    @precondition(lambda self: self.holders)
    @rule(
        which=ANY,
        after=st.sampled_from([Phase.CLOSED, Phase.SUSPENDED, Phase.CANCELLING]),
        twice=TWICE,
        at_once=st.booleans(),
    )
    def settle(self, which: int, after: Phase, twice: bool, at_once: bool) -> None:
        """A holder has an outcome, and keeps it before it hands it over, if it lives to."""
        held = self.one_of_the_holders(which)
        if held.phase in {Phase.SETTLED, Phase.CANCELLING}:
            return
        entry = self.model[held.task_id]
        kept = self.calling(twice).settle(held, {"result": 1}, held.job, after)
        assert kept is (self.holds(held) and not entry.cancel)
        if kept:
            entry.phase, entry.after, entry.ringing = Phase.SETTLED, after, False
            entry.body = entry.body and after is Phase.SUSPENDED
            if at_once:
                self.finish(held)
        elif self.holds(held):
            entry.phase, entry.holder, entry.ringing, entry.body = Phase.CANCELLING, "", True, False

    @precondition(lambda self: self.holders)
    @rule(which=ANY)
    def close(self, which: int) -> None:
        """Celery has the outcome, or the API has settled the cancel."""
        self.finish(self.one_of_the_holders(which))

    def finish(self, held: Held) -> None:
        """One holder lets go of its outcome."""
        self.holders.remove(held)
        entry = self.model[held.task_id]
        closes = self.holds(held) and entry.phase in {Phase.SETTLED, Phase.CANCELLING}
        assert self.calling(False).close(held.task_id, held.generation) is closes
        if not closes:
            return
        entry.abandoned = entry.abandoned or entry.phase is Phase.SETTLED
        entry.phase = entry.after if entry.phase is Phase.SETTLED else Phase.CLOSED
        entry.holder, entry.ringing = "", entry.phase is Phase.CANCELLING
        entry.body = entry.body and entry.phase is Phase.SUSPENDED

    @precondition(lambda self: self.holders)
    @rule(which=ANY)
    def crash(self, which: int) -> None:
        """A worker dies and forgets what it held."""
        self.holders.pop(which % len(self.holders))

    @precondition(lambda self: self.ledger.calls)
    @rule(which=ANY)
    def repeat_late(self, which: int) -> None:
        """The client library calls again long after, as its connection hung."""
        name, task_id, *args = self.ledger.calls[which % len(self.ledger.calls)]
        answer = self.calling(False)._run(name, task_id, *args)
        entry = self.model[task_id]
        if name == "claim" and (entry.generation, entry.holder) == (int(args[0]), "published"):
            raise AssertionError("a claim left its hop published")
        generation = 1 if name == "begin" else int(args[0])
        if answer[0] in {"granted", "held"}:
            assert (entry.generation, entry.holder) == (generation, "claimed")
            entry.ringing = False  # the caller has a whole lease from now
        else:
            assert answer[0] in {"exists", "fenced"}

    @precondition(lambda self: self.open())
    @rule(which=ANY)
    def hop(self, which: int) -> None:
        """A job's moment comes, and a worker has its message at once, even while another works on it."""
        self.ring(self.open()[which % len(self.open())])
        self.pop(5, False)
        if self.messages:
            self.claim(0, False)

    # Steps of dispatchers

    @rule(most=st.integers(1, 5), later=st.booleans(), submits=st.integers(0, 5))
    def pop(self, most: int, later: bool, submits: int = 5) -> None:
        """A dispatcher takes what is due, or all leases and pauses run out and then it does."""
        if later:
            for task_id in self.model:
                self.ring(task_id)
        due = self.ringing()  # in the order in which the dispatcher takes them
        turn = self.server.hget(self.budget.keys[0], "turn") or "look"
        popped = self.calling(False).pop(most, submits)
        expected = set()
        for name in due[:most]:
            entry = self.model[name]
            entry.ringing = entry.asleep = False
            if entry.waits and (self.limited or entry.line == "submit"):
                entry.lined_up, entry.holder = True, ""
            else:
                expected.add(name)
        lined_up = {name for name, entry in self.model.items() if entry.lined_up} - expected
        released = [hop.task_id for hop in popped.hops]
        from_line = [name for name in released if name not in expected]
        assert expected <= set(released)
        assert len(released) == len(set(released))
        assert set(from_line) <= lined_up
        assert len(from_line) == self.leaving(lined_up, max(0, most - len(expected)), submits, turn)
        for hop in popped.hops:
            entry = self.model[hop.task_id]
            assert hop.phase is entry.phase
            assert hop.phase in OPEN
            assert hop.generation == entry.generation + 1
            entry.generation, entry.holder, entry.lined_up = hop.generation, "published", False
            entry.ringing = False  # one that was past `most` may leave from its line all the same
            entry.paid, entry.outlived = hop.task_id in from_line, False
            if entry.paid:
                self.pay()
                self.server.hset(self.key(hop.task_id), "ticket", self.now() + SECOND_LIFE)
            self.messages.append((hop.task_id, hop.generation))
        assert popped.lined_up == sum(entry.lined_up for entry in self.model.values())
        self.assert_lanes(from_line)

    def assert_lanes(self, released: list[str]) -> None:
        """Nobody was passed by a patient one of the same line."""
        for name in released:
            passed = [
                entry
                for entry in self.model.values()
                if entry.lined_up
                and entry.line == self.model[name].line
                and entry.phase is not Phase.CANCELLING
            ]
            if self.model[name].phase is not Phase.CANCELLING:
                rank = RANKS[self.model[name].lane]
                assert all(RANKS[entry.lane] >= rank for entry in passed)

    # Steps of people

    @precondition(lambda self: len(self.model) > 1)
    @rule(task_id=IDS, even_unseen=st.booleans(), twice=TWICE)
    def cancel(self, task_id: str, even_unseen: bool, twice: bool) -> None:
        """Somebody revokes a task, at any moment of its life or before it."""
        answer = self.calling(twice).cancel(task_id, even_unseen=even_unseen)
        entry = self.model.get(task_id)
        if entry is None:
            assert answer is None
            if even_unseen:
                self.model[task_id] = Entry(Phase.CANCELLED, generation=0, holder="", body=False)
            return
        was = entry.phase
        if was in {Phase.CLOSED, Phase.SETTLED, Phase.CANCELLED}:
            assert answer is None
            return
        if was is Phase.SENT and entry.holder == "claimed":
            entry.cancel = True
            assert answer is Phase.SENT
            return
        assert answer is was
        if was is not Phase.CANCELLING:
            entry.generation += 1
            entry.abandoned = was is Phase.SUSPENDED
            entry.phase, entry.holder, entry.cancel, entry.body = Phase.CANCELLING, "", True, False
            entry.lined_up, entry.asleep, entry.ringing = False, False, True

    @precondition(lambda self: self.model)
    @rule(
        which=ANY, phase=st.sampled_from([Phase.WAITING, Phase.QUEUED]), sensible=st.booleans(), twice=TWICE
    )
    def revive(self, which: int, phase: Phase, sensible: bool, twice: bool) -> None:
        """A person takes a job up again: one that is suspended, where there is one."""
        suspended = [name for name, entry in self.model.items() if entry.phase is Phase.SUSPENDED]
        among = suspended or list(self.model)
        task_id = among[which % len(among)]
        entry = self.model[task_id]
        if sensible:
            phase = Phase.QUEUED if entry.body else Phase.WAITING
        possible = bool(suspended) and (entry.body if phase is Phase.QUEUED else entry.response)
        assert self.calling(twice).revive(task_id, phase, 1_000.0) is possible
        if possible:
            entry.generation += 1
            entry.phase, entry.holder, entry.ringing = phase, "", True
            entry.dated, entry.whole, entry.late = True, True, False
            entry.resubmits += phase is Phase.QUEUED

    # Steps of time

    def open(self) -> list[str]:
        """Jobs that have an alarm."""
        return [name for name, entry in self.model.items() if entry.phase in OPEN]

    def ringing(self) -> list[str]:
        """Jobs whose alarm rings now by the server's books, the longest first."""
        found: list[str] = self.server.zrangebyscore(f"{self.prefix}:due", "-inf", self.now())
        return found

    def ring(self, task_id: str) -> None:
        """The moment comes: a poll is due, or a lease runs out, whoever still works on it."""
        if self.server.zadd(f"{self.prefix}:due", {task_id: 0}, xx=True, ch=True):
            self.model[task_id].ringing = True

    @precondition(lambda self: self.open())
    @rule(which=ANY)
    def pass_deadline(self, which: int) -> None:
        """The deadline comes, which is an alarm for all that waits."""
        task_id = self.open()[which % len(self.open())]
        entry = self.model[task_id]
        if entry.holder == "":
            self.server.hset(self.key(task_id), mapping={"deadline": self.now() - 1, "started": "1"})
            entry.late = entry.dated = True
            self.ring(task_id)

    @precondition(lambda self: any(entry.paid for entry in self.model.values()))
    @rule()
    def outlive_tickets(self) -> None:
        """Messages came so late that the requests paid for them are not counted on any more."""
        for name, entry in self.model.items():
            if entry.paid:
                self.server.hset(self.key(name), "ticket", "1")
                entry.paid, entry.outlived = False, True

    @precondition(lambda self: self.tokens is not None and self.tokens < 3)
    @rule(tokens=st.integers(0, 3))
    def refill(self, tokens: int) -> None:
        """Time passes, and requests come free."""
        self.server.hset(self.budget.keys[0], mapping={"tokens": tokens, "updated": self.now()})
        self.server.expire(self.budget.keys[0], 1_000)
        self.tokens = tokens

    @precondition(lambda self: self.spent)
    @rule()
    def next_day(self) -> None:
        """Every request of today is more than 24 hours ago."""
        bucket, days = self.budget.keys
        slot = int(self.now() // SLOT)
        self.server.delete(days)
        self.server.hset(days, str(slot - SLOTS - 1), self.spent)
        self.server.expire(days, 1_000)
        self.server.hset(bucket, "slot", slot - SLOTS - 1)
        self.spent = 0

    def now(self) -> float:
        """The state server's time."""
        seconds, microseconds = self.server.time()
        return float(seconds) + float(microseconds) / 1e6

    # What holds after every step

    @invariant()
    def records_agree(self) -> None:
        """Phase, generation and holder are the model's; generations only grow by it."""
        for name, entry in getattr(self, "model", {}).items():
            fields = self.server.hgetall(self.key(name))
            assert fields["phase"] == entry.phase
            assert int(fields["generation"]) == entry.generation
            assert fields["holder"] == entry.holder

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every open job, and nothing else, has an alarm that rings at its moment; who lines up is open."""
        if not hasattr(self, "model"):
            return
        due = set(self.server.zrange(f"{self.prefix}:due", 0, -1))
        lines = {
            line: set(self.server.zrange(f"{self.prefix}:ready:{line}", 0, -1)) for line in ("submit", "look")
        }

        assert due == {name for name, entry in self.model.items() if entry.phase in OPEN}
        assert set(self.ringing()) == {name for name, entry in self.model.items() if entry.ringing}
        for line, names in lines.items():
            expected = {n for n, entry in self.model.items() if entry.lined_up and entry.line == line}
            asleep = {n for n, entry in self.model.items() if entry.asleep}
            assert names == expected | (asleep if line == "submit" else set())
        suspended = set(self.server.zrange(f"{self.prefix}:suspended", 0, -1))
        assert suspended == {n for n, entry in self.model.items() if entry.phase is Phase.SUSPENDED}

    @invariant()
    def one_may_write(self) -> None:
        """No generation is handed out twice."""
        assert all(count == 1 for count in getattr(self, "claims", Counter()).values())

    @invariant()
    def no_second_submit(self) -> None:
        """A prompt is sent once, and once more for each time that somebody decided so."""
        for entry in getattr(self, "model", {}).values():
            assert entry.posts <= 1 + entry.resubmits

    @invariant()
    def prompts_go_first(self) -> None:
        """The prompt is there while it may be submitted, and gone as soon as the id is known."""
        for name, entry in getattr(self, "model", {}).items():
            assert self.server.hexists(self.key(name), "body") == entry.body
            assert not (entry.body and entry.response)

    @invariant()
    def nothing_stays_for_ever(self) -> None:
        """Every key expires."""
        if hasattr(self, "model"):
            keys = [*self.server.scan_iter(f"{self.prefix}:*"), *self.budget.keys]
            assert all(self.server.ttl(key) != -1 for key in keys)

    @invariant()
    def the_books_are_right(self) -> None:
        """As many requests were taken as left."""
        if not hasattr(self, "model"):
            return
        tokens = self.server.hget(self.budget.keys[0], "tokens")
        if self.tokens is not None and tokens is not None:
            assert float(tokens) == pytest.approx(self.tokens, abs=0.5)
            assert float(tokens) >= -1
        if self.per_day:
            slot = int(self.now() // SLOT)
            counts = self.server.hgetall(self.budget.keys[1])
            counted_at, counted = self.server.hmget(self.budget.keys[0], "slot", "spent")
            assert counted_at != str(slot) or int(counted) == self.spent
            assert sum(int(n) for at, n in counts.items() if int(at) >= slot - SLOTS) == self.spent


@pytest.fixture
def server(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(valkey.socket), decode_responses=True) as client:
        yield client


@pytest.mark.timeout(3_600)  # the long profile takes its time
def test_the_scripts_keep_to_the_model_whatever_happens(server: redis.Redis) -> None:
    """Any order of submits, deliveries, crashes, cancels and alarms keeps every invariant."""
    LedgerMachine.server = server
    bounded = settings(
        max_examples=settings().max_examples // 2,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )

    run_state_machine_as_test(LedgerMachine, settings=bounded)


@pytest.fixture
def walk(server: redis.Redis) -> Iterator[LedgerMachine]:
    """A walk that a test directs itself; the model checks each step all the same."""
    LedgerMachine.server = server
    machine = LedgerMachine()
    machine.set_up("minute")
    yield machine
    machine.records_agree()
    machine.nothing_is_lost()
    machine.prompts_go_first()
    machine.the_books_are_right()
    machine.teardown()


LATE = 1  # of two holders, the one that was overtaken


def test_a_holder_that_was_overtaken_writes_nothing(walk: LedgerMachine) -> None:
    """Its lease ran out, and another acts for the job: neither a park, nor an outcome, nor a close."""
    for task_id in ("a", "b", "c"):
        walk.begin(task_id, Lane.NORMAL, whole=False, twice=False)
        walk.hop(len(walk.model) - 1)
        match task_id:
            case "a":
                walk.park(LATE, Phase.WAITING, at_once=False)
            case "b":
                walk.settle(LATE, Phase.CLOSED, twice=False, at_once=False)
            case _:
                walk.close(LATE)
        walk.holders.clear()

    assert {entry.holder for entry in walk.model.values()} == {"claimed"}


def test_a_begin_repeated_after_its_lease_sends_nothing(walk: LedgerMachine) -> None:
    """The client library calls again when the job is another's already."""
    walk.begin("a", Lane.NORMAL, whole=False, twice=False)
    walk.pop(5, later=True)
    walk.repeat_late(0)

    assert (walk.model["a"].generation, walk.model["a"].holder) == (2, "published")


def test_a_call_repeated_in_time_holds_for_a_whole_lease(walk: LedgerMachine) -> None:
    """The caller counts its lease from the reply that it heard."""
    walk.begin("a", Lane.NORMAL, whole=False, twice=False)
    walk.ring("a")
    walk.repeat_late(0)
    assert walk.ringing() == []
    walk.hop(0)
    walk.ring("a")
    walk.repeat_late(-1)

    assert walk.ringing() == []


def test_a_cancel_past_the_deadline_waits_for_its_request(walk: LedgerMachine) -> None:
    """However busy the plan, the API is told in the end."""
    walk.begin("a", Lane.NORMAL, whole=False, twice=False)
    walk.park(0, Phase.WAITING, at_once=True)
    walk.hop(0)
    walk.settle(0, Phase.CANCELLING, twice=False, at_once=True)
    walk.refill(0)
    walk.pass_deadline(0)
    walk.pop(5, later=False)
    assert walk.model["a"].lined_up
    walk.refill(1)
    walk.pop(5, later=False)
    walk.claim(0, twice=False)

    assert walk.holders[-1].phase is Phase.CANCELLING
    assert walk.holders[-1].may_ask


def test_a_cancel_of_what_was_never_sent_needs_no_request(walk: LedgerMachine) -> None:
    """Celery is told at once, though the plan has none left."""
    walk.refill(0)
    walk.begin("a", Lane.NORMAL, whole=False, twice=False)
    walk.begin("b", Lane.NORMAL, whole=False, twice=False)
    walk.cancel("a", even_unseen=False, twice=False)
    walk.hop(0)

    assert walk.holders[-1].phase is Phase.CANCELLING


def test_a_request_that_outlived_its_message_may_be_borrowed_once(walk: LedgerMachine) -> None:
    """Behind a slow queue all would else be paid for jobs that come too late to use them."""
    for task_id in ("a", "b", "c", "d"):
        walk.begin(task_id, Lane.NORMAL, whole=False, twice=False)
    walk.refill(2)
    walk.park(0, Phase.WAITING, at_once=True)
    walk.park(0, Phase.WAITING, at_once=True)
    walk.pop(5, later=False)
    walk.outlive_tickets()
    walk.claim(0, twice=False)
    walk.claim(1, twice=False)

    assert Counter(entry.lined_up for entry in walk.model.values())[True] == 2


def test_an_outcome_that_comes_after_a_cancel_is_not_kept(walk: LedgerMachine) -> None:
    """The holder of a submit is waited for, and then turned away."""
    walk.begin("a", Lane.NORMAL, whole=False, twice=False)
    walk.begin("b", Lane.NORMAL, whole=False, twice=False)
    walk.cancel("a", even_unseen=False, twice=False)
    walk.settle(0, Phase.CLOSED, twice=False, at_once=False)

    assert [entry.phase for entry in walk.model.values()] == [Phase.CANCELLING, Phase.SENT]


def test_a_message_of_an_older_generation_is_turned_away(walk: LedgerMachine) -> None:
    """Even while the newer one waits to be claimed, and after a cancel."""
    walk.begin("a", Lane.NORMAL, whole=False, twice=False)
    walk.pop(5, later=True)
    walk.pop(5, later=True)
    walk.claim(1, twice=False)
    walk.cancel("a", even_unseen=False, twice=False)
    walk.claim(0, twice=False)

    assert walk.model["a"].phase is Phase.CANCELLING
    assert walk.model["a"].generation == 4


def test_a_job_that_leaves_its_line_does_not_ring_any_more(walk: LedgerMachine) -> None:
    """Two alarms ring, and one is asked for: another leaves, which was in line before it."""
    walk.refill(0)
    for task_id in ("b", "a"):
        walk.begin(task_id, Lane.NORMAL, whole=True, twice=False)
    walk.refill(1)
    walk.pop(1, later=True)

    assert walk.messages == [("b", 2)]
    assert walk.ringing() == []


def test_a_cancel_that_is_repeated_keeps_its_pause(walk: LedgerMachine) -> None:
    """The wish to cancel hurries a poll, but not the next attempt of the cancel itself."""
    walk.begin("a", Lane.NORMAL, whole=False, twice=False)
    walk.begin("b", Lane.NORMAL, whole=False, twice=False)
    walk.park(0, Phase.WAITING, at_once=False)
    walk.cancel("a", even_unseen=False, twice=False)
    walk.hop(0)
    walk.holders.reverse()
    walk.park(0, Phase.WAITING, at_once=False)

    assert walk.model["a"].phase is Phase.CANCELLING
    assert walk.ringing() == []


def test_who_lines_up_first_leaves_first(state: redis.Redis, prefix: str) -> None:
    """Even within one millisecond, in which names would decide."""
    ledger = Ledger(state, prefix, Budget.of(prefix, 60, 0, 120))
    ledger.heed(refused=True, retry_in=600.0, per_minute=None, remaining=None)
    arrived = [f"task-{n:04}" for n in reversed(range(1_000))]
    job = Job(deadline=0.0, model="m", lane=Lane.BATCH)
    for task_id in arrived[:50]:
        ledger.begin(task_id, job, body={}, options={}, timeout=60.0, whole=False)
    ledger.enlist(Enlisted(task_id, job, 60.0, False, options={}, body={}) for task_id in arrived[50:])

    assert state.zrange(f"{prefix}:ready:submit", 0, -1) == arrived
