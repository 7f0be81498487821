"""What a failover must not forget: no prompt leaves before the replicas of the state server know of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from hops import Stage, stage_of
from logs import logged
from nodes import Sentinel, Valkey, free_port
from shop import wait_for

from freddy_tasks import LedgerLost, OutcomeUnknown, replicas
from freddy_tasks.budget import Budget
from freddy_tasks.connections import StateServer, connect
from freddy_tasks.continuation import POLL
from freddy_tasks.doctor import gathering
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator
from freddy_tasks.ledger import ADMISSION_TIMEOUT, Ledger
from freddy_tasks.models import Job
from freddy_tasks.records import Held, Phase, Unsent

LONG = 5.0  # seconds: what waits so long in a test waits for an answer that comes


@dataclass
class Pair:
    """A master and its replica."""

    master: EmbeddedServer
    replica: EmbeddedServer
    client: redis.Redis  # of the master
    copy: redis.Redis  # of the replica

    def cut_off(self) -> None:
        """The replica hears and says nothing more."""
        os.kill(self.replica.pid, signal.SIGSTOP)

    def connect(self) -> None:
        """It is back, and has heard of everything."""
        os.kill(self.replica.pid, signal.SIGCONT)
        self.client.set("heard", "")
        wait_for(lambda: self.client.wait(1, 100))


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    port = free_port()
    master, replica = EmbeddedServer(), EmbeddedServer()
    try:
        master.start("--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
        replica.start("--replicaof", "127.0.0.1", str(port))
        with (
            redis.Redis(unix_socket_path=str(master.socket), decode_responses=True) as client,
            redis.Redis(unix_socket_path=str(replica.socket), decode_responses=True) as copy,
        ):
            pair = Pair(master, replica, client, copy)
            wait_for(lambda: client.wait(1, 100))
            yield pair
    finally:
        replica.stop()
        master.stop()


@pytest.fixture
def pair(servers: Pair) -> Iterator[Pair]:
    servers.client.flushall()
    servers.client.config_resetstat()
    servers.connect()
    yield servers
    servers.connect()


@pytest.fixture
def stage(pair: Pair, prompt_api: Emulator) -> Stage:
    prompt_api.reset()
    url = pair.master.url
    app = Celery("replicas", broker=url, backend=url, set_as_current=False)
    app.loader.import_default_modules()
    app.finalize()
    return stage_of(app, prompt_api, url, state_replicas=1)


def on_sleep(stage: Stage, happens: Callable[[int], None]) -> None:
    """Let something happen at each pause of a worker that tries again; it is told how many there were."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        happens(len(pauses))

    stage.use(replace(stage.runtime, sleep=sleep))


