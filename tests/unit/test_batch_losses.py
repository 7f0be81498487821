"""When a message of a batch counts as lost, and what has yet to run for a batch to end."""

from __future__ import annotations

import uuid

import pytest
from celery import states
from hypothesis import given
from hypothesis import strategies as st

from freddy_tasks.batch.record import OnError, Record
from freddy_tasks.batch.watch import LOOKS, missed, missing_end

BATCH = str(uuid.uuid4())


@pytest.mark.parametrize(
    ("before", "awaited", "held", "after"),
    [
        ({}, set(), set(), {}),
        ({}, {"a"}, set(), {"a": 1}),
        ({"a": 1}, {"a"}, set(), {"a": 2}),
        ({"a": 1}, {"a", "b"}, {"c"}, {"a": 2, "b": 1}),
        ({"a": 2}, {"a"}, {"a"}, {}),  # it waits, or a worker has it
        ({"a": 2}, set(), set(), {}),  # a worker has begun it, or it has ended
        ({"a": 2}, {"a"}, None, {}),  # nobody can tell
    ],
)
def test_only_what_is_awaited_and_nowhere_is_missed(
    before: dict[str, int], awaited: set[str], held: set[str] | None, after: dict[str, int]
) -> None:
    """And each look that finds it, or cannot tell, is the first again."""
    assert missed(before, awaited, held) == after


@given(st.lists(st.sampled_from(["nowhere", "held", "begun", "unclear"]), max_size=20))
def test_a_message_is_lost_at_so_many_looks_in_a_row_and_at_no_fewer(looks: list[str]) -> None:
    """Whatever was seen before them."""
    seen: dict[str, int] = {}
    for found in looks:
        awaited = set() if found == "begun" else {"a"}
        held = None if found == "unclear" else {"a"} if found == "held" else set()
        seen = missed(seen, awaited, held)

    in_a_row = len(looks) >= LOOKS and set(looks[-LOOKS:]) == {"nowhere"}
    assert (seen.get("a", 0) >= LOOKS) is in_a_row


@pytest.mark.parametrize("on_error", ["collect", 0.5, "fail_fast"])
@pytest.mark.parametrize(
    ("body", "salvage", "missing"),
    [
        (None, None, "body"),
        (states.SUCCESS, None, None),
        (states.FAILURE, None, "salvage"),
        (states.REVOKED, None, None),
        (states.FAILURE, states.SUCCESS, None),
        (states.FAILURE, states.FAILURE, None),
        (None, states.SUCCESS, None),  # what stands in is called before the body's failure is stored
    ],
)
def test_a_batch_ends_with_its_body_or_with_what_stands_in(
    on_error: OnError, body: str | None, salvage: str | None, missing: str | None
) -> None:
    """Nothing stands in where the first failure is the end."""
    kept = Record(BATCH, 3, on_error)
    ends = {kept.body_id: body, kept.salvage_id: salvage}
    found = missing_end(kept, {task_id: state for task_id, state in ends.items() if state is not None})

    if on_error == "fail_fast" and missing == "salvage":
        assert found is None
    else:
        assert found == {"body": kept.body_id, "salvage": kept.salvage_id, None: None}[missing]
