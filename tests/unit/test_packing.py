"""Which steps share a message, and how many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freddy_tasks.continuation import route_of
from freddy_tasks.models import Job
from freddy_tasks.packing import LARGEST, MOST, Pace, Parcel, is_submit, parcels, share, spread
from freddy_tasks.records import Hop, Phase

JOB = Job(deadline=0.0, model="m")
HOP = Hop("t", 2, Phase.WAITING, JOB, options={"routing_key": "celery"}, body={})


def hop(name: str, phase: Phase = Phase.WAITING, size: int = 0, **options: Any) -> Hop:
    """A step, to queue "celery" unless the options say otherwise."""
    return replace(HOP, task_id=name, phase=phase, size=size, options={"routing_key": "celery", **options})


def all_with(most: int) -> Callable[[Hop], int]:
    """So many of each kind."""
    return lambda _: most


def names(packed: list[Parcel]) -> list[str]:
    """The ids of each parcel, put together."""
    return ["".join(one.task_id for one in parcel) for parcel in packed]


@pytest.mark.parametrize(
    ("waiting", "slots", "steps"),
    [
        (0, 4, 1),
        (1, 4, 1),
        (8, 4, 1),
        (9, 4, 2),
        (16, 4, 2),
        (17, 4, 3),
        (160, 4, MOST),
        (10_000, 4, MOST),
        (10, 0, 5),  # a pool that does not know its size
        (10, 1, 5),
        (50, 1_000, 1),
    ],
)
def test_a_pile_is_cut_into_two_messages_for_each_slot(waiting: int, slots: int, steps: int) -> None:
    """Rounded up, at least one step and at most `MOST`."""
    assert share(waiting, slots) == steps


@pytest.mark.parametrize(
    ("due", "free", "steps"), [(0, 8, 1), (1, 8, 1), (8, 8, 1), (9, 8, 2), (25, 8, 4), (5, 1, 5), (5, 0, 5)]
)
def test_looks_share_a_message_where_there_are_more_than_free_slots(due: int, free: int, steps: int) -> None:
    """Side by side they end sooner; without a free slot they wait for one together."""
    assert spread(due, free) == steps


@given(st.integers(0, 5_000), st.integers(0, 500))
def test_a_share_leaves_no_slot_without_work(waiting: int, slots: int) -> None:
    """A pile of more steps than slots has a message for each of them."""
    steps = share(waiting, slots)

    assert 1 <= steps <= MOST
    if steps > 1:
        assert -(-waiting // steps) >= slots


@pytest.mark.parametrize(
    ("notes", "seconds", "steps"),
    [
        ([], 1.0, 1),
        ([(0.1, 1)], 1.0, 10),
        ([(1.0, 10)], 1.0, 10),
        ([(0.1, 1)], 0.25, 2),
        ([(3.0, 1)], 1.0, 1),
        ([(0.0, 1)], 1.0, MOST),
        ([(-5.0, 1)], 1.0, MOST),  # a clock that was set back
        ([(1e9, 1)], 1.0, 1),
        ([(0.1, 1), (0.2, 1)], 1.21, 10),  # 0.12 s: a fifth of the way to the newest
    ],
)
def test_steps_fill_a_time_by_what_the_last_ones_took(
    notes: list[tuple[float, int]], seconds: float, steps: int
) -> None:
    """One while nothing is known, and always from one to `MOST`."""
    pace = Pace()
    for note in notes:
        pace.note(*note)

    assert pace.steps_in(seconds) == steps


@given(st.lists(st.tuples(st.floats(-10, 1e6), st.integers(1, 100)), max_size=20), st.floats(0, 1e6))
def test_a_pace_is_a_number_of_steps_whatever_was_noted(
    notes: list[tuple[float, int]], seconds: float
) -> None:
    """No clock and no duration makes it nothing, or too many."""
    pace = Pace()
    for note in notes:
        pace.note(*note)

    assert 1 <= pace.steps_in(seconds) <= MOST


@pytest.mark.parametrize(
    ("hops", "packed"),
    [
        ([], []),
        ([hop("a")], ["a"]),
        ([hop(name) for name in "abcdefg"], ["abc", "def", "g"]),
        ([hop("a"), hop("b", Phase.SETTLED), hop("c")], ["abc"]),
        ([hop("a", Phase.QUEUED), hop("b"), hop("c", Phase.SENT), hop("d")], ["ac", "bd"]),
        ([hop("a"), hop("b", routing_key="urgent"), hop("c")], ["ac", "b"]),
        ([hop("a"), hop("b", exchange="x"), hop("c")], ["ac", "b"]),
        ([hop("a"), hop("b", priority=6), hop("c")], ["ac", "b"]),
        ([hop("a", Phase.QUEUED), *(hop(name) for name in "bcd")], ["a", "bcd"]),
        ([hop("a", size=LARGEST), hop("b", size=1), hop("c", size=1)], ["a", "bc"]),
        ([hop("a", size=LARGEST - 1), hop("b", size=1), hop("c", size=1)], ["ab", "c"]),
        ([hop("a", size=1), hop("b", size=2 * LARGEST), hop("c", size=1)], ["a", "b", "c"]),
    ],
    ids=lambda value: ",".join(value) if value and isinstance(value[0], str) else "",
)
def test_steps_that_go_the_same_way_share_a_message(hops: list[Hop], packed: list[str]) -> None:
    """By queue, exchange, priority and kind; three at the most here, and no more text than `LARGEST`."""
    assert names(parcels(hops, all_with(3))) == packed


def test_a_step_that_may_not_share_goes_out_in_its_turn() -> None:
    """It neither joins the others nor divides them."""
    hops = [hop("a"), hop("b", time_limit=3), hop("c")]

    assert names(parcels(hops, lambda one: 1 if "time_limit" in one.options else 3)) == ["ac", "b"]


HOPS = st.lists(
    st.builds(
        hop,
        st.just(""),
        st.sampled_from([phase for phase in Phase if phase is not Phase.CLOSED]),
        st.sampled_from([0, 10, LARGEST // 2, LARGEST, 2 * LARGEST]),
        routing_key=st.sampled_from(["celery", "urgent", None]),
        priority=st.sampled_from([None, 0, 6]),
    ),
    max_size=60,
).map(lambda hops: [replace(one, task_id=str(place)) for place, one in enumerate(hops)])


@given(HOPS, st.integers(1, MOST), st.integers(1, MOST))
def test_packing_loses_and_mixes_nothing(hops: list[Hop], submits: int, looks: int) -> None:
    """Each step is in one parcel, of its own kind and way, in its order, within both bounds."""

    def size(one: Hop) -> int:
        if one.phase is Phase.CANCELLING:
            return 1
        return submits if is_submit(one) else looks

    def way(one: Hop) -> tuple[object, ...]:
        return is_submit(one), *route_of(one.options).values()

    packed = parcels(hops, size)
    order = [int(one.task_id) for parcel in packed for one in parcel]

    assert sorted(order) == list(range(len(hops)))
    assert [int(parcel[0].task_id) for parcel in packed] == sorted(
        int(parcel[0].task_id) for parcel in packed
    )
    for parcel in packed:
        assert len(parcel) <= size(parcel[0])
        assert len({way(one) for one in parcel}) == 1
        assert len(parcel) == 1 or sum(one.size for one in parcel) <= LARGEST
        assert all(int(one.task_id) < int(other.task_id) for one, other in pairwise(parcel))
        assert len(parcel) == 1 or not any(one.phase is Phase.CANCELLING for one in parcel)
    shared = [one for parcel in packed for one in parcel if size(one) > 1]
    for place in {way(one) for one in shared}:
        within = [int(one.task_id) for one in shared if way(one) == place]
        assert within == sorted(within)
