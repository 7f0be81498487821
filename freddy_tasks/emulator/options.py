"""Everything that can be chosen about an emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from freddy_tasks.emulator.durations import Durations, LogNormal
from freddy_tasks.emulator.faults import Fault

Profile = Literal["bg", "get-status", "current", "strict"]
FEW_SECONDS = LogNormal(median=5.0, sigma=0.1)
PROFILES: tuple[Profile, ...] = get_args(Profile)


@dataclass(frozen=True, slots=True)
class Options:
    """What the emulated service is like. Times are seconds of the emulator's own clock."""

    profile: Profile = "bg"
    """`bg`: the background-mode page. `get-status`: the older status page's bodies. `current`: the newest
    pages, where background mode is not known and every answer comes at once. `strict`: `bg`, but refuses the
    field `background`."""
    durations: Durations = FEW_SECONDS
    """From creation to completion, time in the queue included."""
    queue_seconds: float = 1.0
    """How long a response says `queued` first; not for `AfterPolls`."""
    seed: int = 0
    """Chooses durations and which calls a fault hits, together with the prompt."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong; the first is outermost where several hit one call."""
    per_minute: int | None = 100
    """Requests a minute, all keys together; None: no limit. These are the Standard plan."""
    burst: int | None = None
    """Requests that may come at once; None: 120 % of ``per_minute``, as on every published plan."""
    per_day: int | None = 10_000
    """Requests in any 24 hours; None: no limit."""
    time_scale: float = 1.0
    """Virtual seconds in one real second; 0: time stands still until `clock.advance`."""
    start: float | None = None
    """Unix seconds the clock starts at; None: now."""
    latency: float = 0.0
    """Seconds every call takes."""
    honour_idempotency: bool = False
    """Replay a create with the same `Idempotency-Key` and payload for 24 hours, 409 for another payload.
    The real service documents this for dictation only, so a client must not need it."""
    cancel_queued: bool = True
    """Whether a queued response can be cancelled; no page says."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """The good API keys; empty takes any."""
    answer: Callable[[str], str] | None = field(default=None, repr=False)
    """Makes the output text from the prompt, and is kept in memory; None writes an article on the topic."""
    answer_size: int = 0
    """The article is repeated up to this many characters; 0 leaves it as it is."""
    time_limit: float = 1800.0
    """A response still running this long after its creation fails."""
    retention: float = 86_400.0
    """A response is unknown this long after its creation."""
    max_jobs: int = 200_000
    """The oldest responses beyond this many are forgotten."""
    log_path: Path | None = None
    """Where a JSON line is added for every response seen to end: a trace for `parse_durations`."""

    def __post_init__(self) -> None:
        """Refuse a profile nobody wrote; ValueError."""
        if self.profile not in PROFILES:
            raise ValueError(f"no profile is called {self.profile!r}; there are {', '.join(PROFILES)}")
