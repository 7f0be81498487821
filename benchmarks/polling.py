"""How near polling comes to the best possible: prints each figure, and whether it reaches its mark.

    python benchmarks/polling.py [--seed 1] [--replications 40] [--quick]

One core, under two minutes; the same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from statistics import fmean

from freddy_tasks.frontier import tier_price
from freddy_tasks.hazards import Grid, LogT
from freddy_tasks.history import History
from freddy_tasks.learning import WARM, schedule_for
from freddy_tasks.optimum import Outlook, best_plan, outlook
from freddy_tasks.policies import parse_policy
from freddy_tasks.schedules import Schedule, Tiers, Wait
from freddy_tasks.simulation import Limit, Result, simulate

TIERS = Tiers()
FINE = 1.0 / 100.0
HORIZON = 40.0
"""Medians after which a response is counted as finished: a log-t has no mean without an end."""


@dataclass(frozen=True)
class Row:
    """One measurement: what, the numbers, and whether the mark is reached."""

    name: str
    numbers: str
    reached: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all figures; the exit status is 1 when one of them misses its mark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replications", type=int, default=40, help="histories drawn for each row")
    parser.add_argument("--quick", action="store_true", help="few replications of few cases")
    options = parser.parse_args(arguments)
    replications = 4 if options.quick else options.replications
    began, missed = time.perf_counter(), 0
    for title, rows in figures(options.seed, replications, quick=options.quick):
        print(f"\n{title}\n")
        for row in rows:
            missed += not row.reached
            print(f"  {row.name:<40} {row.numbers:<80} {'reached' if row.reached else 'NOT REACHED'}")
    # To the other stream: the figures stay the same from run to run, the time they took does not.
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 1 if missed else 0


def figures(seed: int, replications: int, *, quick: bool) -> Iterator[tuple[str, Iterator[Row]]]:
    """The figures, each with its title, computed while they are read."""
    medians = (90.0,) if quick else (8.0, 90.0, 600.0)
    spreads = (0.5,) if quick else (0.2, 0.5, 0.8)
    laws = [LogT(median, spread) for median in medians for spread in spreads]
    heavy = [LogT(median, 0.5, 3.0) for median in medians]
    batch = 1_500 if quick else 3_000
    yield (
        "1. Cost after 20 responses, over the optimum's (mark: mean 1.05)",
        (after_twenty(law, seed, replications) for law in (*laws, *heavy)),
    )
    yield (
        "2. Polls of the tiers over ours, at the tiers' mean lag, after 50 responses (marks: 1.35 and 2.5)",
        (against_tiers(law, seed, FINER * replications) for law in laws if law.spread in TIER_MARKS),
    )
    yield (
        "2b. A class without history, the tiers' cost over ours (mark: 1, never worse)",
        (cold(law, seed, batch // 3) for law in laws),
    )
    yield (
        "3. Cost over the optimum's after a jump of the median (mark: mean 1.2 after 30 responses)",
        (
            after_jump(LogT(90.0, spread), factor, seed, replications)
            for spread in spreads
            for factor in (4.0, 0.25)
        ),
    )
    yield (
        "4. Under a limit that binds (marks: 2.2 requests a response, 95 % used, never above)",
        (under_limit(case, seed) for case in islice(limited(batch), 1 if quick else None)),
    )


def after_twenty(law: LogT, seed: int, replications: int) -> Row:
    """Figure 1, at the price that makes the optimum as quick as the tiers."""
    price, grid = tier_price(law, TIERS), law.grid(FINE, HORIZON)
    best = optimum(grid, price).cost(price)
    random = Random(f"{seed} {law}")
    ratios = []
    for _ in range(replications):
        history = grown(History.empty(), law, 20, random)
        ratios.append(walked(history, price, grid).cost(price) / best)
    rising = sorted(ratios)
    numbers = f"mean {fmean(ratios):.3f}   p95 {rising[int(0.95 * len(rising))]:.3f}"
    return Row(named(law), numbers, fmean(ratios) <= 1.05)


TIER_MARKS = {0.2: 2.5, 0.5: 1.35}
FINER = 4
"""Histories of figure 2 for each of another figure: its first mark is half a per cent from the optimum."""


def against_tiers(law: LogT, seed: int, replications: int) -> Row:
    """Figure 2: the tiers know the length of the job, and so are at their best."""
    grid, random = law.grid(FINE, HORIZON), Random(f"{seed} {law}")
    pause = TIERS.pause(law.median)
    tiers = outlook(lambda elapsed: elapsed + pause, *grid)
    best = at_lag(tiers.lag, law.median, lambda price: optimum(grid, price))
    ours = []
    for _ in range(replications):
        history = grown(History.empty(), law, 50, random)

        def at(price: float, history: History = history) -> Outlook:
            return walked(history, price, grid)

        ours.append(at_lag(tiers.lag, law.median, at).polls)
    ratio = tiers.polls / fmean(ours)
    numbers = (
        f"{ratio:.2f}   (lag {tiers.lag:.2f} s: polls {tiers.polls:.2f} to {fmean(ours):.2f}; "
        f"the optimum's ratio is {tiers.polls / best.polls:.2f})"
    )
    return Row(named(law), numbers, ratio >= TIER_MARKS[law.spread])


def cold(law: LogT, seed: int, count: int) -> Row:
    """Figure 2b: the hardest case, where all come at once and the quick ones teach first."""
    durations = drawn(law, count, seed)
    ours, tiers = (
        simulate(parse_policy(name, law), durations, law=law, seed=seed, timeout=86_400.0)
        for name in ("learned", "tiers")
    )
    numbers = (
        f"{tiers.cost / ours.cost:.3f}   (polls {tiers.polls:.2f} to {ours.polls:.2f}, "
        f"lag {tiers.lag:.2f} to {ours.lag:.2f} s)"
    )
    return Row(f"{count:,} at once, {named(law)}", numbers, tiers.cost >= ours.cost)


def after_jump(law: LogT, factor: float, seed: int, replications: int) -> Row:
    """Figure 3: 50 responses of one law, then 30 of the other."""
    after = LogT(law.median * factor, law.spread)
    price, grid = tier_price(after, TIERS), after.grid(FINE, HORIZON)
    best = optimum(grid, price).cost(price)
    random = Random(f"{seed} {law} {factor}")
    ratios: dict[int, list[float]] = {0: [], 10: [], 20: [], 30: []}
    for _ in range(replications):
        history, done = grown(History.empty(), law, 50, random), 0
        for count, found in ratios.items():
            history, done = grown(history, after, count - done, random), count
            found.append(walked(history, price, grid).cost(price) / best)
    numbers = "   ".join(f"{count}: {fmean(found):.2f}" for count, found in ratios.items())
    return Row(f"spread {law.spread:g}, times {factor:g}", numbers, fmean(ratios[30]) <= 1.2)


@dataclass(frozen=True)
class Case:
    """One simulation of figure 4."""

    name: str
    law: LogT
    limit: Limit
    count: int  # responses
    per_hour: float = math.inf
    expected: float | None = None


def limited(batch: int) -> Iterator[Case]:
    """The cases of figure 4."""
    law, long, minute = LogT(90.0, 0.5), LogT(600.0, 0.5), Limit(per_minute=100, at_once=20)
    yield Case("a batch, 100 a minute", law, minute, batch)
    yield Case("2,850 an hour, 100 a minute", law, minute, 2 * batch, per_hour=2_850.0)
    yield Case("a batch, 1,000 a minute", law, Limit(per_minute=1_000, at_once=200), 4 * batch)
    yield Case("a batch of 600 s, expected=600", long, minute, 2 * batch, expected=600.0)
    yield Case("a batch of 600 s, unannounced", long, minute, 2 * batch)
    day = Limit(per_minute=100, per_day=4 * batch // 3, at_once=20)
    yield Case(f"a batch, {day.per_day:,} a day", law, day, 2 * batch)


def under_limit(case: Case, seed: int) -> Row:
    """Figure 4, by simulation of the production policy from its first response on."""
    result = simulate(
        parse_policy("learned", case.law),
        drawn(case.law, case.count, seed),
        limit=case.limit,
        per_hour=case.per_hour,
        timeout=2 * 86_400.0,
        expected=case.expected,
        law=case.law,
        seed=seed,
    )
    numbers = (
        f"{result.requests:.2f} requests, {100 * (result.limit_used or 0):.1f} % used, "
        f"lag {result.lag:.0f} s, {result.busiest_minute:,} in a minute, {result.busiest_day:,} in a day"
    )
    return Row(case.name, numbers, keeps_limit(result, case.limit))


def keeps_limit(result: Result, limit: Limit) -> bool:
    """True where all marks of figure 4 are reached."""
    within = result.busiest_minute <= limit.per_minute + limit.at_once
    within = within and (not limit.per_day or result.busiest_day <= limit.per_day)
    return result.requests <= 2.2 and (result.limit_used or 0.0) >= 0.95 and within


def grown(history: History, law: LogT, count: int, random: Random) -> History:
    """Return the history after so many responses, one after the other, timed in whole seconds."""
    for _ in range(count):
        began = random.random()
        history = history.add(float(math.floor(began + law.sample(random))))
    return history


def walked(history: History, price: float, grid: Grid) -> Outlook:
    """Return polls and lag of the schedule this history gives, when the truth is the law of `grid`."""
    schedule: Schedule = schedule_for(history, TIERS, lag_per_poll=price)
    assert len(history.settled) >= WARM

    def next_look(elapsed: float) -> float:
        return elapsed + schedule.delay(Wait(elapsed, math.inf))

    return outlook(next_look, *grid)


def optimum(grid: Grid, price: float) -> Outlook:
    """Return polls and lag of the best looks there are."""
    return outlook(best_plan(*grid, price).next_look, *grid)


def at_lag(lag: float, median: float, at: Callable[[float], Outlook]) -> Outlook:
    """Return what `at` gives at the price where its mean lag is `lag` s, by bisection."""
    low, high = math.log(1e-5 * median), math.log(10.0 * median)
    soon, late = at(math.exp(low)), at(math.exp(high))
    for _ in range(14):
        middle = 0.5 * (low + high)
        look = at(math.exp(middle))
        if look.lag > lag:
            high, late = middle, look
        else:
            low, soon = middle, look
    # Prices are told apart in steps: between two, some responses go by the one plan and some by the other.
    share = (lag - soon.lag) / (late.lag - soon.lag) if late.lag > soon.lag else 0.0
    return Outlook(soon.polls + share * (late.polls - soon.polls), lag)


def drawn(law: LogT, count: int, seed: int) -> list[float]:
    """Return so many durations."""
    random = Random(f"{seed} {law} {count}")
    return [law.sample(random) for _ in range(count)]


def named(law: LogT) -> str:
    """Return the law in a few words."""
    tail = "" if math.isinf(law.freedom) else f", log-t {law.freedom:g}"
    return f"median {law.median:g} s, spread {law.spread:g}{tail}"


if __name__ == "__main__":
    sys.exit(main())
