"""Nodes for pytest-celery that are processes of this machine, where its own are Docker containers.

`pytest_celery.CeleryTestNode` asks its container for `id`, `name`, `status`, `logs`, `ready`, `kill`,
`restart`, `reload`, `teardown` and `celeryconfig`; anything that answers these is a container to it.
"""

from __future__ import annotations

import os
import signal as signals
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import celery
from celery import Celery

from freddy_tasks import processes
from freddy_tasks.embedded import find_server

DEADLINE = 30.0  # seconds: whatever takes longer has failed
CHECKOUT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    """The condition's first true value; AssertionError when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing of the kind happened in time"
        time.sleep(0.02)
    return value


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class LocalProcess:
    """What a node needs of its container, made of one process and its log."""

    ready_prompt = ""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.argv, self.log, self.env = list(argv), log, env
        self.id = uuid.uuid4().hex
        self.name = f"{type(self).__name__.lower()}-{self.id[:8]}"
        self._read_from = 0
        self.start()

    def start(self) -> None:
        """Start it, again where it has ended."""
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        # What a killed prefork pool leaves behind goes with the log.
        env = {**(os.environ if self.env is None else self.env), "TMPDIR": str(self.log.parent)}
        self.process = processes.start(self.argv, self.log, env)

    @property
    def pid(self) -> int:
        """Process id, of a worker's main process."""
        return self.process.pid

    @property
    def status(self) -> str:
        """Docker's words for it."""
        return "running" if self.process.poll() is None else "exited"

    def logs(self) -> str:
        """All it has written, earlier runs included."""
        return self.log.read_text(errors="replace")

    def ready(self) -> bool:
        """Wait until this run has said that it is ready; AssertionError when it ends before."""

        def is_ready() -> bool:
            said = self.log.read_bytes()[self._read_from :].decode(errors="replace")
            assert self.status == "running", said[-2_000:]
            return self.ready_prompt in said

        return bool(wait_for(is_ready))

    def reload(self) -> None:
        """Nothing is cached here."""

    def send(self, signal: str) -> None:
        """Send a signal to the main process alone, and go on."""
        self.process.send_signal(signals.Signals[signal])

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal to the whole process group, and wait for the end."""
        number = signals.Signals[signal] if isinstance(signal, str) else signal
        os.killpg(self.process.pid, number)
        self.process.wait(DEADLINE)

    def restart(self, timeout: float = DEADLINE) -> None:
        """End it in good order if it runs, start it, and wait until it is ready."""
        processes.stop(self.process, timeout)
        self.start()
        self.ready()

    def teardown(self) -> None:
        """End it; twice does no harm."""
        processes.stop(self.process, DEADLINE)

    def wait(self) -> int:
        """Exit status of a process that ends by itself."""
        return self.process.wait(DEADLINE)


class Valkey(LocalProcess):
    """A Valkey server on a port of its own, with a password and an append-only file."""

    ready_prompt = "Ready to accept connections"

    def __init__(self, directory: Path, *options: str, password: str = "") -> None:
        self.port = free_port()
        self.password = password or uuid.uuid4().hex
        argv = [str(find_server()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        argv += ["--appendonly", "yes", "--save", "", *options]
        argv += ["--requirepass", self.password, "--masterauth", self.password]
        super().__init__(argv, directory / "valkey.log")

    @property
    def url(self) -> str:
        """Address for broker, backend and ledger."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """What pytest-celery makes the setup's configuration of."""
        place = {"hostname": "127.0.0.1", "port": self.port, "vhost": "0"}
        return {"url": self.url, "host_url": self.url, **place}


class Sentinel(LocalProcess):
    """A Sentinel that watches one master; each of the `limits` is in milliseconds."""

    ready_prompt = "+monitor master"
    master = "prime"

    def __init__(self, directory: Path, master: Valkey, quorum: int = 1, **limits: int) -> None:
        self.port = free_port()
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {self.master} 127.0.0.1 {master.port} {quorum}\n"
            f"sentinel auth-pass {self.master} {master.password}\n"
            + "".join(
                f"sentinel {name.replace('_', '-')} {self.master} {value}\n" for name, value in limits.items()
            )
        )
        argv = [str(find_server()), str(configuration), "--sentinel"]
        super().__init__(argv, directory / "sentinel.log")
        self.url = f"sentinel://:{master.password}@127.0.0.1:{self.port}/0"


class Worker(LocalProcess):
    """A Celery worker."""

    ready_prompt = " ready."

    def __init__(
        self,
        log: Path,
        env: Mapping[str, str],
        *,
        app: str = "press",
        pool: str = "threads",
        concurrency: int = 8,
        options: Sequence[str] = (),
    ) -> None:
        argv = [sys.executable, "-W", "ignore", "-m", "celery", "-A", app, "worker", "-P", pool]
        argv += ["-c", str(concurrency), "--without-gossip", "--without-mingle", "-l", "INFO", *options]
        self._node = f"w{uuid.uuid4().hex[:8]}"
        argv += ["-n", f"{self._node}@%h"]
        path = f"{CHECKOUT / 'tests' / 'acceptance'}{os.pathsep}{CHECKOUT}"
        super().__init__(argv, log, {**os.environ, "PYTHONPATH": path, **env})

    def version(self) -> str:
        """Of Celery."""
        return celery.__version__

    def log_level(self) -> str:
        """As started."""
        return "INFO"

    def worker_name(self) -> str:
        """Node name before the @."""
        return self._node

    def worker_queue(self) -> str:
        """Queue of the configuration that the app shares with `freddy_tasks.app`."""
        return "freddy_tasks"

    def children(self) -> list[int]:
        """Process ids of its pool."""
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.pid)], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]


def client_of(broker: str, backend: str, **conf: Any) -> Celery:
    """The app as a web process has it: it sends and reads, and runs nothing."""
    app = Celery("press", broker=broker, backend=backend, set_as_current=False)
    app.config_from_object("celeryconfig")
    app.conf.update(broker_url=broker, result_backend=backend, result_backend_thread_safe=True, **conf)
    app.task(name="press.collect", shared=False)(_elsewhere)
    app.set_current()
    return app


def _elsewhere(responses: Any) -> Any:
    raise NotImplementedError


StartWorker = Callable[..., Worker]
