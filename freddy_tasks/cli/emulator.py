"""`freddy-tasks emulator`: the local stand-in for the API, in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from freddy_tasks.emulator import PROFILES, Durations, Emulator, Fault, Options, parse_durations, serve
from freddy_tasks.emulator.options import FEW_SECONDS, Profile

_Value = TypeVar("_Value")


def _read(parse: Callable[[str], _Value]) -> Callable[[str | _Value], _Value]:
    def convert(value: str | _Value) -> _Value:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return convert


def _limit(text: str) -> int | None:
    if text == "off":
        return None
    if not text.isdigit() or int(text) == 0:
        raise ValueError("give a number above 0, or `off`")
    return int(text)


@click.command(epilog="Exit status: 0 stopped by Ctrl-C or SIGTERM; 2 bad arguments, or the port is taken.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Who reaches it can steer it.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default="bg",
    show_default=True,
    help="Pages of the API to follow.",
)
@click.option(
    "--durations",
    type=_read(parse_durations),
    default=FEW_SECONDS,
    metavar="SPEC",
    help="How long responses take: 20, polls:2, lognormal:90,0.5, list:1,2,3 or trace:FILE, in seconds; "
    "default: about five.",
)
@click.option(
    "--fault",
    "faults",
    type=_read(Fault.parse),
    multiple=True,
    metavar="NAME[=VALUE][@CONDITION=...]",
    help="What goes wrong, such as 503_long@p=0.2; repeatable.",
)
@click.option(
    "--per-minute",
    type=_read(_limit),
    default="100",
    show_default=True,
    metavar="N|off",
    help="Requests a minute before it answers 429.",
)
@click.option(
    "--per-day",
    type=_read(_limit),
    default="10000",
    show_default=True,
    metavar="N|off",
    help="Requests in any 24 hours.",
)
@click.option("--seed", default=0, show_default=True, help="Chooses durations and which calls a fault hits.")
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to which a JSON line is added for each response that ends: a trace.",
)
def command(
    host: str,
    port: int,
    profile: Profile,
    durations: Durations,
    faults: tuple[Fault, ...],
    per_minute: int | None,
    per_day: int | None,
    seed: int,
    log: Path | None,
) -> None:
    """Emulate the Freddy API on this machine: jobs, limits, errors, and faults on demand. No model answers.

    \b
    freddy-tasks emulator --port 8765 --durations lognormal:20,0.5 --fault reset_after@p=0.1
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    options = Options(
        profile=profile,
        durations=durations,
        faults=faults,
        per_minute=per_minute,
        per_day=per_day,
        seed=seed,
        log_path=log,
    )
    try:
        serve(host, port, options, _announce)
    except OSError as error:
        raise click.UsageError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None


def _announce(api: Emulator) -> None:
    click.echo(f"export FREDDY_BASE_URL={api.url}")
    click.echo(f"export FREDDY_API_KEY={api.key}")
    click.echo("The emulator runs; set these two where workers start. Ctrl-C stops it.", err=True)
