"""One budget of requests for every process that uses one key; `lua/budget.lua` keeps the books."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SAFETY = 0.98  # of the plan's rate: requests bunch a little on their way to the server


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one key and where they are counted. The key itself is nowhere in it."""

    keys: tuple[str, str]
    limits: tuple[float, int, int]  # requests a second, at once, a day; 0 as rate or day: no limit

    @classmethod
    def of(cls, api_key: str, per_minute: int, per_day: int, burst: int) -> Budget:
        """The budget of a plan: `burst` is the most that may leave in any one minute."""
        digest = hashlib.sha256(api_key.encode()).hexdigest()[:16]
        name = f"freddy_tasks:budget:{digest}"
        return cls((name, f"{name}:day"), (per_minute * SAFETY / 60, max(1, burst - per_minute), per_day))
