"""The prompts of a batch: what a caller may write, read once. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freddy_tasks.errors import InvalidRequest

ItemId = str | int
Written = str | Sequence[Any] | Mapping[str, Any]
OURS = frozenset({"return_exceptions"})  # options that the batch itself sets


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a batch, and what is particular to it. Its repr is short: it holds the prompt."""

    id: ItemId
    prompt: str | list[Any] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_items(written: Iterable[Written]) -> tuple[Item, ...]:
    """Items from strings, lists of input messages, or dicts with `prompt`, perhaps `id`, and any option.

    An item without an id has its position, from 0. Raises `InvalidRequest` that names the position of an
    item that cannot be read, or whose id another one has.
    """
    if isinstance(written, str | bytes | Mapping):
        raise InvalidRequest(f"Prompts come in a list, and not as one {type(written).__name__}.")
    items: list[Item] = []
    seen: dict[str, int] = {}
    for position, one in enumerate(written):
        try:
            item = read_item(one, position)
        except InvalidRequest as error:
            raise InvalidRequest(f"Item {position}: {error.message}") from None
        other = seen.setdefault(str(item.id), position)
        if other != position:
            raise InvalidRequest(f"Item {position}: its id is that of item {other}. Give each its own.")
        items.append(item)
    return tuple(items)


def read_item(written: Any, otherwise: ItemId) -> Item:
    """One item; its id is `otherwise` when it has none of its own. Raises `InvalidRequest`."""
    match written:
        case str():
            return Item(otherwise, written)
        case Mapping():
            return _from_mapping(written, otherwise)
        case list() | tuple():
            return Item(otherwise, list(written))
        case _:
            raise InvalidRequest(
                f"a prompt is a text, a list of messages, or a dict, not {type(written).__name__}."
            )


def fingerprint(items: Iterable[Item], salt: str) -> str:
    """Tells whether two lists of items are the same: SHA-256 in hex, of no use without `salt`."""
    digest = hashlib.sha256(salt.encode())
    for item in items:
        line = json.dumps([item.id, item.prompt, item.options], sort_keys=True, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def ids_of(items: Sequence[Item]) -> tuple[ItemId, ...] | None:
    """Their ids; None when each one's is its position."""
    ids = tuple(item.id for item in items)
    return None if ids == tuple(range(len(ids))) else ids


def _from_mapping(written: Mapping[str, Any], otherwise: ItemId) -> Item:
    options = {str(name): value for name, value in written.items() if name not in {"id", "prompt"}}
    item_id = written.get("id", otherwise)
    if isinstance(item_id, bool) or not isinstance(item_id, str | int) or item_id == "":
        raise InvalidRequest("`id` is a text or a whole number.")
    if "prompt" not in written:
        raise InvalidRequest("it has no `prompt`.")
    if taken := OURS & set(options):
        raise InvalidRequest(f"`{min(taken)}` is for the batch to set: see `on_error`.")
    return Item(item_id, written["prompt"], options)
