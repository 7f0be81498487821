"""The best times to look, exactly: a dynamic program over the moments a look may happen.

A look costs `price`, counted in seconds of lag; a response that finished waits for the next look. With S the
chance of being unfinished, looks at 0 = x0 < x1 < ... cost

    polls = S(x0) + S(x1) + ...        lag = (x1 - x0) S(x0) + (x2 - x1) S(x1) + ... - E[T]

This is the optimal inspection problem (Barlow, Hunter and Proschan, J. SIAM 11:1078, 1963). The best looks
after one at `x` depend on `x` alone, and the cost of going on to `y` is linear in S(x), so that the minimum
is on the lower hull of straight lines: the program takes linear time, and any law will do.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a way of looking costs a response, on average."""

    polls: float  # looks, the one that finds it finished included
    lag: float  # s from finished to noticed

    def cost(self, price: float) -> float:
        """Return lag plus polls at `price` seconds each."""
        return self.lag + price * self.polls


@dataclass(frozen=True, slots=True)
class Plan:
    """The best next look after a fruitless one at each of some `times` (rising, the first one 0)."""

    times: tuple[float, ...]
    following: tuple[float, ...]

    def next_look(self, elapsed: float) -> float:
        """Return the moment of the next look, in the unit of `times`, after one at `elapsed`.

        Beyond the last time the pauses go on growing as the root of the time gone by, as is best for a
        hazard that falls as one over time.
        """
        place = bisect_right(self.times, elapsed) - 1
        if place + 1 < len(self.times):
            left, right = self.times[place], self.times[place + 1]
            share = (elapsed - left) / (right - left)
            return self.following[place] + share * (self.following[place + 1] - self.following[place])
        last = self.times[-1]
        return elapsed + (self.following[-1] - last) * math.sqrt(elapsed / last)


def best_plan(times: Sequence[float], alive: Sequence[float], price: float) -> Plan:
    """Return the plan of least cost for looks at `times`, where the share `alive` is still unfinished.

    `times` rise from 0 and `alive` falls; both have the same length, two or more. `price` is above 0, in the
    unit of `times`. The last time ends the account.
    """
    last = len(times) - 1
    slopes, offsets, ends = [times[last]], [0.0], [last]
    chosen = [last] * (last + 1)
    best = 0
    for here in range(last - 1, -1, -1):
        share, now = alive[here], times[here]
        best = min(best, len(slopes) - 1)
        while (
            best + 1 < len(slopes)
            and slopes[best + 1] * share + offsets[best + 1] <= slopes[best] * share + offsets[best]
        ):
            best += 1
        chosen[here] = ends[best]
        offset = share * (price - now + slopes[best]) + offsets[best]
        while len(slopes) > 1 and (offset - offsets[-2]) * (slopes[-2] - slopes[-1]) <= (
            offsets[-1] - offsets[-2]
        ) * (slopes[-2] - now):
            slopes.pop()
            offsets.pop()
            ends.pop()
        slopes.append(now)
        offsets.append(offset)
        ends.append(here)
    used = max(
        1, chosen.index(last)
    )  # after it the plan knows that the account ends, and a response does not
    return Plan(tuple(times[: used + 1]), tuple(times[index] for index in chosen[: used + 1]))


def keller_plan(times: Sequence[float], alive: Sequence[float], price: float) -> Plan:
    """Return the plan of Keller's rule: looks of density sqrt(hazard / (2 price)), one to each unit of it.

    The best plan in the limit of many looks (Keller, Management Science 21:256, 1974), and close to it from
    about two a response. Arguments as for `best_plan`.
    """
    looks = [0.0]
    for left, right, first, second in zip(times, times[1:], alive, alive[1:], strict=False):
        hazard_sum = math.log(first / second) if second > 0 else 0.0
        looks.append(looks[-1] + math.sqrt(max(hazard_sum, 0.0) * (right - left) / (2.0 * price)))
    used = max(1, bisect_right(looks, looks[-1] - 1.0) - 1)
    return Plan(
        tuple(times[: used + 1]), tuple(_inverse(look + 1.0, looks, times) for look in looks[: used + 1])
    )


def _inverse(look: float, looks: Sequence[float], times: Sequence[float]) -> float:
    place = min(bisect_right(looks, look) - 1, len(looks) - 2)
    width = looks[place + 1] - looks[place]
    share = (look - looks[place]) / width if width > 0 else 1.0
    return times[place] + min(share, 1.0) * (times[place + 1] - times[place])


def outlook(next_look: Callable[[float], float], times: Sequence[float], alive: Sequence[float]) -> Outlook:
    """Return the mean polls and lag of looking at `next_look(x)` after each look at `x`, until the last time.

    The law is given on a grid and taken as straight between its points.
    """
    polls, waited, now = 0.0, 0.0, 0.0
    while now < times[-1]:
        share = _between(now, times, alive)
        then = min(next_look(now), times[-1])
        polls += share
        waited += (then - now) * share
        now = then
    return Outlook(polls, waited - mean(times, alive))


def late_share(
    next_look: Callable[[float], float], limit: float, times: Sequence[float], alive: Sequence[float]
) -> float:
    """Return the share of responses noticed later than `limit` after they finished."""
    late, now = 0.0, 0.0
    while now < times[-1]:
        then = next_look(now)
        if now < then - limit:
            late += _between(now, times, alive) - _between(min(then - limit, times[-1]), times, alive)
        now = then
    return late


def mean(times: Sequence[float], alive: Sequence[float]) -> float:
    """Return the mean duration, cut at the last time."""
    return sum(
        0.5 * (right - left) * (first + second)
        for left, right, first, second in zip(times, times[1:], alive, alive[1:], strict=False)
    )


def _between(now: float, times: Sequence[float], alive: Sequence[float]) -> float:
    place = min(bisect_right(times, now) - 1, len(times) - 2)
    share = (now - times[place]) / (times[place + 1] - times[place])
    return alive[place] + share * (alive[place + 1] - alive[place])
