"""What an HTTP error means: six shapes of bodies and a table of statuses, read into `CallFailed`. Pure.

E1  {success: false, error: {code, message, system_message, details, trace_id}}    today's
E2  {detail: "text", error_type, meta: {request_id}, errors: [{field, message}]}   older
E3  {detail: [{loc, msg, type}]}                                                   validation
E4  {detail: "Not Found"}                              the framework's own: there is no such route
E5  {title, message}                                   repeats the caller's key
E6  {error: "text"}, {message: "text"}, text, HTML, nothing
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .hints import read_hints
from .models import CallFailed, FailureKind
from .redaction import one_line, one_word, opening

Call = Literal["POST", "GET", "DELETE"]

MOST_ITEMS = 5
"""Validation errors told of one reply."""

NO_ROUTE = frozenset({"not found", "method not allowed"})

SPENDING = re.compile(
    r"spen[dt]|usage|budget|quota|billing|credit|balance|limit|cap\b|\bchf\b", re.IGNORECASE
)
RATE = re.compile(
    r"\brates?\b|rate[_ -]?limit|too[_ ]many|requests?\b|throttl|concurren|minute|second|burst|da(?:y|ily)\b",
    re.IGNORECASE,
)
BACKGROUND = re.compile(r"\bbackground\b", re.IGNORECASE)
SHAPE = re.compile(r"\b(?:texts|content)\b")
WANTED = re.compile(r"required|missing|must be")
UNWANTED = re.compile(r"extra|unknown|unexpected|unsupported|not (?:permitted|allowed|supported)")

NO_SUCH_ROUTE = "This server has no such route: check FREDDY_BASE_URL, and that it has background mode"
NOT_FOLLOWED = "Redirects are not followed, so that the key goes nowhere else: correct FREDDY_BASE_URL"
ADVICE = {
    FailureKind.TRANSIENT: "",
    FailureKind.RATE_LIMITED: "Wait, or lower FREDDY_REQUESTS_PER_MINUTE",
    FailureKind.SPENDING_LIMIT: "Raise the account's spending cap: waiting does not lift it",
    FailureKind.DENIED: "Check FREDDY_API_KEY and FREDDY_AUTH_SCHEME",
    FailureKind.NOT_FOUND: "",
    FailureKind.GONE: "Responses are kept for 24 hours",
    FailureKind.UNSUPPORTED: "Check FREDDY_BASE_URL",
    FailureKind.REFUSED: "Correct the request, then call again",
    FailureKind.CONFLICT: "",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What the body of an error says, not yet fit to be shown."""

    message: str = ""
    code: str = ""
    request_id: str = ""
    places: str = ""  # names of the fields it complains about
    shaped: bool = False  # the API's own words, not a framework's or a proxy's
    no_route: bool = False


def read_failure(
    status_code: int, body: object, headers: Mapping[str, str], *, call: Call, secrets: Sequence[str]
) -> CallFailed:
    """The meaning of a reply that is no 2xx; `body` is its JSON, its text, or None. Never raises."""
    said = read_said(body)
    kind = _kind(status_code, said, headers, body, call)
    advice = _advice(kind, status_code, said)
    code = one_word(said.code, secrets) or None
    # Only a submit knows the prompt that its error may repeat.
    message = said.message if call == "POST" else opening(said.message)
    return CallFailed(
        kind,
        _sentence(status_code, code, one_line(message, secrets), advice),
        http_status=status_code,
        code=code,
        request_id=request_id(headers, said.request_id, secrets),
    )


def request_id(headers: Mapping[str, str], told: str = "", secrets: Sequence[str] = ()) -> str | None:
    """The API's id of the request: header `x-request-id`, else what the body told."""
    header = next((value for name, value in headers.items() if name.lower() == "x-request-id"), "")
    return one_word(header or told, secrets, most=128) or None


def read_said(body: object) -> Said:
    """The words in an error's body, whichever shape it has. Never raises."""
    if isinstance(body, str):
        # A page of markup is a proxy's, and tells a person less than the status does.
        return Said(message="" if body.lstrip().startswith("<") else body)
    if not isinstance(body, Mapping):
        return Said()
    error = body.get("error")
    if isinstance(error, Mapping):
        return _said_now(error)
    if "detail" in body:
        return _said_of_detail(body)
    message = _text(error) or _text(body.get("message")) or _text(body.get("title"))
    return Said(message, _text(body.get("code")), _text(body.get("request_id")), shaped=bool(message))


def _said_now(error: Mapping[str, object]) -> Said:
    details = error.get("details")
    fields = details.get("fields") if isinstance(details, Mapping) else None
    return Said(
        message=_text(error.get("message")) or _text(error.get("system_message")),
        code=_text(error.get("code")) or _text(error.get("type")),
        request_id=_text(error.get("trace_id")),
        places=_names(fields),
        shaped=True,
    )


def _said_of_detail(body: Mapping[str, object]) -> Said:
    detail = body["detail"]
    if isinstance(detail, list):
        return Said(_listed(detail, "loc", "msg"), places=_listed(detail, "loc", ""), shaped=True)
    text = _text(detail)
    if text.lower().strip(" .") in NO_ROUTE and "error_type" not in body:
        return Said(text, no_route=True)
    meta = body.get("meta")
    errors = body.get("errors")
    return Said(
        message="; ".join(part for part in (text, _listed(errors, "field", "message")) if part),
        code=_text(body.get("error_type")),
        request_id=_text(meta.get("request_id")) if isinstance(meta, Mapping) else "",
        places=_listed(errors, "field", ""),
        shaped=True,
    )


