"""A response is a Celery task like any other: alone, with callbacks, in chains, groups and chords."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chain, chord, group
from shop import Shop, answer_of, wait_for

from freddy_tasks import ResponseFailed, from_result, process_ai_response

FAILING = "Fail [emulate: status=failed code=model_error message=No_luck]"


def prompts(count: int) -> list[str]:
    """So many prompts, none like another."""
    return [f"prompt {number}" for number in range(count)]


def abouts(count: int) -> list[str]:
    """The answers to them, in order."""
    return [f"About {prompt}" for prompt in prompts(count)]


def test_a_response_alone_is_the_result_of_its_task(shop: Shop) -> None:
    """The plain call, and what is promised of its result."""
    result = process_ai_response.delay("whales")

    response = answer_of(result)
    assert response["output_text"] == "About whales"
    assert response["status"] == "completed"
    assert response["id"].startswith("resp_")
    assert response["polls"] >= 1
    assert result.state == "SUCCESS"
    assert shop.api.counts.posts == 1


def test_a_callback_gets_the_response(shop: Shop) -> None:
    """`link` runs once, after the answer and not after the submit."""
    answer_of(process_ai_response.apply_async(("whales",), link=shop.title.s()))

    assert wait_for(lambda: shop.witness.calls_of("title")) == ["About whales"]


def test_an_errback_of_one_argument_gets_the_id(shop: Shop) -> None:
    """Celery's old style: it runs as a task."""
    result = process_ai_response.apply_async((FAILING,), link_error=shop.complain.s())

    with pytest.raises(ResponseFailed):
        answer_of(result)
    assert wait_for(lambda: shop.witness.calls_of("complain")) == [result.id]


def test_an_errback_of_three_arguments_gets_the_error(shop: Shop) -> None:
    """Celery's new style: it is called with the real exception."""
    result = process_ai_response.apply_async((FAILING,), link_error=shop.on_error.s())

    with pytest.raises(ResponseFailed):
        answer_of(result)
    [(task_id, error)] = wait_for(lambda: shop.witness.calls_of("on_error"))
    assert task_id == result.id
    assert type(error) is ResponseFailed
    assert error.code == "model_error"


def test_a_chain_goes_on_after_the_answer(shop: Shop) -> None:
    """A response first, an ordinary task after it."""
    result = chain(process_ai_response.s("whales"), shop.title.s())()

    assert answer_of(result) == "ABOUT WHALES"


def test_a_chain_leads_to_a_response(shop: Shop) -> None:
    """An ordinary task first: what it returns is the prompt."""
    result = chain(shop.rewrite.s("whales"), process_ai_response.s())()

    assert answer_of(result)["output_text"] == "About whales, again"


def test_a_chain_of_four_steps_runs_each_once(shop: Shop) -> None:
    """Two responses among the four."""
    result = chain(
        process_ai_response.s("whales"), shop.rewrite.s(), process_ai_response.s(), shop.title.s()
    )()

    assert answer_of(result) == "ABOUT ABOUT WHALES, AGAIN"
    assert len(shop.witness.calls) == 2
    assert shop.api.counts.posts == 2


def test_a_chain_stops_at_a_failed_response(shop: Shop) -> None:
    """What follows never runs, the errback does."""
    result = chain(process_ai_response.s(FAILING), shop.rewrite.s(), shop.note.s()).apply_async(
        link_error=shop.on_error.s()
    )

    with pytest.raises(ResponseFailed):
        answer_of(result)
    wait_for(lambda: shop.witness.calls_of("on_error"))
    assert shop.witness.calls_of("rewrite") == []
    assert shop.witness.calls_of("note") == []


def test_a_group_answers_in_order(shop: Shop) -> None:
    """Five at once."""
    result = group(process_ai_response.s(prompt) for prompt in prompts(5))()

    assert [response["output_text"] for response in answer_of(result)] == abouts(5)


