"""`task_always_eager`: the way many apps run their own tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from celery import Celery, chain, chord
from shop import Shop

from freddy_tasks import InvalidRequest, ResponseFailed, process_ai_response
from freddy_tasks.emulator import Emulator
from freddy_tasks.runtime import build, use
from freddy_tasks.settings import Settings

FAILING = "Fail [emulate: status=failed code=model_error message=No_luck]"


def _texts(responses: list[dict[str, str]]) -> list[str]:
    return [response["output_text"] for response in responses]


def _more(response: dict[str, str]) -> str:
    return f"more {response['output_text']}"


@pytest.fixture
def eager(shop: Shop, settings: Settings) -> Iterator[Shop]:
    """An app in eager mode without broker or worker; its pauses pass at once."""
    app = Celery("eager", broker="redis://localhost:1", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=True, include=["freddy_tasks.tasks"])
    use(app, replace(build(app, settings), sleep=lambda _: None))
    app.set_current()
    yield replace(
        shop,
        app=app,
        collect=app.task(name="eager.collect", shared=False)(_texts),
        rewrite=app.task(name="eager.rewrite", shared=False)(_more),
    )
    shop.app.set_current()


def test_an_eager_call_returns_the_response(eager: Shop, api: Emulator) -> None:
    """Not an `Ignore`, not an id."""
    result = process_ai_response.delay("whales [emulate: polls=3]")

    assert result.get()["output_text"].startswith("About whales")
    assert result.get()["polls"] == 4
    assert result.state == "SUCCESS"
    assert api.counts.posts == 1


def test_a_direct_call_returns_the_response(eager: Shop) -> None:
    """A task called as the function it is."""
    assert process_ai_response("whales [emulate: polls=0]")["status"] == "completed"


def test_an_eager_chord_collects_the_responses(eager: Shop) -> None:
    """The body gets answers."""
    header = [process_ai_response.s(f"{name} [emulate: polls=1]") for name in ("whales", "otters")]
    result = chord(header)(eager.collect.s())

    assert [text.split(" [")[0] for text in result.get()] == ["About whales", "About otters"]


def test_an_eager_chain_goes_on(eager: Shop) -> None:
    """Response after response."""
    steps = (process_ai_response.s("whales [emulate: polls=0]"), eager.rewrite.s(), process_ai_response.s())
    result = chain(*steps)()

    assert result.get()["output_text"].startswith("About more About whales")


def test_an_eager_failure_raises_its_error(eager: Shop) -> None:
    """The same class as from a worker, with the same facts."""
    with pytest.raises(ResponseFailed, match="No luck") as caught:
        process_ai_response.delay(FAILING)

    assert caught.value.code == "model_error"


def test_an_eager_bad_prompt_raises(eager: Shop) -> None:
    """As it does with a worker."""
    with pytest.raises(InvalidRequest):
        process_ai_response.delay("")


def test_five_hundred_eager_polls_do_not_recurse(eager: Shop, api: Emulator) -> None:
    """A loop, however long the wait."""
    answer = process_ai_response.delay("whales [emulate: polls=500]").get()

    assert answer["polls"] == 501
    assert api.counts.polls == {answer["id"]: 501}