def test_no_prompt_leaves_before_a_replica_knows_of_it(
    stage: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away the prompt waits; then it is sent, once."""
    pair.cut_off()
    with logged("freddy_tasks.responses") as records:
        stage.submit("t")
        stage.deliver(stage.next("t"))
    waiting = stage.phase("t")
    posts = stage.api.counts.posts
    pair.connect()
    monkeypatch.setattr(replicas, "HASTE", LONG)
    stage.deliver(stage.next("t"))

    assert (waiting, posts) == (Phase.QUEUED, 0)
    assert stage.state("t") == "QUEUED"
    assert [record.levelname for record in records] == ["WARNING"]
    assert "1 replicas have the intent to submit task t: its prompt waits" in records[0].getMessage()
    assert "Whales" not in records[0].getMessage()
    assert stage.phase("t") is Phase.WAITING
    assert stage.api.counts.posts == 1


def before_unsend(stage: Stage, monkeypatch: pytest.MonkeyPatch, happens: Callable[[int], None]) -> None:
    """Let something happen each time that a worker is about to take an intent back; it is told how often."""
    unsend, calls = stage.runtime.ledger.unsend, []

    def unsend_late(held: Held) -> Any:
        calls.append(held)
        happens(len(calls))
        return unsend(held)

    monkeypatch.setattr(stage.runtime.ledger, "unsend", unsend_late)


def test_an_intent_is_taken_back_when_the_state_server_is_there_again(
    stage: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count as sent, and nothing was."""

    def refuse(times: int) -> None:
        if times < 3:
            raise redis.exceptions.ConnectionError("the state server is away")

    pair.cut_off()
    before_unsend(stage, monkeypatch, refuse)
    stage.submit("t")

    assert stage.phase("t") is Phase.QUEUED
    assert stage.api.counts.posts == 0


def test_an_intent_that_outlives_its_lease_counts_as_sent(
    stage: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another hop may judge it by then; it does, as it cannot know better."""

    def refuse(times: int) -> None:
        stage.late += 10.0
        raise redis.exceptions.ConnectionError("the state server is away")

    pair.cut_off()
    before_unsend(stage, monkeypatch, refuse)
    with logged("freddy_tasks.responses") as records:
        stage.submit("t")
    stage.deliver(stage.next("t"))

    assert "task t was not sent, and ends as one that may have been" in records[0].getMessage()
    assert isinstance(stage.app.AsyncResult("t").result, OutcomeUnknown)
    assert stage.api.counts.posts == 0


def test_a_prompt_whose_record_is_lost_before_it_was_sent_begins_anew(
    stage: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message goes back to the broker."""
    ledger = stage.runtime.ledger
    pair.cut_off()
    before_unsend(stage, monkeypatch, lambda _: ledger.redis.delete(f"{ledger.prefix}:job:t"))
    ended = stage.submit("t")

    assert (ended.info.state, ended.info.retval.requeue) == ("REJECTED", True)
    assert stage.api.counts.posts == 0


def test_a_prompt_that_is_cancelled_while_it_is_held_back_is_never_sent(
    stage: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancel comes when nobody can know yet that it will not be sent."""
    pair.cut_off()
    before_unsend(stage, monkeypatch, lambda _: stage.runtime.ledger.cancel("t"))
    stage.submit("t")
    stage.deliver(stage.next("t"))

    assert stage.state("t") == "REVOKED"
    assert stage.phase("t") is Phase.CLOSED
    assert (stage.api.counts.posts, stage.api.counts.deletes) == (0, 0)


def test_a_failover_knows_of_every_prompt_that_was_sent(stage: Stage, pair: Pair) -> None:
    """At the moment of the POST the replica has the intent, and afterwards the id."""
    key = f"{stage.runtime.ledger.prefix}:job:t"
    seen: list[Any] = []
    stage.client.then = lambda: seen.append(pair.copy.hget(key, "phase"))
    stage.submit("t")
    (response,) = stage.api.jobs()

    assert seen == ["sent"]
    assert pair.copy.hget(key, "phase") == "waiting"
    assert response.id in pair.copy.hget(key, "job")


def test_an_id_is_written_again_until_a_replica_has_it(stage: Stage, pair: Pair) -> None:
    """The worker that has it keeps it so long, also through a connection that has written nothing yet."""
    ledger = stage.runtime.ledger

    def reconnect(pauses: int) -> None:
        if pauses == 1:
            ledger.redis.connection_pool.disconnect()
        if pauses == 3:
            pair.connect()

    stage.client.then = pair.cut_off
    on_sleep(stage, reconnect)
    stage.submit("t")
    (response,) = stage.api.jobs()

    assert response.id in pair.copy.hget(f"{ledger.prefix}:job:t", "job")
    assert stage.phase("t") is Phase.WAITING
    assert stage.api.counts.posts == 1


def test_an_id_that_no_replica_takes_is_on_record_all_the_same(stage: Stage, pair: Pair) -> None:
    """After half a minute its worker goes on, and says so."""

    def pass_time(_: int) -> None:
        stage.late += 10.0

    stage.client.then = pair.cut_off
    on_sleep(stage, pass_time)
    with logged("freddy_tasks.responses") as records:
        stage.submit("t")
    (response,) = stage.api.jobs()

    assert stage.late == 30.0
    assert stage.phase("t") is Phase.WAITING
    assert f"Response {response.id} of task t is on record, and its replicas may lack it" in [
        record.getMessage() for record in records
    ]


def test_an_answer_that_comes_while_replicas_are_waited_for_ends_the_task(stage: Stage, pair: Pair) -> None:
    """Another worker polls meanwhile; the one that waits shows no state over its outcome."""

    def poll(pauses: int) -> None:
        if pauses == 1:
            stage.deliver(stage.next("t"))

    stage.client.then = pair.cut_off
    on_sleep(stage, poll)
    stage.submit("t", "Whales [emulate: polls=0]")

    assert stage.state("t") == "SUCCESS"
    assert stage.phase("t") is Phase.CLOSED


def test_a_record_that_is_lost_while_replicas_are_waited_for_ends_the_task(stage: Stage, pair: Pair) -> None:
    """Nobody else would look for it; its error has the id to go on with."""
    ledger = stage.runtime.ledger
    stage.client.then = pair.cut_off
    on_sleep(stage, lambda _: ledger.redis.delete(f"{ledger.prefix}:job:t"))
    stage.submit("t")
    (response,) = stage.api.jobs()
    error = stage.app.AsyncResult("t").result

    assert isinstance(error, LedgerLost)
    assert error.response_id == response.id


@pytest.mark.parametrize(("wanted", "asked"), [(0, 0), (1, 2)])
def test_replicas_are_asked_for_the_intent_and_the_id_alone(
    stage: Stage, pair: Pair, wanted: int, asked: int
) -> None:
    """Polls and outcomes cost nothing more, and nothing does without the setting."""
    counted = stage_of(stage.app, stage.api, pair.master.url, state_replicas=wanted)
    pair.client.config_resetstat()
    counted.submit("t")
    message = counted.next("t")
    counted.deliver(message)
    waits = pair.client.info("commandstats").get("cmdstat_wait", {"calls": 0})

    assert message["name"] == POLL
    assert waits["calls"] == asked


def test_what_was_not_sent_costs_no_request_and_no_time(pair: Pair, prefix: str) -> None:
    """The plan has its request back, and the timeout runs from the submit again."""
    pair.cut_off()
    ledger = Ledger(pair.client, prefix, Budget.of(prefix, 60, 10, 63), replicas=1)
    job = Job(deadline=0.0, model="m")
    held = ledger.begin("t", job, body={"args": ["p"]}, options={}, timeout=50.0, whole=False)
    assert isinstance(held, Held)
    unsent = ledger.unsend(held)
    record = ledger.record("t")
    bucket, days = ledger.budget.keys

    assert not held.confirmed
    assert isinstance(unsent, Unsent)
    assert unsent.due == pytest.approx(held.now + 1.0, abs=1.0)
    assert record is not None
    assert record.job is not None
    assert record.job.deadline == pytest.approx(held.now + ADMISSION_TIMEOUT, abs=1.0)
    assert float(pair.client.hget(bucket, "tokens") or 0) == pytest.approx(3.0, abs=0.01)
    assert sum(map(int, pair.client.hvals(days))) == 0


def test_what_was_not_sent_is_tried_more_and_more_rarely(pair: Pair, prefix: str) -> None:
    """A thousand prompts that wait for a replica leave the workers time for polls."""
    pair.cut_off()
    ledger = Ledger(pair.client, prefix, Budget.of(prefix, 0, 0, 0), replicas=1)
    job = Job(deadline=0.0, model="m")
    held = ledger.begin("t", job, body={}, options={}, timeout=50.0, whole=False)
    pauses = []
    for _ in range(5):
        assert isinstance(held, Held)
        unsent = ledger.unsend(held)
        assert isinstance(unsent, Unsent)
        pauses.append(unsent.due - float(pair.client.time()[0]))
        pair.client.zadd(f"{prefix}:due", {"t": 0})
        (hop,) = ledger.pop().hops
        held = ledger.claim("t", hop.generation, confirm=True)

    assert pauses == [pytest.approx(expected, abs=1.1) for expected in (1, 2, 4, 5, 5)]


def test_one_prompt_in_a_second_waits_for_an_absent_replica(
    pair: Pair, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others ask in passing, until it answers again."""
    now = 100.0
    asked: list[int] = []
    waiting = replicas.Replicas(pair.client, 1, monotonic=lambda: now)
    answered: list[bool] = []

    def write(client: Any) -> Any:
        wait = client.wait
        client.wait = lambda wanted, timeout: (asked.append(timeout), wait(wanted, timeout))
        return client.set(prefix, "x")

    pair.cut_off()
    answered += [waiting.confirm(write)[1], waiting.confirm(write)[1]]
    now += 1.0
    answered.append(waiting.confirm(write)[1])
    pair.connect()
    monkeypatch.setattr(replicas, "HASTE", LONG)
    monkeypatch.setattr(replicas, "PATIENCE", 2 * LONG)
    answered += [waiting.confirm(write)[1], waiting.confirm(write)[1]]

    assert answered == [False, False, False, True, True]
    assert asked == [500, 20, 500, 5_000, 10_000]


def test_the_doctor_knows_a_server_that_sentinel_names(tmp_path: Path) -> None:
    """It may be replaced, though it has no replica at this moment."""
    for name in ("server", "sentinel"):
        (tmp_path / name).mkdir()
    server = Valkey(tmp_path / "server")
    sentinel = Sentinel(tmp_path / "sentinel", server)
    try:
        server.ready()
        sentinel.ready()
        address = StateServer(f"{sentinel.url}?master_name={sentinel.master}", "a test", {})
        with connect(address) as client:
            facts = gathering.state_facts(client, "a test", 0)
    finally:
        sentinel.teardown()
        server.teardown()

    assert facts.by_sentinel
    assert facts.replicas == 0


def test_the_doctor_counts_replicas(pair: Pair) -> None:
    """And sees whether the master takes writes without them."""
    open_to_all = gathering.state_facts(pair.client, "a test", 1)
    pair.client.config_set("min-replicas-to-write", 1)
    guarded = gathering.state_facts(pair.client, "a test", 1)
    pair.client.config_set("min-replicas-to-write", 0)

    assert (open_to_all.replicas, open_to_all.guarded, open_to_all.by_sentinel) == (1, False, False)
    assert guarded.guarded
