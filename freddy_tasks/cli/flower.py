"""`freddy-tasks flower`: the monitor, with authentication on and prompts hidden."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import click

import freddy_tasks

from .apps import DEFAULT, app_option, has_broker

CONFIGURATION = Path(freddy_tasks.__file__).with_name("flowerconfig.py")
_CREDENTIALS = "FLOWER_BASIC_AUTH"
_OTHER_CREDENTIALS = ("--basic_auth", "--basic-auth", "--auth", "--conf")


@click.command(context_settings={"ignore_unknown_options": True})
@app_option
@click.option(
    "--address", default="127.0.0.1", show_default=True, envvar="FLOWER_ADDRESS", help="Listen here."
)
@click.option("--port", default=5555, show_default=True, envvar="FLOWER_PORT", help="And on this port.")
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED)
def command(app_name: str | None, address: str, port: int, flower_options: tuple[str, ...]) -> None:
    """Watch tasks and workers in a browser, with Flower.

    Who may look is in FLOWER_BASIC_AUTH, as user:password. Without it a password is made up and printed, but
    only for an address that no other machine can reach. Further options go to Flower: --read_only,
    --url_prefix=flower.

    \b
    FLOWER_BASIC_AUTH=ops:secret freddy-tasks flower --port 5555
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    if find_spec("flower") is None:
        raise click.UsageError("Flower is not installed: pip install 'freddy-tasks[flower]'.")
    if not has_broker(app_name):
        raise click.UsageError(
            "No broker is configured: set CELERY_BROKER_URL, or name your own app with -A."
        )
    if not any(option.startswith(("--unix_socket", "--unix-socket")) for option in flower_options):
        _check_port(address, port)
    if not _authenticates(flower_options):
        os.environ[_CREDENTIALS] = _make_up(address)
    argv = [sys.executable, "-m", "celery", "-A", app_name or DEFAULT, "flower", f"--conf={CONFIGURATION}"]
    argv += [f"--address={address}", f"--port={port}", *flower_options]
    # This process becomes Flower, so that a supervisor's signals reach it.
    os.execv(sys.executable, argv)  # noqa: S606  # no shell is meant


def _check_port(address: str, port: int) -> None:
    """Raise `click.UsageError` where somebody else listens: Flower would end in a traceback."""
    try:
        family = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise click.UsageError(f"Cannot listen on {address}:{port}: {error.strerror}.") from error


def _authenticates(flower_options: tuple[str, ...]) -> bool:
    named = {option.partition("=")[0] for option in flower_options}
    return bool(
        os.environ.get(_CREDENTIALS)
        or os.environ.get("FLOWER_AUTH")
        or named.intersection(_OTHER_CREDENTIALS)
    )


def _make_up(address: str) -> str:
    """Credentials for this run, shown once; `click.UsageError` where others could try them."""
    if not _is_loopback(address):
        raise click.UsageError(
            f"{_CREDENTIALS} is not set: set it to user:password, as {address} can be reached from outside."
        )
    credentials = f"freddy:{secrets.token_urlsafe(12)}"
    click.echo(f"{_CREDENTIALS} is not set. For this run it is {credentials}")
    return credentials


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
