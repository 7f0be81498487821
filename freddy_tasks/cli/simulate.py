"""`freddy-tasks simulate`: what a way of polling would cost, on durations of one's own, in virtual time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import click
from rich.console import Console

from freddy_tasks.budget import Budget
from freddy_tasks.durations import Law, parse_distribution, read_trace
from freddy_tasks.frontier import tier_price
from freddy_tasks.policies import Policy, parse_policy
from freddy_tasks.schedules import expected_seconds
from freddy_tasks.settings import PLANS, Settings
from freddy_tasks.simulation import Limit, simulate

from .apps import settings
from .comparison import Comparison, show
from .exits import DONE, FAILED
from .values import expected

POLICIES = ("tiers", "fixed:5", "backoff:1,1.5,20", "learned", "optimal")
DURATIONS = "lognormal:90,0.5"
RESPONSES = 10_000


@dataclass(frozen=True, slots=True)
class Load:
    """The responses to be simulated."""

    name: str
    law: Law
    durations: Sequence[float]  # s, one for each response
    arrivals: Sequence[float] | None  # s from the first; None: by a rate, or all at once


@click.command(
    epilog="Exit status: 0 done; 1 a policy gave up responses at the deadline; 2 bad arguments or trace."
)
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option(
    "--durations",
    metavar="LAW",
    help="Instead of a trace: lognormal:median,spread, logt:median,spread,freedom, fixed:seconds or "
    f"uniform:least,most, in seconds; default: {DURATIONS}.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="POLICY",
    help=f"A way of polling; repeatable; default: {' '.join(POLICIES)}.",
)
@click.option("--plan", type=click.Choice(list(PLANS)), help="Limits; default: FREDDY_PLAN, else standard.")
@click.option("--per-minute", type=click.IntRange(0), metavar="N", help="Requests a minute; 0: no limit.")
@click.option("--per-day", type=click.IntRange(0), metavar="N", help="Requests in any 24 hours; 0: no limit.")
@click.option("--burst", type=click.IntRange(1), metavar="N", help="Most requests in any one minute.")
@click.option(
    "--responses",
    type=click.IntRange(1),
    metavar="N",
    help=f"How many; default: those of the trace, else {RESPONSES:,}.",
)
@click.option(
    "--per-hour",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Responses that arrive an hour, at random; default: as in the trace, else all at once.",
)
@click.option(
    "--expected",
    "length",
    type=expected,
    metavar="SECONDS|short|medium|long",
    help="What the caller says of their length.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Longest wait for one response; default: FREDDY_TIMEOUT, else 1860.",
)
@click.option("--seed", default=0, show_default=True, help="Chooses durations, arrivals and jitter.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Draw lag against polls into a .png, .svg or .pdf.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    trace: str | None,
    durations: str | None,
    policies: tuple[str, ...],
    responses: int | None,
    per_hour: float | None,
    length: float | str | None,
    timeout: float | None,
    seed: int,
    as_json: bool,
    plot: Path | None,
    **limits: Any,
) -> None:
    """Compare ways of polling in virtual time: requests, lag, and what a plan's limit makes of them.

    TRACE is a file of JSON lines, or `-` for stdin, each with a `duration`, or `created_at` and
    `completed_at`: the emulator's log, or bodies of finished responses. Policies are tiers, fixed:SECONDS,
    backoff:FIRST,FACTOR,MOST, learned (what a worker does) and optimal (what none can beat).

    FREDDY_PLAN, FREDDY_TIERS, FREDDY_LAG_PER_POLL and the other settings of polling apply as in a worker.

    \b
    freddy-tasks simulate --per-hour 400 --plan unlimited
    freddy-tasks simulate trace.jsonl --policy learned --policy fixed:2 --plot lag.png
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    draw = _drawer_of(plot) if plot else None
    chosen = _with_limits(settings(), **limits)
    limit = _limit(chosen)
    try:
        load = _load(trace, durations, responses, as_it_came=per_hour is None, seed=seed)
        price = chosen.lag_per_poll or tier_price(load.law, chosen.tiers)
        ways = {name: _policy(name, load.law, chosen) for name in policies or POLICIES}
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    results = {}
    for name, policy in ways.items():
        with Console(stderr=True).status(f"{name}: {len(load.durations):,} responses"):
            results[name] = simulate(
                policy,
                load.durations,
                limit=limit,
                per_hour=per_hour or math.inf,
                arrivals=load.arrivals,
                timeout=timeout or chosen.timeout,
                expected=expected_seconds(length),
                law=load.law,
                price=price,
                seed=seed,
            )
    comparison = Comparison(load.name, len(load.durations), load.law, limit, seed, price, results)
    if as_json:
        click.echo(json.dumps(comparison.to_json(), indent=2, allow_nan=False))
    else:
        show(comparison)
    if draw:
        draw(comparison)
    ctx.exit(FAILED if any(result.expired for result in results.values()) else DONE)


def _load(
    path: str | None, durations: str | None, responses: int | None, *, as_it_came: bool, seed: int
) -> Load:
    random = Random(seed)  # noqa: S311  # no secret
    if path is None:
        name = durations or DURATIONS
        law = parse_distribution(name)
        return Load(name, law, [law.sample(random) for _ in range(responses or RESPONSES)], None)
    if durations:
        raise ValueError("give a trace or --durations, not both")
    name = "standard input" if path == "-" else path
    with click.open_file(path, encoding="utf-8", errors="replace") as lines:
        trace = read_trace(lines)
    if responses is None:
        return Load(name, trace, trace.durations, trace.arrivals if as_it_came else None)
    return Load(name, trace, [trace.sample(random) for _ in range(responses)], None)


def _with_limits(
    chosen: Settings, *, plan: str | None, per_minute: int | None, per_day: int | None, burst: int | None
) -> Settings:
    """The deployment's settings; a plan on the command line takes the place of all its limits."""
    given: dict[str, Any] = {"requests_per_minute": per_minute, "requests_per_day": per_day, "burst": burst}
    if plan is None:
        given = {name: value for name, value in given.items() if value is not None}
    else:
        given["plan"] = plan
    return chosen.model_copy(update=given)


def _limit(chosen: Settings) -> Limit:
    """What the shared budget makes of the limits."""
    rate, at_once, per_day = Budget.of("", *chosen.limits).limits
    return Limit(per_minute=60.0 * rate, per_day=per_day, at_once=at_once)


def _policy(name: str, law: Law, chosen: Settings) -> Policy:
    return parse_policy(
        name, law, tiers=chosen.tiers, lag_per_poll=chosen.lag_per_poll, lag_p95=chosen.lag_p95
    )


def _drawer_of(path: Path) -> Callable[[Comparison], None]:
    """What draws; found before anybody waits for results that could not be drawn."""
    try:
        plot = import_module(".plot", __package__)
    except ImportError:
        raise click.UsageError("--plot needs matplotlib: pip install 'freddy-tasks[plot]'.") from None
    if path.suffix not in plot.SUFFIXES:
        raise click.UsageError(f"--plot {path}: give a name that ends in {', '.join(plot.SUFFIXES)}.")
    if not path.parent.is_dir():
        raise click.UsageError(f"--plot {path}: there is no such folder.")
    return partial(plot.draw, path)
