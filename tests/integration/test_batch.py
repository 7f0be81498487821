"""Batches on a real worker: in order, once, and everything accounted for however badly it goes."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from celery import Celery, signals
from redis.exceptions import ConnectionError  # noqa: A004  # the one that a client of Redis raises
from shop import Shop, wait_for

from freddy_tasks import (
    Batch,
    BatchFailed,
    BatchItem,
    BatchResult,
    ConfigurationError,
    InvalidRequest,
    ResponseFailed,
    cancel_response,
    desk,
    process_batch,
)
from freddy_tasks.batch import Outcome, handle, look
from freddy_tasks.batch.record import Record
from freddy_tasks.batch.tasks import collect_batch, salvage_batch
from freddy_tasks.continuation import POLL, SUBMIT
from freddy_tasks.ledger import Ledger
from freddy_tasks.records import Enlisted, Phase
from freddy_tasks.runtime import runtime_of

OPTIONS = {"queue": "urgent", "shadow": "ours"}
DEADLINE = 40.0  # seconds: a test that has to wait longer has failed
FAILING = "Fail {} [emulate: status=failed code=model_error message=No_luck]"
ENDLESS = "Wait {} [emulate: duration=600]"


def mixed(count: int) -> list[str]:
    """So many prompts, every fifth of which fails."""
    return [(FAILING if number % 5 == 2 else "prompt {}").format(number) for number in range(count)]


def outcomes(items: tuple[BatchItem, ...]) -> dict[str, int]:
    """How many ended each way."""
    return dict(Counter(item.outcome.value for item in items))


def calls_of(shop: Shop, command: str) -> int:
    """How often the server was given a command."""
    stats = shop.app.backend.client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_answers_come_in_the_order_of_the_prompts(shop: Shop) -> None:
    """The handle's generator follows the prompts, whichever answer is first."""
    slow_first = ["first [emulate: duration=1]", *(f"prompt {number}" for number in range(5))]

    items = list(process_batch(slow_first).results(DEADLINE))

    assert [item.output_text for item in items] == [f"About {prompt}" for prompt in slow_first]
    assert [item.id for item in items] == list(range(6))
    assert shop.api.counts.posts == 6


def test_the_callback_gets_a_result_of_all_once(shop: Shop) -> None:
    """One call, after the last answer, with everything in order and what it cost."""
    batch = process_batch(
        [{"id": "a", "prompt": "ants"}, {"id": "b", "prompt": "bees"}], callback=shop.note.s()
    )

    [(given,)] = wait_for(lambda: shop.witness.calls_of("note"))
    result = BatchResult.from_result(given)
    assert [(item.id, item.output_text) for item in result.completed] == [
        ("a", "About ants"),
        ("b", "About bees"),
    ]
    assert result.counts == {"completed": 2, "failed": 0, "cancelled": 0, "unknown": 0}
    assert result.usage["total_tokens"] == sum(item.usage["total_tokens"] for item in result.items)
    assert batch.get(DEADLINE) == result


