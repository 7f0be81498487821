"""The Celery app that a command works on, and what this process needs to reach it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from celery import Celery
from celery.app.utils import find_app
from celery.backends.base import DisabledBackend

from freddy_tasks.runtime import Runtime, build, use
from freddy_tasks.settings import Settings, load_settings

DEFAULT = "freddy_tasks.app"
_Command = TypeVar("_Command", bound=Callable[..., Any])


def app_option(command: _Command) -> _Command:
    """Add `-A`, as Celery spells it."""
    option = click.option(
        "-A",
        "--app",
        "app_name",
        metavar="APP",
        help=f"Your Celery app, as for `celery -A`; default: {DEFAULT}, which reads CELERY_BROKER_URL.",
    )
    return option(command)


def has_broker(app_name: str | None) -> bool:
    """True when a broker was chosen, by an app of the caller's own or for ours."""
    return app_name is not None or bool(os.environ.get("CELERY_BROKER_URL"))


def load_app(app_name: str | None) -> Celery:
    """The app of that name, made current; it must have a broker and a result backend.

    Raises `click.UsageError` when there is none, or one of the two is not chosen.
    """
    app = find(app_name)
    if isinstance(app.backend, DisabledBackend):
        raise click.UsageError("The app has no result backend, so no answer can reach this command: set one.")
    return app


def find(app_name: str | None) -> Celery:
    """The app of that name, made current, whatever it lacks but a broker.

    Raises `click.UsageError` when there is none, or no broker is chosen.
    """
    if not has_broker(app_name):
        raise click.UsageError(
            "No broker is configured: set CELERY_BROKER_URL, for example redis://localhost:6379/0, and "
            "CELERY_RESULT_BACKEND, or name your own app with -A."
        )
    name = app_name or DEFAULT
    try:
        app = find_app(name)
    except Exception as error:  # whatever the module raises
        why = f"{type(error).__name__}: {error}"
        raise click.UsageError(f"The app {name} cannot be loaded: {why}.") from error
    if not isinstance(app, Celery):
        raise click.UsageError(f"{name} is no Celery app.")
    app.set_current()
    return app


def settings() -> Settings:
    """The settings; the API key is the workers' business, so a command does not need one.

    Raises `ConfigurationError` naming each variable that is wrong.
    """
    return load_settings(needs_key=False)


def runtime_for(app: Celery) -> Runtime:
    """The runtime of an app, with a state server that answers.

    Raises `ConfigurationError` for a bad setting, `RedisError` when the state server is away.
    """
    runtime = build(app, settings())
    use(app, runtime)
    runtime.ledger.redis.ping()
    return runtime
