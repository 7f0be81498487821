"""All that a prompt needs on a machine where nothing is set up: server, worker, and an API to talk to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Self

from freddy_tasks import processes
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator
from freddy_tasks.errors import ConfigurationError

WORKER = ("worker", "-P", "threads", "-c", "8", "--without-gossip", "--without-mingle", "-l", "INFO")
"""Arguments of `celery` for a worker: our tasks wait on the network only, so threads are what they need."""

_CRITICAL = re.compile(r"CRITICAL/\w+\] (.*)")


class LocalStack:
    """A Valkey server, a worker, and with `emulate` the emulator; up until `stop`, and then gone.

    What the server knows goes with it, unless `directory` is given: a power cut loses nothing of that.
    """

    def __init__(self, *, emulate: bool, directory: Path | None = None) -> None:
        self._server = EmbeddedServer(directory)
        self._options = ("--appendfsync", "always") if directory else ()
        self._api = Emulator() if emulate else None
        self._worker: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Settings with which a process uses this stack."""
        url = self._server.url
        addresses = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, "FREDDY_STATE_URL": url}
        if self._api is None:
            return addresses
        return {**addresses, "FREDDY_API_KEY": self._api.key, "FREDDY_BASE_URL": self._api.url}

    @property
    def emulates(self) -> bool:
        """True when it has the emulator in place of the API."""
        return self._api is not None

    @property
    def _log(self) -> Path:
        return self._server.directory / "worker.log"

    def start(self) -> Self:
        """Start all of it; the worker may still be coming up then.

        Raises `ConfigurationError` when the server cannot be started.
        """
        try:
            self._server.start(*self._options)
            if self._api:
                self._api.start()
            argv = [sys.executable, "-m", "celery", "-A", "freddy_tasks.app", *WORKER]
            self._worker = processes.start(argv, self._log, {**os.environ, **self.environment})
        except BaseException:
            self.stop()
            raise
        return self

    def check(self) -> None:
        """Raise `ConfigurationError`, with the worker's last words, when it has ended."""
        if self._worker is None or self._worker.poll() is None:
            return
        lines = self._log.read_text(errors="replace").splitlines()
        reasons = [found[1] for line in lines if (found := _CRITICAL.search(line))]
        raise ConfigurationError(
            f"The worker ended with status {self._worker.returncode}: " + " | ".join(reasons or lines[-3:])
        )

    def stop(self) -> None:
        """End the worker, the emulator and the server, and remove their files."""
        if self._worker:
            # A warm shutdown takes seconds, and whatever it could save goes with the server anyway.
            self._worker.kill()
            self._worker.wait()
            self._worker = None
        try:
            if self._api:
                self._api.stop()
        finally:
            self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
