"""Several steps in one message: each is to its task what a message of its own would be."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from bench import Bench
from celery import Celery, Task, _state, chain, chord, group, signals
from celery.backends.redis import RedisBackend
from celery.concurrency.solo import TaskPool
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from celery.worker import state as worker_state
from hops import LEASE
from logs import logged
from pydantic import SecretStr
from redis.exceptions import ConnectionError as ServerAway
from shop import Shop, answer_of, wait_for

from freddy_tasks import LedgerLost, ResponseFailed, dispatcher, envelope, process_ai_response
from freddy_tasks.continuation import ADVANCE, BEHIND, HIDDEN, POLL, SUBMIT
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator
from freddy_tasks.models import Lane
from freddy_tasks.packing import Pace
from freddy_tasks.records import Held, Phase
from freddy_tasks.runtime import build, use
from freddy_tasks.settings import Settings

FAILING = "Whales [emulate: status=failed]"
SLOW = "Whales [emulate: polls=2]"
NAMES = ("whales", "otters", "kelp")


class Told(Task):
    """A base class as a user has it, which keeps what Celery calls it for."""

    abstract = True
    calls: list[tuple[str, str, Any]]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Around each hop."""
        self.calls.append(("call", self.request.id, self.name))
        return self.run(*args, **kwargs)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """As Celery has it."""
        self.calls.append(("before_start", task_id, args))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """As Celery has it."""
        self.calls.append(("on_success", task_id, retval["status"]))

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """As Celery has it."""
        self.calls.append(("on_failure", task_id, type(exc).__name__))

    def after_return(self, status: str, retval: Any, task_id: str, *_: Any) -> None:
        """As Celery has it."""
        self.calls.append(("after_return", task_id, status))


def bench_of(valkey: EmbeddedServer, api: Emulator, name: str, database: int = 0) -> Bench:
    """A bench whose app has a few tasks of its own."""
    base = type("Told", (Told,), {"abstract": True, "calls": []})
    url = f"{valkey.url}?virtual_host={database}"
    app = Celery(name, broker=url, backend=url, task_cls=base, set_as_current=False)
    app.conf.result_chord_expires = 3_600
    app.loader.import_default_modules()

    @app.task(name="collect", shared=False, base=Task)
    def collect(answers: list[Any]) -> list[str]:
        return sorted(answer["output_text"] for answer in answers)

    @app.task(name="shout", shared=False, base=Task)
    def shout(answer: Any) -> str:
        return f"{answer['output_text']}!"

    @app.task(name="complain", shared=False, base=Task)
    def complain(task_id: str) -> str:
        return task_id

    app.finalize()
    settings = Settings(
        api_key=SecretStr(api.key),
        base_url=api.url,
        plan="unlimited",
        lease=LEASE,
        state_url=SecretStr(url),
    )
    built = replace(build(app, settings), sleep=lambda _: None)
    use(app, built)
    return Bench(app, built, api)


@pytest.fixture
def bench(valkey: EmbeddedServer, state: redis.Redis, prompt_api: Emulator) -> Iterator[Bench]:
    """An app with an empty queue, and an API whose answers are there at the first look."""
    prompt_api.reset()
    before = _state._tls.current_app
    bench = bench_of(valkey, prompt_api, "bench")
    bench.app.set_current()
    yield bench
    worker_state.revoked.clear()
    # A result that outlives the server, in a failed test's traceback, must not ask it for twenty seconds.
    bench.app.backend.result_consumer.subscribed_to.clear()
    assert _state._task_stack.top is None
    assert all(task.request_stack.top is None for task in bench.app.tasks.values())
    if before is not None:
        before.set_current()


@pytest.fixture
def begun(bench: Bench) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """The task, and its request, of all that Celery traced meanwhile."""
    seen: list[tuple[Any, dict[str, Any]]] = []

    def record(sender: Any = None, task: Any = None, **_: Any) -> None:
        seen.append((sender, dict(vars(task.request))))

    signals.task_prerun.connect(record)
    yield seen
    signals.task_prerun.disconnect(record)


def names(requests: list[Any]) -> list[str]:
    """Of the messages, without our prefix."""
    return [request.type.rpartition(".")[2] for request in requests]


def alone(bench: Bench, result: AsyncResult) -> None:
    """Let a look go in a message of its own."""
    bench.make_due(result)
    assert bench.dispatch() == ["poll_response"]
    bench.work()


