"""Taking up a suspended response again: its task ends anew, and its chord does not count it twice."""

from __future__ import annotations

import pytest
from celery import Celery, chord
from hops import stage_of
from shop import Shop, answer_of, wait_for

from freddy_tasks import LedgerLost, process_ai_response
from freddy_tasks.cli.suspended import forgotten, rebuild, resumables, revive, unknown_outcomes
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator
from freddy_tasks.records import Phase

LONG = "whales [emulate: duration=1000]"


def test_a_revived_member_is_not_counted_twice_by_its_chord(shop: Shop) -> None:
    """Its failure, a value by `return_exceptions`, was counted; the body still waits for the other member."""
    ledger = shop.runtime.ledger
    shop.api.set_faults(["reset_after@method=POST@times=1"])
    slow = {"metadata": {"emulate": {"duration": "1000"}}}
    unknown = process_ai_response.s("one", return_exceptions=True).set(task_id="revived")
    other = process_ai_response.s("two", return_exceptions=True, **slow).set(task_id="other")
    body = chord([unknown, other.set(countdown=0.5)])(shop.collect.s())
    wait_for(lambda: [record.task_id for record in unknown_outcomes(ledger)] == ["revived"])
    wait_for(lambda: (record := ledger.record("other")) and record.phase is Phase.WAITING)
    taken_up = revive(shop.app, ledger, "revived", Phase.QUEUED, 60.0)
    again = revive(shop.app, ledger, "revived", Phase.QUEUED, 60.0)
    wait_for(lambda: (record := ledger.record("revived")) and record.phase is Phase.CLOSED)
    calls_before = shop.witness.calls_of("collect")
    shop.api.clock.advance(1_000.0)
    collected = body.get(timeout=30.0)

    assert taken_up
    assert not again
    assert shop.app.AsyncResult("revived").get(timeout=5.0)["output_text"] == "About one"
    assert shop.witness.hops("revived")[0]["chord"] is not None
    assert shop.witness.hops("revived")[-1]["chord"] is None
    assert calls_before == []
    assert len(shop.witness.calls_of("collect")) == 1
    assert collected[0]["error"]["type"] == "OutcomeUnknown"
    assert collected[1] == "About two"
    assert resumables(ledger) == []


def lose(shop: Shop, task_id: str, *, its_alarm: bool) -> None:
    """Take a record out of the ledger; with its alarm nobody is left who would look for it."""
    ledger = shop.runtime.ledger
    ledger.redis.delete(f"{ledger.prefix}:job:{task_id}")
    if its_alarm:
        ledger.redis.zrem(f"{ledger.prefix}:due", task_id)
    else:
        ledger.redis.zadd(f"{ledger.prefix}:due", {task_id: 0})
        ledger.wake()


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("has_failed", [False, True])
def test_a_response_whose_record_was_lost_goes_on(
    shop: Shop, has_failed: bool, return_exceptions: bool
) -> None:
    """Under its own task id, by the id that the result backend shows; nothing is submitted again."""
    ledger = shop.runtime.ledger
    result = process_ai_response.apply_async(
        (LONG,), {"expected": 600, "return_exceptions": return_exceptions}
    )
    wait_for(lambda: (record := ledger.record(result.id)) and record.phase is Phase.WAITING)
    lose(shop, result.id, its_alarm=not has_failed)
    if has_failed:
        with pytest.raises(LedgerLost) as failure:
            answer_of(shop.app.AsyncResult(result.id))
        assert failure.value.response_id == shop.api.jobs()[0].id
    (record,) = forgotten(shop.app, ledger, [result.id, "nobody"])
    rebuilt = rebuild(shop.app, ledger, record, 60.0)
    again = rebuild(shop.app, ledger, record, 60.0)
    shop.api.clock.advance(1_000.0)

    assert (rebuilt, again) == (True, False)
    assert answer_of(shop.app.AsyncResult(result.id))["output_text"].startswith("About whales")
    assert shop.api.counts.posts == 1


def test_what_has_ended_is_not_forgotten(shop: Shop) -> None:
    """Its record may have expired: its outcome is its last."""
    result = process_ai_response.delay("whales")
    answer_of(result)
    ledger = shop.runtime.ledger
    wait_for(lambda: (record := ledger.record(result.id)) and record.phase is Phase.CLOSED)
    lose(shop, result.id, its_alarm=True)

    assert forgotten(shop.app, ledger, [result.id]) == []


@pytest.mark.usefixtures("state")
def test_an_app_without_a_result_backend_resumes_too(valkey: EmbeddedServer, api: Emulator) -> None:
    """What was suspended, and what the ledger has lost and only a log names; an id given twice is one."""
    api.reset()
    app = Celery("bare", broker=f"{valkey.url}?virtual_host=2", backend="disabled://", set_as_current=False)
    app.loader.import_default_modules()
    app.finalize()
    stage = stage_of(app, api, valkey.url)
    ledger = stage.runtime.ledger
    stage.submit("t", LONG)
    api.set_faults(["401@method=GET@times=1"])
    stage.deliver(stage.next("t"))
    suspended = stage.phase("t")
    revived = revive(app, ledger, "t", Phase.WAITING, 60.0)
    ledger.redis.delete(f"{ledger.prefix}:job:t")
    (record,) = forgotten(app, ledger, ["t", "t"], api.jobs()[0].id)
    rebuilt = rebuild(app, ledger, record, 60.0)
    api.clock.advance(1_000.0)
    stage.deliver(stage.next("t"))

    assert suspended is Phase.SUSPENDED
    assert (revived, rebuilt) == (True, True)
    assert stage.phase("t") is Phase.CLOSED
    assert api.counts.posts == 1
