"""Kill, cut off and break everything in turn, and count what became of each response.

    python benchmarks/survive.py --campaign kill --size 1000 --pool prefork

One line for each campaign; exit status 1 when a response was lost, submitted twice, counted twice in a chord,
or left to wait for ever. `docs/survival.md` says what each campaign does, and what it found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests" / "acceptance")]

from campaigns import (  # noqa: E402  # found by the line above
    cancelling,
    deaths,
    failover,
    faulty,
    kill,
    servers,
    soak,
    stopping,
)
from campaigns.book import Verdict  # noqa: E402
from campaigns.stage import Plan  # noqa: E402

Campaign = Callable[[Plan], Sequence[Verdict]]
SIZES = {
    "kill": 1000,
    "points": 60,
    "restart": 200,
    "outage": 200,
    "failover": 200,
    "drop": 200,
    "refusal": 200,
    "faults": 500,
    "cancel": 120,
    "term": 200,
    "soak": 20_000,
}
CAMPAIGNS: dict[str, Campaign] = {
    "kill": lambda plan: [
        kill.run(plan),
        kill.run(plan, resubmit=True),
        kill.run(plan, resubmit=True, line_up=True),
    ],
    "points": lambda plan: [_with_table(plan, resubmit=False), _with_table(plan, resubmit=True)],
    "restart": lambda plan: [servers.restart(plan)],
    "outage": lambda plan: [servers.restart(plan, seconds, rounds=1) for seconds in (1.0, 30.0)],
    "failover": lambda plan: [
        failover.run(plan),
        failover.run(plan, failover.LAG),
        failover.run(plan, failover.LAG, replicas=1),
    ],
    "drop": lambda plan: [servers.drop(plan)],
    "refusal": lambda plan: [servers.refuse(plan, setting) for setting in servers.REFUSALS],
    "faults": lambda plan: [faulty.run(plan)[0], faulty.mix(plan)],
    "cancel": lambda plan: [cancelling.run(plan)],
    "term": lambda plan: [stopping.run(plan, way) for way in stopping.WAYS],
    "soak": lambda plan: [soak.run(plan)],
}


def _with_table(plan: Plan, *, resubmit: bool) -> Verdict:
    verdict, rows = deaths.run(plan, resubmit=resubmit)
    print(deaths.HEADER, *rows, sep="\n")
    return verdict


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--campaign", choices=[*CAMPAIGNS, "all"], default="all")
    parser.add_argument("--size", type=int, help="responses; each campaign has its own default")
    parser.add_argument("--seed", type=int, default=1, help="of durations, faults and moments")
    parser.add_argument("--pool", choices=["prefork", "threads", "gevent"], default="prefork")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(argv)
    names = list(CAMPAIGNS) if asked.campaign == "all" else [asked.campaign]
    plan = Plan(seed=asked.seed, pool=asked.pool, workers=asked.workers)
    good = True
    for name in names:
        for verdict in CAMPAIGNS[name](replace(plan, size=asked.size or SIZES[name])):
            print(verdict, flush=True)
            if not verdict.good:
                print(verdict.details(), flush=True)
            good = good and verdict.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