def test_looks_that_are_due_together_share_a_message(bench: Bench) -> None:
    """Each ends under its own id, with its own answer, at one request each."""
    results = bench.waiting(*NAMES)

    assert bench.dispatch() == ["advance_responses"]
    assert names(bench.work()) == ["advance_responses"]
    assert {result.get()["status"] for result in results} == {"completed"}
    assert len({result.get()["id"] for result in results}) == len(NAMES)
    assert [bench.phase(result) for result in results] == [Phase.CLOSED] * len(NAMES)
    assert bench.api.counts.posts == bench.api.counts.gets == len(NAMES)


def test_looks_that_bring_no_end_are_parked(bench: Bench) -> None:
    """With their next look in the waiting room, and QUEUED or IN_PROGRESS for callers."""
    results = bench.waiting(SLOW, SLOW)
    bench.dispatch()
    bench.work()

    assert {result.state for result in results} <= {"QUEUED", "IN_PROGRESS"}
    assert [result.info["polls"] for result in results] == [1, 1]
    assert [bench.phase(result) for result in results] == [Phase.WAITING] * 2
    bench.finish(*results)
    assert {result.get()["polls"] for result in results} == {3}


def test_what_is_linked_follows_each_end(bench: Bench) -> None:
    """A callback, a chain, and a chord whose members all come with one message."""
    shout, collect = bench.app.tasks["shout"], bench.app.tasks["collect"]
    linked = bench.send("a", link=shout.s())
    chained = chain(process_ai_response.s("b"), shout.s()).apply_async()
    body = chord(group(process_ai_response.s(name) for name in NAMES), collect.s()).apply_async()
    bench.work()
    bench.make_due(linked, chained.parent, *body.parent.results)

    assert bench.dispatch() == ["advance_responses"]
    assert sorted(names(bench.work())) == ["advance_responses", "collect", "shout", "shout"]
    assert chained.get() == f"{chained.parent.get()['output_text']}!"
    assert linked.children[0].get() == f"{linked.get()['output_text']}!"
    assert body.get() == sorted(member.get()["output_text"] for member in body.parent.results)


def test_a_failure_is_that_of_its_task_alone(bench: Bench) -> None:
    """The error of a message of its own, its errback called once; the others end well."""
    complain = bench.app.tasks["complain"]
    (single,) = bench.waiting(FAILING)
    alone(bench, single)
    failing, well = bench.waiting(FAILING, "whales", link_error=complain.s())
    bench.dispatch()

    assert names(bench.work()) == ["advance_responses", "complain"]
    assert well.get()["status"] == "completed"
    assert failing.state == single.state == "FAILURE"
    assert type(failing.result) is type(single.result) is ResponseFailed
    assert failing.result.code == single.result.code == "model_error"
    assert bench.phase(failing) is bench.phase(single)


def test_a_failure_may_be_a_value(bench: Bench) -> None:
    """With `return_exceptions`."""
    results = [
        bench.app.tasks[SUBMIT].apply_async((prompt,), {"return_exceptions": True})
        for prompt in (FAILING, "whales")
    ]
    bench.work()
    bench.finish(*results)

    assert [result.state for result in results] == ["SUCCESS"] * 2
    assert results[0].get()["error"]["type"] == "ResponseFailed"


@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")  # Celery's word on it
def test_a_hook_that_raises_harms_no_other_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own task has the hook's error for up to a lease, as Celery stores it, and then its true one."""

    def raising(*_: Any) -> None:
        raise RuntimeError("the complaints desk is closed")

    failing, *others = bench.waiting(FAILING, "whales", "otters")
    bench.dispatch()
    with logged("freddy_tasks.envelope") as records, monkeypatch.context() as patch:
        patch.setattr(type(bench.app.tasks[POLL]), "on_failure", raising)
        (carrier,) = bench.work()

    assert [result.state for result in others] == ["SUCCESS"] * 2
    assert [record.levelname for record in records] == ["ERROR"]
    assert bench.monitor.of(failing.id)[-1] == "failed"
    assert bench.monitor.of(carrier.id)[-1] == "succeeded"
    assert bench.phase(failing) is Phase.SETTLED
    bench.make_due(failing)
    bench.dispatch()
    bench.work()
    assert isinstance(failing.result, ResponseFailed)
    assert bench.phase(failing) is not Phase.SETTLED


