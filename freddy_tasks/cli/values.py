"""How values of options are read."""

from __future__ import annotations

import json
import math
from typing import Any

import click

from freddy_tasks.schedules import LENGTHS


def expected(text: str) -> float | str:
    """Seconds, or one of the words for them."""
    if text in LENGTHS:
        return text
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"give a number of seconds above 0, or one of {', '.join(LENGTHS)}")
    return seconds


def field(text: str) -> tuple[str, Any]:
    """A field of the API by name; its value as JSON, or as the text it is when it is no JSON."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter("give it as name=value, the value as JSON")
    if name in {"prompt", "model", "label", "expected", "timeout"}:
        raise click.BadParameter(f"`{name}` has a place of its own on the command line")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
