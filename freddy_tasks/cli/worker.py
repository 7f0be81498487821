"""`freddy-tasks worker`: a Celery worker with options that suit our tasks."""

from __future__ import annotations

import os
import sys

import click

from freddy_tasks.settings import load_settings

from .apps import DEFAULT, app_option, load_app
from .local import WORKER


class PassesOn(click.Command):
    """A command that reads `-A` and `--help` where they come first, and takes all that follows as it is.

    Click would look for its own letters in `-Qhigh`, and print the help.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Mark where the options of somebody else begin."""
        place = 0
        while place < len(args) and args[place].partition("=")[0] in {"-A", "--app"}:
            place += 1 if "=" in args[place] else 2
        if args[place : place + 1] not in (["-h"], ["--help"]):
            args = [*args[:place], "--", *args[place:]]
        return super().parse_args(ctx, args)


@click.command(cls=PassesOn, epilog="Exit status: Celery's; 2 when a setting is missing or wrong.")
@app_option
@click.argument("celery_options", metavar="[CELERY_WORKER_OPTION]...", nargs=-1, type=click.UNPROCESSED)
def command(app_name: str | None, celery_options: tuple[str, ...]) -> None:
    """Run a Celery worker in this process: threads, eight at once, as our tasks only wait for the network.

    Needs CELERY_BROKER_URL (or your app, with -A) and FREDDY_API_KEY. Options that follow are those of
    `celery worker` and go before these defaults.

    \b
    freddy-tasks worker --concurrency 20 --hostname ai@%h
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    load_app(app_name)
    load_settings()
    argv = [sys.executable, "-m", "celery", "-A", app_name or DEFAULT, *WORKER, *celery_options]
    os.execv(sys.executable, argv)  # noqa: S606  # Celery takes this process over, signals included