def test_the_request_of_an_end_is_that_of_a_message_of_its_own(
    bench: Bench, begun: list[tuple[Any, dict[str, Any]]]
) -> None:
    """Headers, tree, canvas, `reply_to`: only the message itself is another one."""
    options = {
        "headers": {"tenant": "acme"},
        "shadow": "summaries",
        "reply_to": "a client's queue",
        "root_id": "root",
        "parent_id": "parent",
        "link": [bench.app.tasks["shout"].s()],
        "link_error": [bench.app.tasks["complain"].s()],
        "priority": 0,
    }
    (single,) = bench.waiting("whales", **options)
    alone(bench, single)
    shared, other = bench.waiting("whales", "otters", **options)
    bench.dispatch()
    bench.work()

    def request_of(result: AsyncResult) -> dict[str, Any]:
        (found,) = [
            vars_ for task, vars_ in begun if vars_["id"] == result.id and task is bench.app.tasks[POLL]
        ]
        mine = {"id", "correlation_id", "args", "properties", "delivery_info", "freddy_end", "_protected"}
        assert found["correlation_id"] == result.id
        assert {name: found["delivery_info"][name] for name in ("routing_key", "priority", "exchange")} == {
            "routing_key": "celery",
            "priority": 0,
            "exchange": "",
        }
        return {name: value for name, value in found.items() if name not in mine}

    assert request_of(single)["reply_to"] == "a client's queue"
    assert request_of(shared) == request_of(single)
    assert request_of(other) == request_of(single)


def test_hooks_of_the_app_s_own_base_class_see_each_end(bench: Bench) -> None:
    """As of a message of its own, on the app's own task."""
    calls = bench.app.tasks[POLL].calls
    (single,) = bench.waiting("whales")
    calls.clear()
    alone(bench, single)
    of_single = [(name, told) for name, task_id, told in calls if task_id == single.id]
    shared, failing = bench.waiting("whales", FAILING)
    calls.clear()
    bench.dispatch()
    bench.work()

    def told_of(result: AsyncResult) -> list[tuple[str, Any]]:
        return [(name, told) for name, task_id, told in calls if task_id == result.id]

    assert of_single == [
        ("before_start", [2]),
        ("call", POLL),
        ("on_success", "completed"),
        ("after_return", "SUCCESS"),
    ]
    assert told_of(shared) == of_single
    assert told_of(failing)[-2:] == [("on_failure", "ResponseFailed"), ("after_return", "FAILURE")]


def test_signals_come_from_the_app_s_own_task(bench: Bench) -> None:
    """A receiver that asked for this sender hears of each end."""
    heard: list[str] = []

    def hear(sender: Any = None, **_: Any) -> None:
        heard.append(sender.request.id)

    results = bench.waiting(*NAMES)
    signals.task_success.connect(hear, sender=bench.app.tasks[POLL])
    bench.dispatch()
    bench.work()
    signals.task_success.disconnect(hear, sender=bench.app.tasks[POLL])

    assert sorted(heard) == sorted(result.id for result in results)


def test_two_apps_in_one_process_end_their_own_tasks(
    bench: Bench, valkey: EmbeddedServer, prompt_api: Emulator
) -> None:
    """Each with its own backend."""
    other = bench_of(valkey, prompt_api, "other", database=5)
    mine, theirs = bench.waiting(*NAMES), other.waiting(*NAMES)
    for one in (bench, other):
        one.dispatch()
        one.work()

    assert [result.state for result in (*mine, *theirs)] == ["SUCCESS"] * 2 * len(NAMES)
    assert {call[1] for call in other.app.tasks[POLL].calls if call[0] == "on_success"} == {
        result.id for result in theirs
    }


def test_monitors_see_the_rows_of_the_tasks(bench: Bench) -> None:
    """What came of each step, in order, without prompt and answer, and the failure as Celery tells it."""
    well, slow, failing = results = bench.waiting("whales", SLOW, FAILING)
    bench.monitor.events.clear()
    bench.dispatch()
    (carrier,) = bench.work()

    begins = ["received", "started"]
    assert bench.monitor.of(well.id) == [*begins, "succeeded"]
    assert bench.monitor.of(slow.id) == [*begins, "polling"]
    assert bench.monitor.of(failing.id) == [*begins, "failed"]
    assert bench.monitor.of(carrier.id) == ["started", "succeeded"]
    failed = next(fields for kind, fields in bench.monitor.events if kind == "task-failed")
    assert failed["exception"] == repr(failing.result)
    assert failed["traceback"].rstrip().splitlines()[-1].endswith(str(failing.result))
    told = repr(bench.monitor.events)
    assert not any(secret in told for secret in ("whales", "Whales", well.get()["output_text"]))
    introduced = [fields for kind, fields in bench.monitor.events if kind == "task-received"]
    assert {fields["args"] for fields in introduced} == {HIDDEN}
    assert {fields["uuid"] for fields in introduced} == {result.id for result in results}