def _listed(items: object, place: str, words: str) -> str:
    """`inputs.0.content: Field required; …` of a list of validation errors."""
    if not isinstance(items, list):
        return ""
    lines = []
    for item in items[:MOST_ITEMS]:
        if isinstance(item, Mapping):
            parts = (_names(item.get(place)), _text(item.get(words)))
            lines.append(": ".join(part for part in parts if part))
    return "; ".join(line for line in lines if line)


def _names(value: object) -> str:
    """A field's name from a string, a path of parts, or the keys of an object."""
    if isinstance(value, Mapping):
        return " ".join(str(name) for name in list(value)[:MOST_ITEMS])
    if isinstance(value, list):
        parts = (_names(part) if isinstance(part, list | Mapping) else _text(part) for part in value[:20])
        return ".".join(part for part in parts if part)
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value[:4_000]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12:
        return str(value)
    return ""


def _kind(status_code: int, said: Said, headers: Mapping[str, str], body: object, call: Call) -> FailureKind:
    match status_code:
        case 401 | 403:
            return FailureKind.DENIED
        case 402:
            return FailureKind.SPENDING_LIMIT
        case 404:
            return _kind_of_missing(said, call)
        case 405 | 501 | 505:
            return FailureKind.UNSUPPORTED
        case 408 | 425:
            return FailureKind.TRANSIENT
        case 409:
            return FailureKind.CONFLICT if call == "DELETE" else FailureKind.TRANSIENT
        case 410:
            return FailureKind.UNSUPPORTED if call == "POST" else FailureKind.GONE
        case 429:
            return _kind_of_429(said, headers, body)
        case _ if 300 <= status_code < 400:
            return FailureKind.UNSUPPORTED
        case _ if 400 <= status_code < 500:
            return FailureKind.UNSUPPORTED if call == "POST" and _setting(said) else FailureKind.REFUSED
    return FailureKind.TRANSIENT


def _kind_of_missing(said: Said, call: Call) -> FailureKind:
    """A 404 in the API's words is about the response; the framework's, about the route.

    Anything else may be a proxy's: a submit knows no id that could be missing, while a poll that found its
    response before is given the benefit of the doubt.
    """
    if said.no_route:
        return FailureKind.UNSUPPORTED
    if call == "POST":
        return FailureKind.REFUSED if said.shaped else FailureKind.UNSUPPORTED
    return FailureKind.NOT_FOUND


def _kind_of_429(said: Said, headers: Mapping[str, str], body: object) -> FailureKind:
    """A spending cap names no time to come back, and speaks of spending and not of a rate.

    In doubt it is the rate: waiting for nothing ends at the deadline, giving up for nothing cannot be undone.
    """
    hints = read_hints(headers, body, now=0.0)
    words = f"{said.code} {said.message}".replace("_", " ")
    if hints.retry_at is not None or hints.reset_at is not None or RATE.search(words):
        return FailureKind.RATE_LIMITED
    return FailureKind.SPENDING_LIMIT if SPENDING.search(words) else FailureKind.RATE_LIMITED


def _setting(said: Said) -> str:
    """What to change when the server refuses the fields that we chose, not the caller; "" otherwise.

    A bare word in a sentence proves nothing (`content policy`): it has to be the field complained about, or
    be called wanted or unwanted.
    """
    if BACKGROUND.search(said.message) or BACKGROUND.search(said.places):
        return "This server has no background mode: check FREDDY_BASE_URL"
    clauses = [clause for clause in said.message.lower().split(";") if SHAPE.search(clause)]
    wanted = {name for clause in clauses if WANTED.search(clause) for name in SHAPE.findall(clause)}
    unwanted = {name for clause in clauses if UNWANTED.search(clause) for name in SHAPE.findall(clause)}
    if not wanted | unwanted and not SHAPE.search(said.places.lower()):
        return ""
    shape = "texts" if "texts" in wanted - unwanted or unwanted - wanted == {"content"} else "content"
    return f"This server wants another shape of messages: set FREDDY_MESSAGE_SHAPE={shape}"


def _advice(kind: FailureKind, status_code: int, said: Said) -> str:
    if kind is FailureKind.DENIED:
        if "ORGANIZATION" in said.code.upper():
            return "Set FREDDY_ORGANIZATION_ID to an organization of this key's owner"
        if not said.shaped and status_code == 403:
            return "The answer is not the API's own: a firewall may stand before it, or check FREDDY_API_KEY"
    if kind is FailureKind.UNSUPPORTED:
        if status_code in {404, 405, 410, 501, 505}:
            return NO_SUCH_ROUTE
        if 300 <= status_code < 400:
            return NOT_FOLLOWED
        return _setting(said)
    return ADVICE.get(kind, "")


def _sentence(status_code: int, code: str | None, said: str, advice: str) -> str:
    head = f"HTTP {status_code}" + (f" {code}" if code else "")
    words = f"The API answered {head}: {said}" if said else f"The API answered {head}"
    return ". ".join(part.rstrip(" .") for part in (words, advice) if part) + "."
