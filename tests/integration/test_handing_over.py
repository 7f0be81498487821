"""What a hop that died left half done with Celery is done by the next one, and only that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import chord
from celery.backends.redis import RedisBackend
from redis.exceptions import ConnectionError as ServerAway
from shop import Shop, answer_of, wait_for

from freddy_tasks import process_ai_response
from freddy_tasks.records import Phase
from freddy_tasks.runtime import use

PROMPTS = ("whales", "otters")


class Unclosed:
    """A ledger that keeps each outcome past the first hop, as when that one died before it closed it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.left: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def close(self, task_id: str, generation: int) -> Any:
        """Like the ledger's, from the second call on."""
        if task_id not in self.left:
            self.left.add(task_id)
            raise ServerAway
        return self._inner.close(task_id, generation)


@pytest.fixture
def unclosed(shop: Shop) -> Iterator[Unclosed]:
    """The app's ledger until the test ends."""
    ledger = Unclosed(shop.runtime.ledger)
    use(shop.app, replace(shop.runtime, ledger=ledger))
    yield ledger
    use(shop.app, shop.runtime)


def closed(shop: Shop, result: Any) -> bool:
    """Whether the ledger has let go of all members of a chord."""
    records = [shop.runtime.ledger.record(member.id) for member in result.parent.results]
    return all(record is not None and record.phase is Phase.CLOSED for record in records)


def test_a_body_that_a_dead_worker_had_claimed_is_started_when_its_claim_ends(
    shop: Shop, unclosed: Unclosed
) -> None:
    """Celery lets no second worker start it meanwhile: the answer is not let go of before."""
    body = shop.collect.s()
    result = chord([process_ai_response.s(f"{name} [emulate: duration=1]") for name in PROMPTS])(body)
    backend = shop.app.backend
    backend.client.set(backend.get_key_for_group(result.parent.id, ".c"), "of a dead worker", ex=4)

    assert sorted(text[:12] for text in answer_of(result)) == ["About otters", "About whales"]
    wait_for(lambda: closed(shop, result))
    assert len(shop.witness.calls_of("collect")) == 1
    assert unclosed.left == {member.id for member in result.parent.results}


def test_a_body_that_is_under_way_is_not_started_again(shop: Shop, unclosed: Unclosed) -> None:
    """A worker that died just after it had published it left the count, complete, for the next."""
    result = chord([process_ai_response.s(name) for name in PROMPTS])(shop.collect.s())
    answer_of(result)
    backend = shop.app.backend
    claim = backend.get_key_for_group(result.parent.id, ".c")
    wait_for(lambda: backend.client.get(claim) == b"done")
    backend.client.delete(claim)
    backend.client.set(backend.get_key_for_group(result.parent.id, ".s"), len(PROMPTS), ex=60)
    wait_for(lambda: closed(shop, result))

    assert len(shop.witness.calls_of("collect")) == 1
    assert shop.api.counts.posts == 2


def test_a_backend_that_is_away_while_it_counts_fails_no_chord(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery would count the broken connection as the member's failure, and the body would never run."""
    count, refused = RedisBackend.on_chord_part_return, []

    def refuse_some(self: RedisBackend, request: Any, *args: Any, **options: Any) -> Any:
        if len(refused) < len(PROMPTS) + 1:
            refused.append(request.id)
            raise ServerAway
        return count(self, request, *args, **options)

    monkeypatch.setattr(RedisBackend, "on_chord_part_return", refuse_some)
    result = chord([process_ai_response.s(name) for name in PROMPTS])(shop.collect.s())

    assert answer_of(result) == ["About whales", "About otters"]
    assert len(shop.witness.calls_of("collect")) == 1
    assert len(refused) == 3
    assert shop.api.counts.posts == 2
