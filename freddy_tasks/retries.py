"""How long to pause after a call that failed: exponential, jittered, bounded. Pure."""

from __future__ import annotations

from collections.abc import Callable

DOUBLINGS = 62
"""Beyond these the pause has long met its bound; a float power of more could overflow."""


def backoff(failures: int, random: Callable[[], float], *, base: float = 1.0, most: float = 60.0) -> float:
    """Seconds to pause after `failures` failures in a row (1 and up); `random` returns 0 to 1.

    The formula is "equal jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015: half of `min(most, base * 2**(failures - 1))` and a random share of the other half. His "full
    jitter" spreads a herd a little better, but may draw a pause of almost nothing, and every repeated
    call is charged to the plan's requests. The answer is never above `most`.

    >>> [backoff(n, lambda: 1.0) for n in (1, 2, 3, 10)]
    [1.0, 2.0, 4.0, 60.0]
    """
    doublings = min(max(failures - 1, 0), DOUBLINGS)
    half = min(most, base * 2.0**doublings) / 2
    return half + half * random()
