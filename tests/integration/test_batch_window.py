"""A file's prompts on their way through a broker that is away, or loses what it was given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Producer
from kombu.exceptions import OperationalError
from shop import Shop, wait_for

from freddy_tasks import cancel_response
from freddy_tasks.batch import Outcome
from freddy_tasks.batch.checkpoint import Checkpoint
from freddy_tasks.batch.items import Item
from freddy_tasks.batch.window import SURVEY_EVERY, Window

SIZE = 5
NOBODYS = "nobodys"  # a queue that no worker reads


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    """A run that has not begun."""
    with Checkpoint(tmp_path / "answers.jsonl", "print", SIZE) as run:
        yield run


@pytest.fixture
def queued(shop: Shop) -> Iterator[Callable[[], int]]:
    """How many messages the queue that nobody reads has, of every priority."""
    client = shop.app.backend.client
    yield lambda: sum(client.llen(key) for key in client.keys(f"{NOBODYS}*"))
    client.delete(*client.keys(f"{NOBODYS}*"), "nothing")


def window_of(shop: Shop, checkpoint: Checkpoint, **options: Any) -> Window:
    """A window that all prompts fit in."""
    items = [Item(number, f"prompt {number}") for number in range(SIZE)]
    settings: dict[str, Any] = {"end": SIZE, "size": SIZE, "options": {}, **options}
    return Window(shop.app, shop.runtime.ledger, checkpoint, items, **settings)


def outcomes_of(window: Window, checkpoint: Checkpoint) -> set[Outcome | None]:
    """How the prompts ended, once all have."""
    wait_for(lambda: window.step() >= 0 and window.done)
    return {checkpoint.outcome(index) for index in range(SIZE)}


def test_what_a_broken_off_publish_left_is_sent_by_the_next_step(
    shop: Shop, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted as in flight from the first attempt on, and yet no message of it exists."""
    publish, left = Producer.publish, iter(range(2))
    published: set[str] = set()

    def falter(self: Producer, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            if next(left, None) is None:
                raise OperationalError("the broker is away")
            published.add(kwargs["headers"]["id"])
        return publish(self, *args, **kwargs)

    monkeypatch.setattr(Producer, "publish", falter)
    window = window_of(shop, checkpoint)
    with pytest.raises(OperationalError):
        window.step()
    assert window.in_flight == SIZE
    left = iter(range(SIZE))
    window.step()

    assert published == {checkpoint.task_id(index) for index in range(SIZE)}
    assert outcomes_of(window, checkpoint) == {Outcome.COMPLETED}
    assert set(shop.api.counts.submits.values()) == {1}
    assert shop.api.counts.posts == SIZE


def test_messages_that_the_broker_lost_are_published_again(
    shop: Shop, checkpoint: Checkpoint, queued: Callable[[], int]
) -> None:
    """When no worker has begun them at two surveys in a row; and once, while nobody takes them."""
    now = [0.0]
    window = window_of(shop, checkpoint, queue=NOBODYS, monotonic=lambda: now[0])
    seen = []

    def survey() -> None:
        now[0] += SURVEY_EVERY
        window.step()  # it finds what is lost
        window.step()  # and this one sends it
        seen.append(queued())

    window.step()
    shop.app.backend.client.delete(*shop.app.backend.client.keys(f"{NOBODYS}*"))
    for _ in range(4):
        survey()

    assert seen == [0, SIZE, SIZE, SIZE]
    assert window.in_flight == SIZE


def test_a_prompt_that_was_cancelled_before_its_message_was_lost_ends(
    shop: Shop, checkpoint: Checkpoint, queued: Callable[[], int]
) -> None:
    """Only a message can give it its end; another one does."""
    now = [0.0]
    lost = window_of(shop, checkpoint, queue=NOBODYS)
    lost.step()
    for index in range(SIZE):
        cancel_response(checkpoint.task_id(index))
    shop.app.backend.client.delete(*shop.app.backend.client.keys(f"{NOBODYS}*"))
    window = window_of(shop, checkpoint, monotonic=lambda: now[0])
    window.step()
    for _ in range(2):
        now[0] += SURVEY_EVERY
        window.step()

    assert outcomes_of(window, checkpoint) == {Outcome.CANCELLED}
    assert shop.api.counts.posts == 0
    assert queued() == 0
