"""The answer inside a body, in each of the five shapes the API is known to send. Pure.

R1  {output: [{type: "message", content: [{type: "output_text", text}]}]}    background mode
R2  {response: [{type: "text", text}, …], response_id, stop_reason}          today's synchronous reply
R3  {choices: [{message: {content}}]}                                        older reply
R4  {output: [{content: "…"}]}                                               older client's model
R5  {data: [{event, isResponse, response}, …]}                               collected stream events
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .models import Response

TEXT_PARTS = frozenset({"output_text", "text", "message", ""})
"""Types of parts whose text is the answer: a refusal, a tool call or reasoning is none."""

BETWEEN_MESSAGES = "\n"


def output_text(body: Mapping[str, Any]) -> str:
    """The answer's text: parts of a message joined as they are, messages by a line break; "" without any.

    Never raises, whatever the JSON.
    """
    for key, read in READERS.items():
        if text := read(body.get(key)):
            return text
    return ""


def holds_answer(body: Mapping[str, Any]) -> bool:
    """True when the body is a finished answer by its shape, even one without text, such as a tool call."""
    if output_text(body):
        return True
    return any(isinstance(body.get(key), list) and body[key] for key in ("output", "response", "choices"))


def terminal_result(response: Response, polls: int) -> dict[str, Any]:
    """The API's terminal object as a Celery result: its own fields, `output_text`, and our `polls`.

    `id`, `status`, `created_at`, `completed_at`, `output` and `usage` are there in every dialect, None
    where unknown; an answer of another shape than background mode's is repeated in that shape.
    """
    body = dict(response.body)
    output = body.get("output")
    return body | {
        "id": response.id,
        "status": response.status.value,
        "created_at": _told(body.get("created_at"), response.created_at),
        "completed_at": _told(body.get("completed_at"), response.completed_at),
        "output": output if isinstance(output, list) else _as_output(response.output_text),
        "usage": body.get("usage"),
        "output_text": response.output_text,
        "polls": polls,
    }


def _told(raw: object, moment: float | None) -> int | float | None:
    """The API's own number where it sent one, so that a whole second stays whole."""
    return raw if isinstance(raw, int | float) and raw == moment and raw is not True else moment


def _as_output(text: str) -> list[dict[str, Any]] | None:
    if not text:
        return None
    return [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}]


def _items_text(items: object) -> str:
    if isinstance(items, str):
        return items
    texts = (_item_text(item) for item in _listed(items))
    return BETWEEN_MESSAGES.join(text for text in texts if text)


def _item_text(item: object) -> str:
    if isinstance(item, Mapping) and (item.get("type") or "message") == "message" and "content" in item:
        return _parts_text(item["content"]) if item.get("role", "assistant") == "assistant" else ""
    return _part_text(item)


def _parts_text(parts: object) -> str:
    return "".join(_part_text(part) for part in _listed(parts))


def _part_text(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or str(part.get("type") or "") not in TEXT_PARTS:
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else ""


def _choices_text(choices: object) -> str:
    """Of the first choice: the others are alternatives to it, not more of it."""
    first = next(iter(_listed(choices)), None)
    message = first.get("message") if isinstance(first, Mapping) else None
    return _parts_text(message.get("content")) if isinstance(message, Mapping) else ""


def _events_text(events: object) -> str:
    """Of the last event that carries the response: earlier ones are drafts of it."""
    said = [
        event["response"]
        for event in _listed(events)
        if isinstance(event, Mapping) and event.get("isResponse") and isinstance(event.get("response"), str)
    ]
    return next((text for text in reversed(said) if text), "")


def _listed(value: object) -> Iterable[object]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


READERS: Mapping[str, Callable[[object], str]] = {
    "output": _items_text,
    "response": _parts_text,
    "choices": _choices_text,
    "data": _events_text,
}
