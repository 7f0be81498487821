"""The command line: `freddy-tasks`, also `python -m freddy_tasks`.

Each command is a module of this package with a `command`; it is imported when it is called or listed, so
that one whose extra is not installed takes no other with it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from freddy_tasks.errors import ConfigurationError, InvalidRequest

from .exits import FAILED, INTERRUPTED, USAGE

COMMANDS = (
    "run",
    "batch",
    "worker",
    "emulator",
    "flower",
    "status",
    "cancel",
    "resume",
    "reconcile",
    "doctor",
    "simulate",
)


class Commands(click.Group):
    """Finds a command by the name of its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's interface
        """Names in the order of a newcomer's way."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name, or one that says what is missing."""
        if cmd_name not in COMMANDS:
            return None
        try:
            module = import_module(f"{__name__}.{cmd_name}")
        except ImportError as error:
            return _unavailable(cmd_name, error)
        command: click.Command = module.command
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="freddy-tasks")
def freddy_tasks() -> None:
    """Freddy's background mode as Celery tasks.

    Try it, with nothing set up: freddy-tasks run "Write a detailed article about AI"
    """


def main() -> None:
    """Run the command line and end the process with the exit status that the command's help names."""
    try:
        status = freddy_tasks.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except (ConfigurationError, InvalidRequest) as error:
        status = _refuse(str(error))
    except (RedisError, OperationalError) as error:
        status = _refuse(f"The broker, the result backend or the state server is away: {_first_line(error)}")
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    except OSError as error:
        status = _refuse(": ".join(filter(None, [error.filename, error.strerror or str(error)])))
    sys.exit(status)


def _refuse(message: str) -> int:
    click.echo(f"freddy-tasks: {message}", err=True)
    return USAGE


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _unavailable(name: str, error: ImportError) -> click.Command:
    def refuse(arguments: tuple[str, ...]) -> None:
        del arguments
        raise click.UsageError(f"`{name}` needs a package that is not installed: {error}.")

    return click.Command(
        name,
        callback=refuse,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        short_help=f"Not available: {error}.",
    )