@pytest.mark.parametrize("span", [60.0, -1.0])
def test_where_nobody_watches_no_events_are_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, span: float
) -> None:
    """Whether all steps are taken or some handed back; and the message ends well where all are."""
    monkeypatch.setattr(envelope, "SPAN", span)
    bench.monitor.enabled = False
    results = bench.waiting(*NAMES)
    bench.dispatch()
    bench.work()
    bench.finish(*results)

    assert bench.monitor.events == []


def test_a_monitor_that_comes_in_the_middle_sees_the_next_hop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not half of this one: a row that began and never ended would stand there for ever."""
    bench.monitor.enabled = False
    results = bench.waiting(*NAMES)
    bench.dispatch()
    make = bench.request_of

    def switch_on(message: Any) -> Any:
        request = make(message)
        bench.monitor.enabled = True
        return request

    monkeypatch.setattr(bench, "request_of", switch_on)
    bench.work()

    assert [bench.monitor.of(result.id) for result in results] == [[]] * len(NAMES)


def test_an_envelope_shows_no_prompt(bench: Bench) -> None:
    """Neither to `inspect`, nor in a log."""
    bench.lined_up(*NAMES, *NAMES)
    bench.dispatch()
    bench.dispatch()
    *_, request = bench.work()

    shown = repr([request.info(), request.info(safe=True), request, str(request), bench.monitor.events])
    assert request.type == ADVANCE
    assert not any(name in shown for name in NAMES)


def test_submits_share_a_message(bench: Bench) -> None:
    """Half of those that are left for each slot; each prompt is sent once."""
    results = bench.lined_up(*NAMES, *NAMES)

    assert bench.dispatch() == ["process_ai_response"]  # the length of the line is not known yet
    assert bench.dispatch() == ["advance_responses"]
    assert bench.dispatch() == ["process_ai_response"]
    assert bench.dispatch() == ["process_ai_response"]
    assert len(bench.work()[1].args) == 3
    assert bench.api.counts.posts == 2 * len(NAMES)
    assert [bench.phase(result) for result in results] == [Phase.WAITING] * 2 * len(NAMES)
    bench.finish(*results)
    assert {result.get()["status"] for result in results} == {"completed"}


def test_a_person_s_prompt_does_not_yield_with_those_of_a_batch(bench: Bench) -> None:
    """Those wait in the broker until all else is done, and take nobody along."""
    bench.lined_up(*NAMES, *NAMES, lane=Lane.BATCH)
    bench.lined_up("a question", "another one", *NAMES)
    for _ in range(3):
        bench.dispatch()
    requests = bench.work()

    behind = [request.delivery_info["priority"] for request in requests]
    assert behind == sorted(behind, key=bool)
    for request in requests:
        lanes = {bench.runtime.ledger.record(headers["id"]).job.lane for headers, _ in steps_in(request)}
        assert lanes == ({Lane.BATCH} if request.delivery_info["priority"] == BEHIND else {Lane.NORMAL})


def steps_in(request: Any) -> list[Any]:
    """Headers and body of each."""
    return list(request.args) if request.type == ADVANCE else [(request.request_dict, None)]


def test_steps_that_there_was_no_time_for_are_handed_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are due again at once, and the pace is that of those that were taken."""
    pace = Pace()
    monkeypatch.setattr(envelope, "pace", pace)
    monkeypatch.setattr(envelope, "SPAN", -1.0)
    bench.api.set_faults(["delay=0.05@method=GET"])
    results = bench.waiting(*NAMES)
    bench.dispatch()
    bench.work()

    assert sorted(result.ready() for result in results) == [False, False, True]
    assert pace.steps_in(0.05) == 1
    bench.dispatch()
    bench.work()
    bench.dispatch()
    bench.work()
    assert [result.state for result in results] == ["SUCCESS"] * len(NAMES)
    assert bench.api.counts.gets == len(NAMES)


