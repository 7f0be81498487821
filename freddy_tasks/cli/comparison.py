"""Policies side by side: as a table for a terminal, as JSON, and as what a plot needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from freddy_tasks.durations import Law
from freddy_tasks.frontier import Point, frontier
from freddy_tasks.simulation import Limit, Result

POINTS = 12
"""Of the optimum's line."""

WIDE = 100
"""Characters that the table may take where a terminal has fewer: it wraps there, and loses nothing."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What each policy made of the same responses."""

    durations: str  # where they are from
    responses: int
    law: Law
    limit: Limit
    seed: int
    price: float  # s of lag that one poll is worth
    results: Mapping[str, Result]

    @property
    def title(self) -> str:
        """What was simulated, in a line."""
        limits = [
            *([f"{self.limit.per_minute:g} requests a minute"] if self.limit.per_minute else []),
            *([f"{self.limit.per_day:,} a day"] if self.limit.per_day else []),
        ]
        return f"{self.responses:,} responses, {self.durations}; {', '.join(limits) or 'no limit'}"

    def frontier(self) -> tuple[Point, ...]:
        """The least lag for as many polls as the policies made, and for some fewer and more."""
        made = [result.polls for result in self.results.values()]
        low, high = max(1.05, 0.6 * min(made)), max(2.5, 1.5 * max(made))
        return frontier(self.law, [low * (high / low) ** (step / (POINTS - 1)) for step in range(POINTS)])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "durations": self.durations,
            "responses": self.responses,
            "limit": asdict(self.limit),
            "seed": self.seed,
            "price": self.price,
            "policies": {name: result.to_json() for name, result in self.results.items()},
            "frontier": [asdict(point) for point in self.frontier()],
        }


COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("\npolls", lambda result: f"{result.polls:.2f}"),
    ("lag, s\nmean", lambda result: _seconds(result.lag)),
    ("\np50", lambda result: _seconds(result.lag_p50)),
    ("\np95", lambda result: _seconds(result.lag_p95)),
    ("\nrequests", lambda result: f"{result.requests:.2f}"),
    ("responses\nan hour", lambda result: f"{result.per_hour:,.0f}"),
    ("\na day", lambda result: f"{result.per_day:,.0f}"),
    ("limit\nused", lambda result: "-" if result.limit_used is None else f"{result.limit_used:.0%}"),
    ("cost /\noptimum", lambda result: "-" if math.isnan(result.cost) else f"{result.over_optimum:,.2f}"),
)


def show(comparison: Comparison) -> None:
    """Print the table, and what its figures mean."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("\npolicy", no_wrap=True)
    for title, _ in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for name, result in comparison.results.items():
        table.add_row(name, *(cell(result) for _, cell in COLUMNS))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, WIDE)
    console.print(comparison.title)
    console.print(table)
    console.print(
        f"Polls and requests are of one response, on average. Cost is the lag and {comparison.price:.2g} s "
        "for each poll;\nthe optimum's is the least there is without a limit, for who knows the durations."
    )
    for name, result in comparison.results.items():
        if result.expired:
            console.print(f"{name}: {result.expired:,} responses were given up at the deadline.")


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
