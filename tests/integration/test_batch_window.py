"""A file's prompts on their way into a waiting room that is away, or forgets what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError  # noqa: A004  # the one that a client of Redis raises
from shop import Shop, wait_for

from freddy_tasks import cancel_response, desk
from freddy_tasks.batch import Outcome
from freddy_tasks.batch.checkpoint import Checkpoint
from freddy_tasks.batch.items import Item
from freddy_tasks.batch.window import SURVEY_EVERY, Window
from freddy_tasks.ledger import Ledger
from freddy_tasks.records import Enlisted, Phase

SIZE = 5
NOBODYS = "nobodys"  # a queue that no worker reads


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    """A run that has not begun."""
    with Checkpoint(tmp_path / "answers.jsonl", "print", SIZE) as run:
        yield run


@pytest.fixture(autouse=True)
def nobodys(shop: Shop) -> Iterator[None]:
    """What is left in the queue that nobody reads is taken away."""
    yield
    client = shop.app.backend.client
    client.delete(*client.keys(f"{NOBODYS}*"), "nothing")


def window_of(shop: Shop, checkpoint: Checkpoint, **options: Any) -> Window:
    """A window that all prompts fit in."""
    items = [Item(number, f"prompt {number}") for number in range(SIZE)]
    settings: dict[str, Any] = {"end": SIZE, "size": SIZE, "options": {}, **options}
    return Window(shop.app, shop.runtime, checkpoint, items, **settings)


def outcomes_of(window: Window, checkpoint: Checkpoint) -> set[Outcome | None]:
    """How the prompts ended, once all have."""
    wait_for(lambda: window.step() >= 0 and window.done)
    return {checkpoint.outcome(index) for index in range(SIZE)}


def test_what_a_broken_off_publish_left_is_sent_by_the_next_step(
    shop: Shop, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted as in flight from the first attempt on, and yet the waiting room has nothing of it."""
    enlist, left = Ledger.enlist, iter(range(2))

    def falter(self: Ledger, prompts: Iterable[Enlisted]) -> list[Phase]:
        if next(left, None) is None:
            monkeypatch.setattr(Ledger, "enlist", enlist)
            raise ConnectionError("the state server is away")
        return enlist(self, prompts)

    window = window_of(shop, checkpoint)
    monkeypatch.setattr(desk, "CHUNK", 1)
    monkeypatch.setattr(Ledger, "enlist", falter)
    with pytest.raises(ConnectionError):
        window.step()
    assert window.in_flight == SIZE

    assert outcomes_of(window, checkpoint) == {Outcome.COMPLETED}
    assert set(shop.api.counts.submits.values()) == {1}
    assert shop.api.counts.posts == SIZE


def test_prompts_that_nothing_is_known_of_line_up_again(shop: Shop, checkpoint: Checkpoint) -> None:
    """While there is a mark of the run they were never begun, or a worker would have left a record."""
    now = [0.0]
    ledger = shop.runtime.ledger
    window = window_of(shop, checkpoint, queue=NOBODYS, monotonic=lambda: now[0])
    window.step()
    ids = [checkpoint.task_id(index) for index in range(SIZE)]
    with ledger.redis.pipeline() as forget:  # at one moment, or a dispatcher finds an id without a record
        for line in ("due", "ready:submit"):
            forget.zrem(f"{ledger.prefix}:{line}", *ids)
        forget.delete(*(f"{ledger.prefix}:job:{task_id}" for task_id in ids))
        forget.execute()
    now[0] += SURVEY_EVERY
    window.step()  # it finds that nothing is known
    window.step()  # and this one enlists them

    assert {ledger.record(task_id).phase for task_id in ids} == {Phase.QUEUED}
    assert window.in_flight == SIZE


def test_a_prompt_that_was_cancelled_before_it_lined_up_ends(shop: Shop, checkpoint: Checkpoint) -> None:
    """Only a worker can give it its end."""
    for index in range(SIZE):
        cancel_response(checkpoint.task_id(index))
    window = window_of(shop, checkpoint)

    assert outcomes_of(window, checkpoint) == {Outcome.CANCELLED}
    assert shop.api.counts.posts == 0