@pytest.mark.parametrize("count", [1, 10, 200])
def test_a_chord_s_body_runs_once_with_every_answer_in_order(shop: Shop, count: int) -> None:
    """The fan-in of a batch."""
    result = chord(process_ai_response.s(prompt) for prompt in prompts(count))(shop.collect.s())

    assert answer_of(result) == abouts(count)
    assert len(shop.witness.calls_of("collect")) == 1
    assert shop.api.counts.posts == count


def test_a_chord_stands_inside_a_chain(shop: Shop) -> None:
    """A task before it and a task behind it."""
    workflow = chain(
        shop.rewrite.s("whales"),
        chord([process_ai_response.s(), process_ai_response.s()], shop.collect.s()),
        shop.note.s(),
    )
    answer_of(workflow())

    assert shop.witness.calls_of("note") == [(["About whales, again"] * 2,)]


def test_a_chain_stands_inside_a_chord(shop: Shop) -> None:
    """Each member of the header is two responses, one after the other."""
    header = [
        chain(process_ai_response.s(prompt), shop.rewrite.s(), process_ai_response.s())
        for prompt in prompts(3)
    ]
    result = chord(header)(shop.collect.s())

    assert answer_of(result) == [f"About {about}, again" for about in abouts(3)]
    assert len(shop.witness.calls_of("collect")) == 1


def test_a_chord_stands_in_the_header_of_a_chord(shop: Shop) -> None:
    """A batch of batches."""
    inner = chord([process_ai_response.s(prompt) for prompt in prompts(2)], shop.collect.s())
    result = chord([inner, process_ai_response.s("whales")])(shop.collect.s())

    assert answer_of(result) == [abouts(2), "About whales"]


def test_a_response_can_be_the_body_of_a_chord(shop: Shop) -> None:
    """What the members returned is its prompt: a list of messages."""
    result = chord([shop.say.s("user", "Tell me"), shop.say.s("user", "about whales")])(
        process_ai_response.s()
    )

    assert "about whales" in answer_of(result)["output_text"]


def test_a_failed_member_fails_the_chord_with_its_own_error(shop: Shop) -> None:
    """The caller gets the typed error; the body never runs; the errback runs once."""
    header = [process_ai_response.s(prompt) for prompt in [*prompts(4), FAILING]]
    result = chord(header)(shop.collect.s().on_error(shop.on_error.s()))

    with pytest.raises(ResponseFailed, match="No luck"):
        answer_of(result)
    [(_, error)] = wait_for(lambda: shop.witness.calls_of("on_error"))
    assert type(error.__cause__) is ResponseFailed
    assert shop.witness.calls_of("collect") == []


def test_a_failed_member_is_a_value_with_return_exceptions(shop: Shop) -> None:
    """The body runs with all of them, and can tell which failed."""
    header = [process_ai_response.s(prompt, return_exceptions=True) for prompt in [*prompts(4), FAILING]]
    answer_of(chord(header)(shop.collect.s()))

    [responses] = shop.witness.calls_of("collect")
    assert [response.get("output_text") for response in responses[:4]] == abouts(4)
    assert isinstance(from_result(responses[4]), ResponseFailed)


def test_a_response_shows_where_it_stands_meanwhile(shop: Shop) -> None:
    """State and info of a waiting response, as a page that does not block shows them."""
    result = process_ai_response.delay("whales [emulate: duration=2 queue=1]")
    seen: dict[str, Any] = {}

    def look() -> bool:
        meta = shop.app.backend.get_task_meta(result.id, cache=False)  # state and info of one moment
        if meta["status"] in {"QUEUED", "IN_PROGRESS"}:
            seen[meta["status"]] = meta["result"]
        return result.ready()

    wait_for(look)
    assert seen.keys() == {"QUEUED", "IN_PROGRESS"}
    assert seen["IN_PROGRESS"]["response_id"] == answer_of(result)["id"]
    assert seen["IN_PROGRESS"]["polls"] >= 1
    assert seen["IN_PROGRESS"]["next_poll_at"] > 0
