"""What the tests share: one Valkey for all of them, and a key prefix for each."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
import redis
from hypothesis import settings

from freddy_tasks.embedded import EmbeddedServer

# The same examples at each run: a test that fails did not do so by luck. `long` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("long", max_examples=5_000, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """For CI."""
    parser.addoption("--strict-skips", action="store_true", help="a skipped test fails the run")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test lacked a part."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--strict-skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees only the settings that it makes."""
    for name in list(os.environ):
        if name.startswith(("FREDDY_", "CELERY_", "FLOWER_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedServer]:
    """A Valkey server for the whole run."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def state(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of an empty database."""
    with redis.Redis(unix_socket_path=str(valkey.socket), decode_responses=True) as client:
        client.flushdb()
        yield client


@pytest.fixture
def prefix() -> str:
    """A key prefix of the test's own."""
    return f"test:{uuid.uuid4().hex[:8]}"
