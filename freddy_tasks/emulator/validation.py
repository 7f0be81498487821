"""What the service checks in the body of a create, profile by profile; a bad one is refused with 422."""

from __future__ import annotations

import json

from freddy_tasks.emulator.errors import Refusal
from freddy_tasks.emulator.exchange import JsonObject
from freddy_tasks.emulator.options import Profile

ROLES = ("user", "system", "assistant")
NEWER_ROLES = (*ROLES, "tool")
ATTACHMENTS = ("images", "audio", "files")
MAX_INSTRUCTIONS = 5_000


def read_json(body: bytes) -> JsonObject:
    """Return the JSON object in a request's body, or refuse with 400."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "The request body is not valid JSON.") from error
    if not isinstance(payload, dict):
        raise Refusal(400, "The request body must be a JSON object.")
    return payload


def validate_create(payload: JsonObject, profile: Profile) -> None:
    """Refuse with 422, naming the field, what this profile's service would not take."""
    if profile == "strict" and "background" in payload:
        raise bad_field("background", "Extra inputs are not permitted: background")
    if profile == "get-status" and not payload.get("organization_id"):
        raise bad_field("organization_id", "Field required: organization_id")
    _check_inputs(payload.get("inputs"), profile)
    _check_switches(payload)
    _check_numbers(payload)
    _check_output_mode(payload)
    if profile == "current" and payload.get("reasoning") and payload.get("model") == "gpt-4o":
        raise bad_field("reasoning", "gpt-4o does not support reasoning")


def bad_field(name: str, message: str) -> Refusal:
    """Return the 422 for one field."""
    return Refusal(422, message, details={"fields": [{"field": name, "message": message}]})


def _check_inputs(inputs: object, profile: Profile) -> None:
    if not isinstance(inputs, list) or not inputs:
        raise bad_field("inputs", "inputs must be a list of at least one message")
    roles = NEWER_ROLES if profile == "current" else ROLES
    for place, message in enumerate(inputs):
        name = f"inputs[{place}]"
        if not isinstance(message, dict) or message.get("role") not in roles:
            raise bad_field(
                f"{name}.role", f"{name} must be an object whose role is one of {', '.join(roles)}"
            )
        if profile == "current":
            _check_content(message, name)
        else:
            _check_texts(message, name)


def _check_content(message: JsonObject, name: str) -> None:
    content = message.get("content")
    if not isinstance(content, str | list) or not content:
        raise bad_field(f"{name}.content", f"Field required: {name}.content")


def _check_texts(message: JsonObject, name: str) -> None:
    texts = message.get("texts")
    if texts is None and any(message.get(kind) for kind in ATTACHMENTS):
        return
    good = isinstance(texts, list) and bool(texts)
    if not good or not all(
        isinstance(text, dict) and isinstance(text.get("text"), str) for text in texts or ()
    ):
        raise bad_field(f"{name}.texts", f"{name}.texts must be a list of objects with a text")


def _check_switches(payload: JsonObject) -> None:
    for name in ("background", "stream"):
        if not isinstance(payload.get(name, False), bool):
            raise bad_field(name, f"{name} must be true or false")
    if payload.get("stream"):
        raise bad_field("stream", "stream is not emulated: leave it out")
    if not isinstance(payload.get("model", ""), str):
        raise bad_field("model", "model must be a string")


def _check_numbers(payload: JsonObject) -> None:
    for name in ("temperature", "top_p"):
        value = payload.get(name)
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            raise bad_field(name, f"{name} must be a number from 0 to 1")
    synapses = payload.get("max_output_synapses")
    if synapses is not None and not (isinstance(synapses, int) and synapses > 0):
        raise bad_field("max_output_synapses", "max_output_synapses must be a whole number above 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_output_mode(payload: JsonObject) -> None:
    mode = payload.get("output_mode", "text")
    if mode == "json_schema":
        raise bad_field("output_mode", "output_mode json_schema is not yet implemented")
    if mode not in ("text", "plain", "blocks", "structured", "json"):
        raise bad_field("output_mode", "output_mode must be text, plain, structured or json")
    if len(str(payload.get("instructions") or "")) > MAX_INSTRUCTIONS:
        raise bad_field("instructions", f"instructions may have up to {MAX_INSTRUCTIONS} characters")


def prompt_of(payload: JsonObject) -> str:
    """Return all text of a create's messages, one line each; never fails, whatever the payload."""
    inputs = payload.get("inputs")
    messages = inputs if isinstance(inputs, list) else []
    return "\n".join(text for message in messages if isinstance(message, dict) for text in _texts(message))


def _texts(message: JsonObject) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    parts = message.get("texts") or content
    found = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return [text for text in found if isinstance(text, str)]
