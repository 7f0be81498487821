"""The API as one look at a response that does not exist tells it: address, key, routes, clock. Pure."""

from __future__ import annotations

from freddy_tasks.models import CallFailed, FailureKind, Seen

from .findings import Finding, error, fine, warning

MOST_SKEW = 60.0  # seconds


def judge_api(seen: Seen) -> Finding:
    """What the reply to a look at a made-up id means; a 404 in the API's own words is hoped for."""
    if not isinstance(seen, CallFailed):
        return error(
            "api",
            "The server at FREDDY_BASE_URL has a response of an id that was just made up: it is not the API.",
            "Correct FREDDY_BASE_URL.",
        )
    match seen.kind:
        case FailureKind.NOT_FOUND if seen.code:
            return fine("api", "The API answers, takes the key, and has background mode's routes.")
        case FailureKind.NOT_FOUND:
            return warning(
                "api",
                "The server at FREDDY_BASE_URL answers with a 404 in words that are not the API's: something "
                "else may stand there.",
                "Check FREDDY_BASE_URL.",
            )
        case FailureKind.DENIED | FailureKind.UNSUPPORTED | FailureKind.UNSENT:
            return error("api", seen.message, REMEDIES[seen.kind])
        case FailureKind.SPENDING_LIMIT:
            return error("api", seen.message, "Raise the account's spending cap.")
        case FailureKind.RATE_LIMITED:
            return warning("api", seen.message, "Ask again in a minute, or lower FREDDY_REQUESTS_PER_MINUTE.")
        case _:
            return warning(
                "api", f"{seen.message} So it is not known whether it works.", "Ask again in a minute."
            )


REMEDIES = {
    FailureKind.DENIED: "Correct FREDDY_API_KEY, FREDDY_AUTH_SCHEME or FREDDY_ORGANIZATION_ID.",
    FailureKind.UNSUPPORTED: "Set FREDDY_BASE_URL to a server that has background mode.",
    FailureKind.UNSENT: "Correct FREDDY_BASE_URL, or let this machine reach it.",
}


def judge_api_clock(skew: float | None) -> Finding | None:
    """`skew` is how many seconds the API's clock is ahead of this machine's; None: it did not say."""
    if skew is None:
        return None
    if abs(skew) > MOST_SKEW:
        return warning(
            "api_clock",
            f"The API's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's. "
            "Its pauses are read by its own clock, so calls are not affected; moments in answers are.",
            "Let NTP set this machine's clock.",
        )
    return fine("api_clock", "The API's clock agrees with this machine's.")
