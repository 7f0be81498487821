"""Taking up a suspended response again: its task ends anew, and its chord does not count it twice."""

from __future__ import annotations

from celery import chord
from shop import Shop, wait_for

from freddy_tasks import process_ai_response
from freddy_tasks.cli.suspended import resumables, revive, unknown_outcomes
from freddy_tasks.ledger import Phase


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
