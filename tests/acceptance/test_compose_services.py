"""What the compose file runs in containers runs here without them, health checks included."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from freddy_tasks import processes
from freddy_tasks.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
READY = {"worker": "ready.", "flower": "Visit me at"}
DEADLINE = 60.0  # seconds: a test that has to wait longer has failed


def interpolated(words: list[str]) -> list[str]:
    """The words with every variable at its default, as compose passes them on."""
    return [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word).replace("$$", "$") for word in words]


def command_of(name: str) -> list[str]:
    """What a service runs."""
    return interpolated(SERVICES[name]["command"])


def check_of(name: str) -> list[str]:
    """What looks after a service."""
    kind, *words = interpolated(SERVICES[name]["healthcheck"]["test"])
    return words if kind == "CMD" else ["/bin/sh", "-c", *words]


def test_services_become_healthy_with_the_commands_of_the_file(tmp_path: Path) -> None:
    """Valkey takes its options; the checks of worker and Flower fail before the start, and pass after it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    server = EmbeddedServer().start(*command_of("valkey")[1:])
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CELERY_BROKER_URL": server.url,
        "CELERY_RESULT_BACKEND": server.url,
        "FREDDY_API_KEY": "unused",
        "FLOWER_BASIC_AUTH": "operator:word",
        "FLOWER_READ_ONLY": interpolated([SERVICES["flower"]["environment"]["FLOWER_READ_ONLY"]])[0],
    }
    commands = {
        "worker": command_of("worker"),
        "flower": [port if w == "5555" else w for w in command_of("flower")],
    }
    checks = {name: [word.replace("5555", port) for word in check_of(name)] for name in commands}

    def healthy(name: str, patience: str = "--timeout 5") -> bool:
        argv = [word.replace("--timeout 5", patience) for word in checks[name]]
        ended = subprocess.run(argv, env=environment, capture_output=True, timeout=DEADLINE, check=False)
        return ended.returncode == 0

    started = []
    try:
        before = {name: healthy(name, "--timeout 0.1") for name in commands}
        started = [
            processes.start(argv, tmp_path / f"{name}.log", environment) for name, argv in commands.items()
        ]
        deadline = time.monotonic() + DEADLINE
        for name, ready in READY.items():
            while ready not in (tmp_path / f"{name}.log").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        after = {name: healthy(name) for name in commands}
    finally:
        for process in started:
            process.terminate()
        for process in started:
            processes.stop(process, 20.0)
        server.stop()

    assert before == {"worker": False, "flower": False}
    assert after == {"worker": True, "flower": True}
