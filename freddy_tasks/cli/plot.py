"""Lag against polls as a picture; needs the extra `plot`. Draws into a file, never into a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from freddy_tasks.frontier import Point

from .comparison import Comparison

SUFFIXES = (".png", ".svg", ".pdf")
MARKERS = "osD^vPX*<>"
TICKS = (
    (0.6, (1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, *range(3, 10))),
    (1.2, tuple(range(1, 10))),
    (4.0, (1.0, 2.0, 5.0)),
    (math.inf, (1.0,)),
)
"""First digits of the ticks, for axes of fewer decades than the first number."""

ROOM = 1.25
"""Factor by which the axes go on beyond the first and the last point."""


def draw(path: Path, comparison: Comparison) -> None:
    """Draw each policy as a point, over the line that no policy can be below.

    Raises OSError when the file cannot be written.
    """
    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    axes.set_title(comparison.title, fontsize=11, loc="left")
    axes.set_xlabel("polls per response")
    axes.set_ylabel("mean lag: seconds from finished to noticed")
    _draw_policies(axes, comparison)
    _draw_frontier(axes, [point for point in comparison.frontier() if point.lag > 0])
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis)
    axes.grid(which="major", color="0.85", lw=0.8)
    axes.grid(which="minor", color="0.94", lw=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.savefig(path)


def _draw_policies(axes: Axes, comparison: Comparison) -> None:
    shown = [(name, result) for name, result in comparison.results.items() if result.lag > 0]
    for place, (name, result) in enumerate(shown):
        # Smaller from one to the next: those that come out alike stay visible under each other.
        axes.plot(
            result.polls,
            result.lag,
            MARKERS[place % len(MARKERS)],
            color=f"C{place}",
            ms=max(6.0, 13.0 - 1.5 * place),
            mec="white",
            zorder=3 + place,
            label=f"{name}, {result.over_optimum:,.2f} times the least cost",
        )
    polls = [result.polls for _, result in shown] or [1.0]
    lags = [result.lag for _, result in shown] or [1.0]
    axes.set_xlim(max(1.0, min(polls) / 1.5) / 1.03, max(2.0, max(polls) * ROOM))
    axes.set_ylim(min(lags) / 2.0, max(lags) * ROOM)


def _draw_frontier(axes: Axes, line: Sequence[Point]) -> None:
    polls, lags = [point.polls for point in line], [point.lag for point in line]
    low, high = axes.get_ylim()
    axes.plot(polls, lags, color="0.2", lw=1.5, zorder=2, label="the optimum for so many polls")
    axes.set_ylim(min([low, *lags]), max([high, *(lag * ROOM for lag in lags)]))
    axes.fill_between(polls, lags, axes.get_ylim()[0], color="0.2", alpha=0.08, lw=0)


def _plain_numbers(axis: Axis) -> None:
    """Ticks written as people write numbers, and about as many of them however wide the axis is."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    steps = next(steps for most, steps in TICKS if decades < most)
    axis.set_major_locator(LogLocator(subs=steps, numticks=30))
    axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=60))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())