def test_an_app_that_ignores_results_keeps_those_of_a_batch(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`task_ignore_result` is a usual setting, and every answer would be paid for and lost."""
    for name in (SUBMIT, POLL, collect_batch.name, salvage_batch.name):
        monkeypatch.setattr(shop.app.tasks[name], "ignore_result", True)
    batch = process_batch(mixed(5), callback=shop.note.s())

    assert batch.get(DEADLINE).counts["completed"] == 4
    assert outcomes(tuple(batch.results(DEADLINE))) == {"completed": 4, "failed": 1}


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_end_that_is_delivered_twice_calls_once(shop: Shop, cancelled: bool) -> None:
    """As when a worker dies between its call and its acknowledgement: of the body, or of its stand-in."""
    ends: list[tuple[str, str]] = []

    def note_end(task: Any, task_id: str, state: str, **_: Any) -> None:
        if task.name in {collect_batch.name, salvage_batch.name}:
            ends.append((task_id, state))

    signals.task_postrun.connect(note_end)
    batch = process_batch([ENDLESS.format(0) if cancelled else "ants"], callback=shop.note.s())
    if cancelled:
        batch.cancel()
    wait_for(lambda: ends)
    task, args = (salvage_batch, ("", batch.id)) if cancelled else (collect_batch, ([], batch.id))
    end_id = Record(batch.id, 1).salvage_id if cancelled else batch.id
    task.apply_async(args, task_id=end_id, link=shop.note.s())
    wait_for(lambda: len(ends) == 2 and shop.witness.calls_of("note"))

    assert ends == [(end_id, "SUCCESS"), (end_id, "IGNORED")]
    assert len(shop.witness.calls_of("note")) == 1
    assert batch.get(DEADLINE).counts["cancelled" if cancelled else "completed"] == 1


def test_a_fifth_that_fails_leaves_the_rest_and_is_named(shop: Shop) -> None:
    """With "collect" each prompt is in exactly one place, and the callback runs once."""
    batch = process_batch(mixed(30), callback=shop.note.s(), errback=shop.complain.s())

    result = batch.get(DEADLINE)
    assert [item.id for item in result.failed] == list(range(2, 30, 5))
    assert {type(item.error) for item in result.failed} == {ResponseFailed}
    assert len(result.completed) == 24
    assert outcomes(result.items) == {"completed": 24, "failed": 6}
    wait_for(lambda: shop.witness.calls_of("note"))
    assert len(shop.witness.calls_of("note")) == 1
    assert shop.witness.calls_of("complain") == []
    assert batch.progress().done


def test_items_carry_fields_of_their_own(shop: Shop) -> None:
    """What an item says goes before what the batch says."""
    batch = process_batch([{"prompt": "ants", "model": "small"}, "bees"], model="large")
    batch.get(DEADLINE)

    sent = [shop.witness.hops(task_id)[0]["kwargs"] for task_id in batch.task_ids]
    assert [kwargs["model"] for kwargs in sent] == ["small", "large"]
    assert {kwargs["lane"] for kwargs in sent} == {"batch"}


def test_a_bad_item_is_named_and_nothing_is_sent(shop: Shop) -> None:
    """All prompts are checked before the first is published."""
    with pytest.raises(InvalidRequest, match="'b'"):
        process_batch([{"id": "a", "prompt": "ants"}, {"id": "b", "prompt": ""}])

    assert shop.api.counts.posts == 0


@pytest.mark.parametrize(("share", "fails"), [(0.2, False), (0.1, True)])
def test_a_share_of_failures_is_tolerated_and_more_is_not(shop: Shop, share: float, fails: bool) -> None:
    """The share is judged at the end: all that was answered can still be read."""
    batch = process_batch(mixed(10), on_error=share, callback=shop.note.s(), errback=shop.complain.s())

    if fails:
        with pytest.raises(BatchFailed, match="2 of 10") as caught:
            batch.get(DEADLINE)
        assert caught.value.info["counts"]["completed"] == 8
        assert len(wait_for(lambda: shop.witness.calls_of("complain"))) == 1
        assert shop.witness.calls_of("note") == []
    else:
        assert len(batch.get(DEADLINE).completed) == 8
        assert len(wait_for(lambda: shop.witness.calls_of("note"))) == 1
        assert shop.witness.calls_of("complain") == []
    assert outcomes(tuple(batch.results(DEADLINE))) == {"completed": 8, "failed": 2}


def test_fail_fast_cancels_what_has_not_ended(shop: Shop) -> None:
    """The first failure ends it: nothing waits for the endless ones, and the API is told."""
    prompts = [FAILING.format(0), *(ENDLESS.format(number) for number in range(4))]
    batch = process_batch(prompts, on_error="fail_fast", callback=shop.note.s(), errback=shop.complain.s())

    with pytest.raises(ResponseFailed, match="No luck"):
        batch.get(DEADLINE)
    assert len(wait_for(lambda: shop.witness.calls_of("complain"))) == 1
    assert shop.witness.calls_of("note") == []
    assert outcomes(tuple(batch.results(DEADLINE))) == {"failed": 1, "cancelled": 4}
    wait_for(lambda: shop.api.counts.deletes == shop.api.counts.posts - 1)


def test_a_cancelled_member_does_not_keep_the_rest_from_the_callback(shop: Shop) -> None:
    """Celery fails a chord with a revoked member; a batch that collects is salvaged, once."""
    batch = process_batch([*mixed(6), ENDLESS.format(0)], callback=shop.note.s())
    wait_for(lambda: batch.progress().queued + batch.progress().in_progress + batch.progress().ended == 7)

    cancel_response(batch.task_ids[-1])

    result = batch.get(DEADLINE)
    assert result.counts == {"completed": 5, "failed": 1, "cancelled": 1, "unknown": 0}
    [(given,)] = wait_for(lambda: shop.witness.calls_of("note"))
    assert given == result.to_result()


def test_a_whole_batch_can_be_cancelled(shop: Shop) -> None:
    """What was not answered is cancelled, here and at the API, and the callback is told so."""
    batch = process_batch([ENDLESS.format(number) for number in range(5)], callback=shop.note.s())
    wait_for(lambda: shop.api.counts.posts == 5)

    assert batch.cancel() == 5
    assert batch.get(DEADLINE).counts["cancelled"] == 5
    assert len(wait_for(lambda: shop.witness.calls_of("note"))) == 1
    wait_for(lambda: shop.api.counts.deletes == 5)
    assert batch.progress().cancelled == 5


def test_a_result_that_expired_counts_as_unknown(shop: Shop) -> None:
    """Nobody waits for a result that is gone, and it is not sent again without a word."""
    batch = process_batch([f"prompt {number}" for number in range(3)])
    batch.get(DEADLINE)
    # The body may end before the last prompt's own task does, which stores its result once more.
    ledger = shop.runtime.ledger
    wait_for(lambda: all(one.phase is Phase.CLOSED for _, one in look.standings(ledger, batch.task_ids)))

    shop.app.backend.forget(batch.task_ids[1])

    items = list(Batch.restore(batch.id, shop.app).results(DEADLINE))
    assert [item.outcome for item in items] == [Outcome.COMPLETED, Outcome.UNKNOWN, Outcome.COMPLETED]
    found = Batch.restore(batch.id, shop.app)
    prompts = [f"prompt {number}" for number in range(3)]
    assert len(found.retry_failed(prompts)) == 0
    again = found.retry_failed(prompts, even_unknown=True)
    assert [item.output_text for item in again.results(DEADLINE)] == ["About prompt 1"]


def test_a_batch_that_takes_too_long_is_a_timeout_of_pythons_own(shop: Shop) -> None:
    """As everywhere; Celery's exception of that name is another one."""
    batch = process_batch([ENDLESS.format(0)])

    with pytest.raises(TimeoutError, match=batch.id):
        batch.get(0.1)
    with pytest.raises(TimeoutError, match=batch.id):
        next(batch.results(0.1))
    batch.cancel()


def test_nobody_waits_for_an_end_that_was_lost(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of a chord's body can be lost as any other: the prompts have their results."""
    monkeypatch.setattr(handle, "PATIENCE", 0.05)
    batch = process_batch(mixed(5))
    batch.get(DEADLINE)
    shop.app.backend.forget(batch.id)

    assert Batch.restore(batch.id).get(DEADLINE).counts["completed"] == 4


def forget(shop: Shop, batch: Batch) -> None:
    """Let the ledger know nothing of its prompts."""
    ledger = shop.runtime.ledger
    ledger.redis.delete(*(f"{ledger.prefix}:job:{task_id}" for task_id in batch.task_ids))
    for line in ("due", "ready:submit", "ready:look"):
        ledger.redis.zrem(f"{ledger.prefix}:{line}", *batch.task_ids)


def test_nobody_waits_for_a_batch_that_the_servers_have_forgotten(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emptied server has neither its messages nor its record: its outcomes are unknown."""
    monkeypatch.setattr(handle, "PATIENCE", 0.05)
    batch = process_batch(["ants", "bees"], group_options={"queue": "nobodys"})
    client = shop.runtime.ledger.redis
    client.delete(*client.keys("nobodys*"), *client.keys(f"*{batch.id}"))
    forget(shop, batch)

    assert [item.outcome for item in batch.results(DEADLINE)] == [Outcome.UNKNOWN] * 2
    assert batch.get(DEADLINE).counts["unknown"] == 2


def test_what_ended_days_ago_and_is_not_kept_is_unknown(shop: Shop) -> None:
    """A batch can take longer than results are kept, and longer than the ledger remembers what has ended."""
    batch = process_batch(["ants", "bees"], group_options={"queue": "nobodys"})
    client = shop.runtime.ledger.redis
    (key,) = client.keys(f"{shop.runtime.ledger.prefix}:batch:{batch.id}")
    kept = json.loads(client.get(key))
    client.set(key, json.dumps({**kept, "created_at": kept["created_at"] - 4 * 86_400}))
    forget(shop, batch)

    old = Batch.restore(batch.id)
    assert old.progress().unknown == 2
    assert [item.outcome for item in old.results(DEADLINE)] == [Outcome.UNKNOWN] * 2


def test_a_batch_is_found_again_by_its_id(shop: Shop) -> None:
    """Another process needs nothing but the id; the prompts are not in what it finds."""
    batch = process_batch([{"id": "a", "prompt": "secret ants"}])
    batch.get(DEADLINE)

    again = Batch.restore(batch.id)
    assert [(item.id, item.output_text) for item in again.results(DEADLINE)] == [("a", "About secret ants")]
    assert again.get(DEADLINE) == batch.get(DEADLINE)
    assert "ants" not in str(shop.runtime.ledger.redis.get(f"{shop.runtime.ledger.prefix}:batch:{batch.id}"))
    with pytest.raises(InvalidRequest, match="No batch"):
        Batch.restore("0" * 32)


@pytest.fixture
def web(shop: Shop) -> Iterator[Celery]:
    """The current app of a process that only publishes."""
    conf = shop.app.conf
    app = Celery("web", broker=conf.broker_url, backend=conf.result_backend, set_as_current=False)
    app.conf.include = ["freddy_tasks.tasks"]
    app.finalize()
    app.set_current()
    yield app
    app.backend.result_consumer.subscribed_to.clear()  # a result that outlives the server is not to ask it


def test_a_process_without_a_key_has_batches(
    shop: Shop, web: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is the workers' own; so is the model of a prompt that names none."""
    monkeypatch.setenv("FREDDY_MODEL", "of-another-process")
    endless = process_batch([ENDLESS.format(0)])
    batch = process_batch(mixed(5))
    counts = Counter(item.outcome for item in batch.results(DEADLINE))
    again = Batch.restore(batch.id).retry_failed(mixed(5))
    wait_for(lambda: endless.progress().in_progress)
    waiting = shop.runtime.ledger.record(endless.task_ids[0])

    with pytest.raises(ConfigurationError, match="FREDDY_API_KEY is not set"):
        runtime_of(web)
    assert counts == {Outcome.COMPLETED: 4, Outcome.FAILED: 1}
    assert again.get(DEADLINE).counts == {"completed": 0, "failed": 1, "cancelled": 0, "unknown": 0}
    assert waiting.job.model == shop.runtime.settings.model
    assert endless.cancel() == 1
    assert endless.get(DEADLINE).counts["cancelled"] == 1


def test_only_the_failed_are_tried_again(shop: Shop) -> None:
    """With the ids they had; a restored handle must be given the same prompts."""
    prompts = mixed(10)
    batch = process_batch(prompts)
    batch.get(DEADLINE)

    again = Batch.restore(batch.id).retry_failed(prompts)
    assert [item.id for item in again.get(DEADLINE).items] == [2, 7]
    assert [item.id for item in batch.retry_failed().get(DEADLINE).items] == [2, 7]
    assert shop.api.counts.posts == 14
    with pytest.raises(InvalidRequest, match="not the prompts"):
        Batch.restore(batch.id).retry_failed(prompts[::-1])
    with pytest.raises(InvalidRequest, match="give them again"):
        Batch.restore(batch.id).retry_failed()


def test_results_are_read_many_at_a_round_trip(shop: Shop) -> None:
    """One for each would be thousands of them, at every look of a large batch."""
    batch = process_batch(mixed(5))
    batch.get(DEADLINE)
    absent = [str(uuid.uuid4()) for _ in range(look.CHUNK)]

    before = calls_of(shop, "mget")
    found = dict(look.ready_metas(shop.app.backend, [*absent, *batch.task_ids]))

    assert set(found) == set(batch.task_ids)
    assert calls_of(shop, "mget") == before + 2


def test_progress_adds_up_at_any_moment(shop: Shop) -> None:
    """The counts are those of all prompts, and requests are what the API counted."""
    batch = process_batch(mixed(20))
    seen = [batch.progress()]
    while not seen[-1].done:
        seen.append(batch.progress())

    for progress in seen:
        parts = progress.waiting + progress.queued + progress.in_progress + progress.ended
        assert parts == progress.total == 20
    assert seen[-1].requests == shop.api.counts.posts + shop.api.counts.gets
    assert seen[-1].seconds_left == 0.0


@pytest.mark.parametrize(
    ("prompts", "options", "told"),
    [
        ("whales", {}, "in a list, and not as one str"),
        ({"prompt": "whales"}, {}, "in a list, and not as one dict"),
        (["whales"], {"callback": "shop.note"}, "`callback` is a Celery signature"),
        (["whales"], {"errback": print}, "`errback` is a Celery signature"),
    ],
)
def test_what_is_no_batch_is_refused_before_anything_lines_up(
    shop: Shop, prompts: Any, options: dict[str, Any], told: str
) -> None:
    """A text would be as many prompts as it has letters, each of them billed."""
    with pytest.raises(InvalidRequest, match=told):
        process_batch(prompts, **options)

    assert shop.api.counts.posts == 0


@pytest.fixture
def unclosed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Batch]:
    """A batch at the moment when Celery has all results, and the ledger has not let go of its copies."""
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "close", lambda *_: False)
        batch = process_batch(mixed(5))
        assert len(list(batch.results(DEADLINE))) == 5
        yield batch
    ledger = shop.runtime.ledger
    wait_for(lambda: all(one.phase is Phase.CLOSED for _, one in look.standings(ledger, batch.task_ids)))


def test_what_has_a_result_has_ended(unclosed: Batch) -> None:
    """To the caller it has: what he does then counts with it."""
    assert (unclosed.progress().completed, unclosed.progress().failed) == (4, 1)
    again = unclosed.retry_failed()
    assert [item.id for item in again.results(DEADLINE)] == [2]
    assert again.progress().failed == 1


def test_an_answer_that_celery_will_be_given_again_has_not_ended(shop: Shop, unclosed: Batch) -> None:
    """A time limit, say, is a failure only until then: nothing is to be sent again for it."""
    shop.app.backend.forget(unclosed.task_ids[0])  # or Celery would not put a failure in place of a success
    shop.app.backend.mark_as_failure(unclosed.task_ids[0], RuntimeError("out of time"))

    assert (unclosed.progress().completed, unclosed.progress().failed) == (3, 1)
    assert [item.id for item in unclosed.retry_failed().results(DEADLINE)] == [2]
    wait_for(lambda: unclosed.progress().completed == 4)


def test_group_options_reach_every_message(shop: Shop) -> None:
    """A queue of its own carries the prompts and the end of the batch alike."""
    batch = process_batch(
        ["ants"], callback=shop.note.s(), group_options={"queue": "urgent", "shadow": "ours"}
    )
    batch.get(DEADLINE)
    wait_for(lambda: shop.witness.calls_of("note"))

    queues = {request["task"]: request["delivery_info"]["routing_key"] for request in shop.witness.requests}
    assert queues["freddy_tasks.process_ai_response"] == "urgent"
    assert queues["freddy_tasks.poll_response"] == "urgent"
    assert queues["freddy_tasks.collect_batch"] == "urgent"
    assert shop.witness.hops(batch.task_ids[0])[0]["shadow"] == "ours"


@pytest.mark.parametrize(("chosen", "first", "later"), [({}, 6, 0), ({"priority": 3}, 3, 3)])
def test_prompts_wait_in_the_broker_behind_the_polls_of_others(
    shop: Shop, chosen: dict[str, int], first: int, later: int
) -> None:
    """Unless a priority was chosen: then each message has it."""
    batch = process_batch(["ants"], group_options=chosen)
    batch.get(DEADLINE)

    submit, *polls = shop.witness.hops(batch.task_ids[0])
    assert submit["delivery_info"]["priority"] == first
    assert polls
    assert {poll["delivery_info"]["priority"] for poll in polls} == {later}


def breaking_off(monkeypatch: pytest.MonkeyPatch, after: int, then: Callable[[], None]) -> None:
    """Let the state server go away for this thread, after so many prompts."""
    enlist, left, caller = Ledger.enlist, iter(range(after)), threading.current_thread()

    def refuse(self: Ledger, prompts: Iterable[Enlisted]) -> list[Phase]:
        if threading.current_thread() is caller and next(left, None) is None:
            then()
            raise ConnectionError("the state server is away")
        return enlist(self, prompts)

    monkeypatch.setattr(desk, "CHUNK", 1)
    monkeypatch.setattr(Ledger, "enlist", refuse)


def test_a_publish_that_breaks_off_leaves_nothing_behind(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lines up already is cancelled before it can cost anything."""
    breaking_off(monkeypatch, 3, monkeypatch.undo)
    with pytest.raises(ConnectionError):
        process_batch([ENDLESS.format(number) for number in range(5)], callback=shop.note.s())

    wait_for(lambda: shop.api.counts.deletes == shop.api.counts.posts)
    assert shop.api.counts.posts <= 3
    assert shop.witness.calls_of("note") == []


def test_a_batch_that_can_be_neither_published_nor_cancelled_is_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which one is to be cancelled later."""

    def lose(*_: Any, **__: Any) -> None:
        raise ConnectionError("the state server is away")

    breaking_off(monkeypatch, 1, lambda: monkeypatch.setattr(shop.runtime.ledger, "cancel", lose))
    with pytest.raises(ConnectionError), caplog.at_level("WARNING", "freddy_tasks.batch.handle"):
        process_batch(["ants", "bees"])

    assert "published in part" in caplog.text


def test_in_eager_mode_a_batch_ends_where_it_is_called(shop: Shop) -> None:
    """Users' own tests run like that: the handle answers as any other, without a server."""
    shop.app.conf.task_always_eager = True
    try:
        batch = process_batch(["ants", FAILING.format(0)], callback=shop.note.s())
    finally:
        shop.app.conf.task_always_eager = False

    assert batch.get().counts == {"completed": 1, "failed": 1, "cancelled": 0, "unknown": 0}
    assert [item.output_text for item in batch.results()] == ["About ants", ""]
    assert batch.progress().done
    assert len(shop.witness.calls_of("note")) == 1


def test_a_batch_of_none_ends_at_once(shop: Shop) -> None:
    """Its callback runs all the same."""
    batch = process_batch([], callback=shop.note.s())

    assert batch.get(DEADLINE).items == ()
    assert len(wait_for(lambda: shop.witness.calls_of("note"))) == 1
