"""Ways of polling to be compared: fixed pauses, back-off, the tiers, what is learned, and the optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .durations import Law, parsed
from .frontier import tier_price
from .history import History
from .learning import schedule_for
from .optimum import Plan, best_plan
from .schedules import Schedule, Tiers, Wait, bounded, sane_stretch


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same pause every time."""

    pause: float  # s

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:  # noqa: ARG002  # it takes no hint
        """Return the pause."""
        return bounded(self.pause, wait.remaining)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that grow by a factor up to a most."""

    first: float  # s
    factor: float
    most: float  # s

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:  # noqa: ARG002  # it takes no hint
        """Return the pause after so many polls."""
        steps = min(wait.polls, math.log(self.most / self.first) / math.log(self.factor) + 1.0)
        return bounded(min(self.first * self.factor**steps, self.most), wait.remaining)


@dataclass(frozen=True, slots=True)
class Planned:
    """The best looks for durations that are known, which no policy can beat."""

    law: Law
    price: float  # s of lag that one poll is worth
    plans: dict[float, Plan] = field(default_factory=dict, repr=False, compare=False)

    def delay(self, wait: Wait, stretch: float = 1.0) -> float:
        """Return the pause of the best plan at the stretched price."""
        steps = round(math.log(sane_stretch(stretch)) * 10.0)
        if steps not in self.plans:
            self.plans[steps] = best_plan(*self.law.grid(), self.price * math.exp(steps / 10.0))
        return bounded(self.plans[steps].next_look(wait.elapsed) - wait.elapsed, wait.remaining)


class Policy:
    """A schedule to be tried, which may learn from the responses it found finished."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def learn(self, duration: float, submitted_at: float) -> None:
        """Take note of one finished response, in whole seconds; most policies do not."""


class Learning(Policy):
    """The production policy: tiers, then the best looks for what was seen."""

    def __init__(self, tiers: Tiers, lag_per_poll: float | None, lag_p95: float | None) -> None:
        super().__init__(schedule_for(History.empty(), tiers, lag_per_poll=lag_per_poll, lag_p95=lag_p95))
        self.history = History.empty()
        self._goals = (tiers, lag_per_poll, lag_p95)

    def learn(self, duration: float, submitted_at: float) -> None:
        """Add one response and take the schedule that follows from it."""
        tiers, per_poll, p95 = self._goals
        self.history = self.history.add(duration, submitted_at=submitted_at)
        self.schedule = schedule_for(self.history, tiers, lag_per_poll=per_poll, lag_p95=p95)


def parse_policy(
    text: str,
    law: Law,
    *,
    tiers: Tiers | None = None,
    lag_per_poll: float | None = None,
    lag_p95: float | None = None,
) -> Policy:
    """Read `tiers`, `fixed:5`, `backoff:1,1.5,20` (first, factor, most), `learned` or `optimal`.

    `law` is what `optimal` knows. Raises ValueError with what is wrong.
    """
    bands = tiers or Tiers()
    match parsed(text):
        case "tiers", ():
            return Policy(bands)
        case "fixed", (pause,) if pause > 0:
            return Policy(Fixed(pause))
        case "backoff", (first, factor, most) if 0 < first <= most and factor > 1:
            return Policy(Backoff(first, factor, most))
        case "learned", ():
            return Learning(bands, lag_per_poll, lag_p95)
        case "optimal", ():
            return Policy(Planned(law, lag_per_poll or tier_price(law, bands)))
    raise ValueError(f"policy {text!r}: write tiers, fixed:5, backoff:1,1.5,20, learned or optimal")
