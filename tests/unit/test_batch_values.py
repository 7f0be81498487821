"""Batches without a server: what is read, how outcomes are told apart, how long the rest takes."""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freddy_tasks import (
    BatchItem,
    BatchResult,
    ConfigurationError,
    InvalidRequest,
    LedgerLost,
    OutcomeUnknown,
    ResponseCancelled,
    ResponseFailed,
)
from freddy_tasks.batch.items import fingerprint, ids_of, read_items
from freddy_tasks.batch.plan import Room, untouched
from freddy_tasks.batch.progress import Progress, seconds_left
from freddy_tasks.batch.record import Record, check_on_error
from freddy_tasks.batch.result import Outcome, total_usage
from freddy_tasks.budget import Budget

FREE = Room(math.inf, math.inf, math.inf, math.inf)
ANSWER = {"id": "resp_1", "status": "completed", "output_text": "Ants", "usage": {"total_tokens": 3}}
FAILURE = ResponseFailed(
    "No luck.", {"response_id": "resp_2", "status": "failed", "usage": {"total_tokens": 1}}
)


def test_prompts_are_read_in_all_their_forms() -> None:
    """Strings, message lists and dicts; an item without an id has its position."""
    messages = [{"role": "user", "texts": [{"text": "bees"}]}]

    items = read_items(["ants", messages, {"id": "c", "prompt": "cats", "model": "small"}])

    assert [item.id for item in items] == [0, 1, "c"]
    assert [item.prompt for item in items] == ["ants", messages, "cats"]
    assert items[2].options == {"model": "small"}
    assert "ants" not in repr(items)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"id": "a"}, "no `prompt`"),
        ({"id": True, "prompt": "x"}, "`id` is"),
        ({"id": "", "prompt": "x"}, "`id` is"),
        ({"prompt": "x", "return_exceptions": True}, "`return_exceptions`"),
        (7, "not int"),
        (b"bytes", "not bytes"),
        ({"id": "0", "prompt": "x"}, "that of item 0"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(written: Any, said: str) -> None:
    """By its position, and with what is wrong."""
    with pytest.raises(InvalidRequest, match=f"Item 1: .*{said}"):
        read_items(["fine", written])


def test_positions_are_not_kept_as_ids() -> None:
    """A record of ten thousand prompts without ids stays small."""
    assert ids_of(read_items(["ants", "bees"])) is None
    assert ids_of(read_items(["ants", {"id": "b", "prompt": "bees"}])) == (0, "b")


def test_a_fingerprint_tells_prompts_order_and_salt() -> None:
    """Equal for equal lists only, and different from batch to batch."""
    there, back = read_items(["ants", "bees"]), read_items(["bees", "ants"])

    assert fingerprint(there, "x") == fingerprint(read_items(["ants", "bees"]), "x")
    assert len({fingerprint(there, "x"), fingerprint(back, "x"), fingerprint(there, "y")}) == 3


@pytest.mark.parametrize(
    ("meta", "outcome"),
    [
        ({"status": "SUCCESS", "result": ANSWER}, Outcome.COMPLETED),
        ({"status": "SUCCESS", "result": {**ANSWER, "error": None}}, Outcome.COMPLETED),
        ({"status": "SUCCESS", "result": FAILURE.to_result()}, Outcome.FAILED),
        ({"status": "SUCCESS", "result": OutcomeUnknown("?").to_result()}, Outcome.UNKNOWN),
        ({"status": "SUCCESS", "result": LedgerLost("?").to_result()}, Outcome.UNKNOWN),
        ({"status": "SUCCESS", "result": ResponseCancelled("!").to_result()}, Outcome.CANCELLED),
        ({"status": "SUCCESS", "result": None}, Outcome.UNKNOWN),
        ({"status": "FAILURE", "result": FAILURE}, Outcome.FAILED),
        ({"status": "FAILURE", "result": OutcomeUnknown("?")}, Outcome.UNKNOWN),
        ({"status": "FAILURE", "result": RuntimeError("out of memory")}, Outcome.FAILED),
        ({"status": "REVOKED", "result": RuntimeError("revoked")}, Outcome.CANCELLED),
        ({"status": "FAILURE", "result": None}, Outcome.FAILED),
        (None, Outcome.UNKNOWN),
    ],
)
def test_each_end_of_a_task_is_one_outcome(meta: dict[str, Any] | None, outcome: Outcome) -> None:
    """An answer has a result; everything else has an error, and survives JSON."""
    item = BatchItem.of("a", "task", meta)
    again = BatchItem.from_result(json.loads(json.dumps(item.to_result())))

    assert item.outcome is again.outcome is outcome
    assert (item.result is not None) is (item.error is None) is (outcome is Outcome.COMPLETED)
    assert again.to_result() == item.to_result()
    assert type(again.error) is type(item.error)


@given(
    st.lists(
        st.sampled_from([ANSWER, FAILURE.to_result(), OutcomeUnknown("?").to_result(), None]), max_size=20
    )
)
def test_each_prompt_is_in_exactly_one_place(results: list[dict[str, Any] | None]) -> None:
    """The four parts of a result are all of it, in order."""
    items = tuple(
        BatchItem.of(index, str(index), None if result is None else {"status": "SUCCESS", "result": result})
        for index, result in enumerate(results)
    )
    result = BatchResult("batch", items)
    parts = (result.completed, result.failed, result.cancelled, result.unknown)

    assert sorted(item.id for part in parts for item in part) == list(range(len(results)))
    assert all(list(part) == sorted(part, key=lambda item: item.id) for part in parts)
    assert sum(result.counts.values()) == len(results)
    assert BatchResult.from_result(result.to_result()).to_result() == result.to_result()


def test_usage_is_added_up_by_name_and_failures_count() -> None:
    """What a failed response cost is paid for as well."""
    usage = {"total_tokens": 2, "details": {"cached": 1}, "model": "small", "estimated": True}
    odd = {"total_tokens": 1.5, "details": 4}
    items = (
        BatchItem.of(0, "a", {"status": "SUCCESS", "result": ANSWER}),
        BatchItem.of(1, "b", {"status": "FAILURE", "result": FAILURE}),
    )

    assert total_usage([usage, usage, odd]) == {"total_tokens": 5.5, "details": {"cached": 2}}
    assert BatchResult("batch", items).usage == {"total_tokens": 4}


def test_a_record_survives_its_message_and_names_the_same_tasks() -> None:
    """Task ids follow from the batch's id, so that they need not be kept."""
    record = Record(str(uuid.uuid4()), 3, 0.2, 12.5, "print", (1, "b", 3))

    again = Record.from_message(json.loads(json.dumps(record.to_message())))
    assert again == record
    assert again.task_ids() == record.task_ids()
    assert len({record.id, record.group_id, *record.task_ids()}) == 5
    assert again.item_id(1) == "b"
    assert Record("x", 3).item_id(1) == 1


@pytest.mark.parametrize("on_error", ["collect", "fail_fast", 0, 0.2, 1])
def test_three_ways_to_take_failures(on_error: str | float) -> None:
    """Two words, or a share."""
    assert check_on_error(on_error) == on_error


@pytest.mark.parametrize("on_error", ["ignore", -0.1, 1.1, True, math.nan])
def test_any_other_way_is_refused(on_error: Any) -> None:
    """With what may be said instead."""
    with pytest.raises(ConfigurationError, match="fail_fast"):
        check_on_error(on_error)


@pytest.mark.parametrize(
    ("room", "requests", "seconds"),
    [
        (FREE, 1e6, 0.0),
        (Room(20, 2.0, math.inf, math.inf), 20, 0.0),
        (Room(20, 2.0, math.inf, math.inf), 120, 50.0),
        (Room(0, 2.0, 100, 1_000), 100, 50.0),
        (Room(0, 2.0, 100, 1_000), 200, 86_400 + 50.0),
        (Room(0, 2.0, 100, 1_000), 2_200, 3 * 86_400 + 50.0),
    ],
)
def test_time_under_a_plan(room: Room, requests: float, seconds: float) -> None:
    """The minute's rate for what today allows, a day for each day's allowance after that."""
    assert room.seconds_for(requests) == pytest.approx(seconds)


def test_an_unlimited_plan_has_room_for_all() -> None:
    """Zeros in the settings mean no limit."""
    assert untouched(Budget.of("key", 0, 0, 0)) == FREE
    assert not FREE.is_limited
    assert untouched(Budget.of("key", 100, 10_000, 120)).is_limited


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_more_requests_never_take_less_time(some: int, more: int) -> None:
    """Whatever the plan."""
    room = untouched(Budget.of("key", 100, 10_000, 120))

    assert 0 <= room.seconds_for(some) <= room.seconds_for(some + more)


@pytest.mark.parametrize(
    ("progress", "room", "expected"),
    [
        (Progress(4, completed=4), FREE, 0.0),
        (Progress(4, waiting=4), FREE, None),
        (Progress(4, waiting=2, completed=2), FREE, 10.0),
        (Progress(4, waiting=4), Room(0, 2.0, math.inf, math.inf), 4.0),
        (Progress(4, waiting=2, completed=2), Room(0, 0.1, math.inf, math.inf), 40.0),
        (Progress(4, in_progress=2, failed=2), Room(0, 0.1, math.inf, math.inf), 20.0),
    ],
)
def test_the_rest_takes_as_long_as_pace_and_plan_say(
    progress: Progress, room: Room, expected: float | None
) -> None:
    """Ten seconds have passed; the slower of the two counts."""
    assert seconds_left(progress, 10.0, room) == expected


def test_progress_of_nothing_is_done() -> None:
    """No division by nought."""
    assert Progress(0).done
    assert Progress(0).share == 1.0
    assert Progress(4, waiting=3, unknown=1).share == 0.25
