"""One request and its reply, as values without sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it arrived; header names are in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


class Delivery(Enum):
    """How a reply goes onto the wire."""

    WHOLE = "whole"
    CUT = "cut"
    """Half of it, then the connection is closed."""
    RESET = "reset"
    """None of it: the connection is reset."""
    HANG = "hang"
    """None of it: the connection stays open until the client or the emulator closes it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply; a body of bytes is sent as it is, anything else as JSON."""

    status: int
    body: object
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    delivery: Delivery = Delivery.WHOLE
    seconds_per_byte: float = 0.0
    """Above 0 the reply trickles out byte by byte; real seconds."""
    padding: int = 0
    """Blanks sent after the body, which JSON allows."""
    rate_headers: bool = True
    """Whether the plan's own headers are sent with it."""
    date_offset: float = 0.0
    """Seconds by which its Date is wrong."""

    def json(self) -> JsonObject:
        """Return the body when it is a JSON object, else an empty one."""
        return self.body if isinstance(self.body, dict) else {}

    def encoded(self) -> bytes:
        """Return the body as it is sent, without padding."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
