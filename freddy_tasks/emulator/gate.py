"""Who may come in and how often: API keys and the plan's limits."""

from __future__ import annotations

import math
import threading

from freddy_tasks.emulator.errors import Refusal
from freddy_tasks.emulator.exchange import Request
from freddy_tasks.emulator.limits import Admission, RequestLimit
from freddy_tasks.emulator.options import Options


class Gate:
    """Lets requests in by key and by plan; safe to share between threads."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._keys = set(options.keys)
        self._retired: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Start the limits over; keys stay as they are."""
        self._limit = _limit_of(self._options)
        self.over_limit = 0

    def rotate_key(self, key: str) -> None:
        """Take this key only, from now on."""
        with self._lock:
            self._retired = (self._retired | self._keys) - {key}
            self._keys = {key}

    def authorise(self, request: Request) -> str:
        """Return the caller's key, or refuse with 401."""
        key = _key_in(request, self._options.profile)
        with self._lock:
            if key in self._retired:
                raise Refusal(401, "API key has been deactivated", "API_KEY_DEACTIVATED")
            if self._keys and key not in self._keys:
                raise Refusal(401, "Invalid API key", "INVALID_API_KEY")
        return key

    def admit(self, now: float) -> Admission | None:
        """Return the plan's answer to one request; None without a plan."""
        with self._lock:
            if self._limit is None:
                return None
            admission = self._limit.admit(now)
            self.over_limit += not admission.admitted
            return admission


def _limit_of(options: Options) -> RequestLimit | None:
    if options.per_minute is None and options.per_day is None:
        return None
    no_limit = 10**9
    return RequestLimit(options.per_minute or no_limit, options.burst, options.per_day)


def _key_in(request: Request, profile: str) -> str:
    if profile == "current":
        key = request.headers.get("x-api-key", "")
    else:
        # The scheme's case matters to the real service, though HTTP says it does not.
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if scheme == "Bearer" else ""
    if not key:
        raise Refusal(401, "Authentication required", "AUTHENTICATION_REQUIRED")
    return key


def refuse_over_limit(admission: Admission | None) -> None:
    """Refuse with 429 and Retry-After what the plan does not admit."""
    if admission is None or admission.admitted:
        return
    wait = math.ceil(admission.retry_after)
    message = f"Rate limit exceeded. Try again in {wait} seconds."
    raise Refusal(429, message, details={"retry_after": wait}, headers=(("Retry-After", str(wait)),))


def plan_headers(admission: Admission, now: float) -> tuple[tuple[str, str], ...]:
    """Return the headers of both documented families; times are whole seconds, rounded up."""
    limit, remaining = str(admission.limit), str(admission.remaining)
    return (
        ("X-RateLimit-Limit", limit),
        ("X-RateLimit-Remaining", remaining),
        ("X-RateLimit-Reset", str(math.ceil(now + admission.reset_after))),
        ("X-RateLimit-Retry-After", str(math.ceil(admission.retry_after))),
        ("x-ratelimit-limit-requests", limit),
        ("x-ratelimit-remaining-requests", remaining),
        ("x-ratelimit-reset-requests", f"{admission.reset_after:.0f}s"),
    )
