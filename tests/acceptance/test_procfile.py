"""Each line of the Procfile runs as a process manager runs it: by a shell, until SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from freddy_tasks import processes
from freddy_tasks.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]
LINES = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
READY = {"worker": "ready.", "flower": "Visit me at", "emulator": "The emulator runs"}
DEADLINE = 30.0  # seconds: a test that has to wait longer has failed


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run_until_ready(line: str, ready: str, log: Path, environment: Mapping[str, str]) -> int:
    """Exit status of a line that was stopped as soon as it said it was ready."""
    process = processes.start(["/bin/sh", "-c", line], log, environment)
    try:
        deadline = time.monotonic() + DEADLINE
        while ready not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        return process.wait(DEADLINE)
    finally:
        processes.stop(process, 0.0)


def test_procfile_has_all_that_development_needs() -> None:
    """And each of its lines is run below."""
    assert set(LINES) == set(READY)


@pytest.mark.parametrize("name", READY)
def test_line_starts_says_so_and_ends_at_sigterm(name: str, valkey: EmbeddedServer, tmp_path: Path) -> None:
    """With nothing in the environment but the broker's address and free ports."""
    url = f"{valkey.url}?virtual_host=3"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CELERY_BROKER_URL": url,
        "CELERY_RESULT_BACKEND": url,
        "EMULATOR_PORT": free_port(),
        "FLOWER_PORT": free_port(),
    }

    assert run_until_ready(LINES[name], READY[name], tmp_path / "log", environment) in (0, 143)
