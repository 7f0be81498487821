"""What operators are told in the log while responses wait."""

from __future__ import annotations

from logs import logged
from shop import Shop, answer_of

from freddy_tasks import process_ai_response


def test_a_status_that_nobody_knows_is_logged_once(shop: Shop) -> None:
    """With the response's id and the word, however often it is seen; nothing of the prompt."""
    shop.api.set_faults(["unknown_status=pondering"])
    with logged("freddy_tasks.responses") as records:
        answer = answer_of(process_ai_response.delay("whales", metadata={"emulate": {"duration": "0.5"}}))
    told = [record.getMessage() for record in records]

    assert answer["polls"] >= 3
    assert told == [f"Response {answer['id']} has a status that this version does not know: pondering"]