def test_a_pace_is_what_steps_take(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the message's time in a slot, each has its part."""
    pace = Pace()
    monkeypatch.setattr(envelope, "pace", pace)
    bench.api.set_faults(["delay=0.05@method=GET"])
    bench.waiting(*NAMES)
    bench.dispatch()
    bench.work()

    assert pace.steps_in(0.05) == 1
    assert pace.steps_in(5.0) > 1


@pytest.mark.parametrize("limit", ["rate_limit", "time_limit", "soft_time_limit"])
def test_steps_of_a_task_with_limits_travel_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """As `task_annotations`, `task_time_limit` or remote control set them."""
    monkeypatch.setattr(bench.app.tasks[POLL], limit, 60)
    bench.waiting(*NAMES)

    assert bench.dispatch() == ["poll_response"] * len(NAMES)


def test_a_step_with_a_time_limit_or_a_stamp_travels_alone(bench: Bench) -> None:
    """Celery looks at these by the message."""
    stamped = process_ai_response.s("whales").set(task_id=uuid.uuid4().hex)
    stamped.stamp(order="o-17")
    results = [
        bench.app.tasks[SUBMIT].apply_async(("otters",), time_limit=60),
        bench.app.tasks[SUBMIT].apply_async(("otters",), soft_time_limit=60),
        stamped.apply_async(),
        bench.send("kelp"),
        bench.send("kelp"),
    ]
    bench.work()
    bench.make_due(*results)

    assert sorted(bench.dispatch()) == ["advance_responses"] + ["poll_response"] * 3
    bench.work()
    assert [result.state for result in results] == ["SUCCESS"] * 5


def test_a_revoke_by_stamp_reaches_a_response_that_waits(bench: Bench) -> None:
    """At its next hop."""
    stamped = process_ai_response.s("whales")
    stamped.stamp(order="o-17")
    results = [stamped.apply_async(), bench.send("kelp"), bench.send("kelp")]
    bench.work()
    bench.make_due(*results)
    bench.dispatch()
    worker_state.revoked_stamps["order"] = ["o-17"]
    try:
        with pytest.raises(TaskRevokedError):
            bench.work()
    finally:
        worker_state.revoked_stamps.clear()
    bench.work()

    assert [result.state for result in results] == ["REVOKED", "SUCCESS", "SUCCESS"]


def test_a_revoke_ends_a_task_whose_step_is_on_its_way(bench: Bench) -> None:
    """Before the step is taken: no look is made for it, and the others end well."""
    revoked, *others = bench.waiting(*NAMES)
    assert bench.dispatch() == ["advance_responses"]
    bench.runtime.ledger.cancel(revoked.id, even_unseen=False)
    bench.work()

    assert bench.api.counts.gets == 2
    assert [result.state for result in others] == ["SUCCESS"] * 2
    assert bench.dispatch() == ["cancel_response"]
    bench.work()
    assert revoked.state == "REVOKED"


def test_a_message_that_comes_twice_asks_once(bench: Bench) -> None:
    """The second finds that all steps were taken."""
    calls = bench.app.tasks[POLL].calls
    results = bench.waiting(*NAMES, SLOW, FAILING)
    bench.dispatch()
    with bench.app.connection_for_read() as connection:
        client = connection.default_channel.client
        client.rpush("celery", client.lrange("celery", 0, 0)[0])
    before = bench.api.counts.gets
    requests = bench.work()

    assert names(requests) == ["advance_responses"] * 2
    assert bench.api.counts.gets - before == len(results)
    assert sum(name == "after_return" for name, *_ in calls) == len(results) - 1


def test_a_record_that_is_gone_in_the_middle_of_a_submit_ends_its_task(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message goes back, and the next time its step finds no record; the others are taken as well."""
    ledger = bench.runtime.ledger
    results = bench.lined_up(*NAMES, *NAMES)
    bench.dispatch()
    assert bench.dispatch() == ["advance_responses"]  # of the second to the fourth
    lost, others = results[2], [*results[:2], *results[3:]]
    claim = type(ledger).claim

    def unconfirmed(self: Any, task_id: str, generation: int, **options: Any) -> Any:
        held = claim(self, task_id, generation, **options)
        if task_id == lost.id and isinstance(held, Held):
            self.redis.delete(f"{self.prefix}:job:{task_id}")
            self.redis.zrem(f"{self.prefix}:due", task_id)
            return replace(held, confirmed=False)
        return held

    monkeypatch.setattr(type(ledger), "claim", unconfirmed)
    bench.work()
    bench.finish(*others)

    assert {result.state for result in others} == {"SUCCESS"}
    with pytest.raises(LedgerLost):
        answer_of(lost)
    assert bench.api.counts.posts == len(others)


@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")  # Celery's word on it
def test_a_result_backend_that_is_away_keeps_one_end_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes by its lease; the others have theirs, and nothing is asked again."""
    first, *others = bench.waiting(*NAMES)
    bench.dispatch()
    store = RedisBackend.store_result

    def away(self: RedisBackend, task_id: str, *args: Any, **options: Any) -> Any:
        if task_id == first.id:
            raise ServerAway("the result backend is away")
        return store(self, task_id, *args, **options)

    with logged("freddy_tasks.envelope") as records, monkeypatch.context() as patch:
        patch.setattr(RedisBackend, "store_result", away)
        bench.work()

    assert [result.state for result in others] == ["SUCCESS"] * 2
    assert ["comes back by its lease" in record.getMessage() for record in records] == [True]
    assert bench.monitor.of(first.id)[-1] == "started"
    bench.finish(first)
    assert first.get()["status"] == "completed"
    assert bench.api.counts.gets == len(NAMES)


def test_a_state_server_that_is_away_for_the_hand_back_fails_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps come back by their leases; what was taken is told to monitors."""
    ledger = bench.runtime.ledger

    def away(*_: Any, **__: Any) -> Any:
        raise ServerAway("the state server is away")

    results = bench.waiting(*NAMES)
    bench.dispatch()
    with logged("freddy_tasks.envelope") as records, monkeypatch.context() as patch:
        patch.setattr(envelope, "SPAN", -1.0)
        patch.setattr(type(ledger), "hand_back", away)
        (carrier,) = bench.work()

    assert len(records) == 1
    assert bench.monitor.of(carrier.id)[-1] == "succeeded"
    assert sum(result.ready() for result in results) == 1
    bench.finish(*results)
    assert bench.api.counts.gets == len(NAMES)


def test_a_worker_that_stops_hands_all_steps_back(bench: Bench) -> None:
    """Those that were taken are left as they are."""
    results = bench.waiting(*NAMES)
    bench.dispatch()
    with bench.app.connection_for_read() as connection:
        message = bench.app.amqp.queues["celery"](connection.default_channel).get()
        request = bench.request_of(message)
        request.hand_back()
        assert bench.dispatch() == ["advance_responses"]
        bench.work()
        request.hand_back()
        request.execute_using_pool(TaskPool(1))

    assert [result.state for result in results] == ["SUCCESS"] * len(NAMES)
    assert bench.dispatch() == []
    assert bench.api.counts.gets == len(NAMES)


def test_a_time_limit_of_the_worker_loses_no_step(bench: Bench) -> None:
    """`celery worker --time-limit` ends the message; what it did not come to is due at once."""
    bench.waiting(*NAMES)
    bench.dispatch()
    with bench.app.connection_for_read() as connection:
        request = bench.request_of(bench.app.amqp.queues["celery"](connection.default_channel).get())
        request.on_timeout(False, 1.0)

    assert bench.dispatch() == ["advance_responses"]


def test_a_worker_takes_what_is_due_together_in_one_message(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a living one, with callbacks, and with a pace of its own, however slow."""
    monkeypatch.setattr(dispatcher, "LONGEST_MESSAGE", 60.0)
    results = [
        process_ai_response.apply_async((name,), {"expected": 600}, link=shop.title.s()) for name in NAMES * 8
    ]
    ledger = shop.runtime.ledger
    ids = [result.id for result in results]
    wait_for(lambda: all((one := ledger.record(name)) and one.phase is Phase.WAITING for name in ids))
    wait_for(lambda: {job.status for job in shop.api.jobs()} == {"completed"})
    shop.witness.requests.clear()
    ledger.redis.zadd(f"{ledger.prefix}:due", dict.fromkeys(ids, 0))
    ledger.wake()

    assert {answer_of(result)["output_text"] for result in results} == {f"About {name}" for name in NAMES}
    wait_for(lambda: len(shop.witness.calls_of("title")) == len(results))
    carriers = [request for request in shop.witness.requests if request["task"] == ADVANCE]
    assert 1 <= len(carriers) < len(results)
