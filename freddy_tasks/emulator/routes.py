"""The paths each profile's service knows, and the framework's own answer to all others."""

from __future__ import annotations

import re

from freddy_tasks.emulator.errors import Refusal
from freddy_tasks.emulator.options import Profile

_CREATE = "/v1/model/response"
_ONE = re.compile(r"/v1/model/response/([^/]+)")
_THREAD = re.compile(r"/v1/model/response/([^/]+)/cancel")


def find_route(profile: Profile, method: str, path: str) -> tuple[str, str]:
    """Return the route's name and the id in the path; refuse with E4: no such path 404, or method 405."""
    allowed, subject = _methods_at(profile, path)
    if not allowed:
        raise Refusal(404, "Not Found", shape="E4")
    if method not in allowed:
        raise Refusal(405, "Method Not Allowed", headers=(("Allow", ", ".join(allowed)),), shape="E4")
    return allowed[method], subject


def _methods_at(profile: Profile, path: str) -> tuple[dict[str, str], str]:
    if path == _CREATE:
        return {"POST": "create"}, ""
    if profile == "current":
        return _current_methods_at(path)
    one = _ONE.fullmatch(path)
    return ({"GET": "retrieve", "DELETE": "cancel"}, one[1]) if one else ({}, "")


def _current_methods_at(path: str) -> tuple[dict[str, str], str]:
    if path == f"{_CREATE}/output-modes":
        return {"GET": "output_modes"}, ""
    if path == f"{_CREATE}/reasoning-levels":
        return {"GET": "reasoning_levels"}, ""
    thread = _THREAD.fullmatch(path)
    return ({"POST": "cancel_thread"}, thread[1]) if thread else ({}, "")
