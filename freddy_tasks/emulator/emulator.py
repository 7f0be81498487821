"""The emulator as a value: start it, talk to it, ask it what it saw, stop it."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType

from freddy_tasks.emulator.clock import Clock
from freddy_tasks.emulator.control import PREFIX, Control
from freddy_tasks.emulator.exchange import Reply, Request
from freddy_tasks.emulator.faults import Fault
from freddy_tasks.emulator.journal import Counts, JobRecord, RequestRecord
from freddy_tasks.emulator.options import Options
from freddy_tasks.emulator.server import Server
from freddy_tasks.emulator.service import Service


class Emulator:
    """The Freddy API on a port of this machine.

    ``with Emulator(Options(...)) as api:`` serves at ``api.url`` until the block ends; port 0: a free one.
    """

    def __init__(self, options: Options | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.options = options or Options()
        self.clock = Clock(self.options.time_scale, self.options.start)
        self.key = self.options.keys[0] if self.options.keys else "oak_emulator_" + secrets.token_hex(12)
        """A key that is good."""
        self._host, self._port = host, port
        self._service = Service(self.options, self.clock, self._wait)
        self._control = Control(self._service)
        self._server: Server | None = None

    def __repr__(self) -> str:
        return f"Emulator({self.options.profile!r}, {self.url if self._server else 'not started'})"

    def start(self) -> Emulator:
        """Listen, in threads of its own; OSError when the port is taken. Returns itself."""
        if self._server is not None:
            raise RuntimeError("the emulator runs already")
        self._server = Server(self._host, self._port, self._answer)
        self._port = self._server.port
        return self

    def stop(self) -> None:
        """Close every connection and end every thread; raises what went wrong inside, if anything did.

        Responses stay: :meth:`start` brings them back at the same address, as after an outage.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        server.stop()
        self._service.flush_log()
        if server.errors:
            raise server.errors[0]

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Scheme, host and port, the same after a stop and a start; RuntimeError before the first start."""
        if not self._port:
            raise RuntimeError("the emulator has no port yet: use `with Emulator() as api`")
        return f"http://{self._host}:{self._port}"

    @property
    def counts(self) -> Counts:
        """How much happened since the start or the last reset."""
        return self._service.counts()

    def jobs(self) -> tuple[JobRecord, ...]:
        """Return the responses created, in order, with their times."""
        return self._service.jobs()

    def requests(self) -> tuple[RequestRecord, ...]:
        """Return the latest thousand requests, keys redacted."""
        return self._service.requests()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in force."""
        return self._service.faults()

    def set_faults(self, faults: Iterable[Fault | str]) -> None:
        """Put these faults, as values or as text, in the place of all others; ValueError for bad text."""
        self._service.set_faults(
            Fault.parse(each) if isinstance(each, str) else each for each in tuple(faults)
        )

    def rotate_key(self, key: str) -> None:
        """Take this key only, from now on: the others get 401. :attr:`key` becomes it."""
        self._service.rotate_key(key)
        self.key = key

    def reset(self) -> None:
        """Forget jobs, counts and requests; back to the faults and limits of the options. Time stays."""
        self._service.reset()

    def _wait(self, seconds: float) -> None:
        if self._server is not None:
            self._server.wait(seconds)

    def _answer(self, request: Request) -> Reply:
        return (self._control if request.path.startswith(PREFIX) else self._service).answer(request)


def serve(
    host: str = "127.0.0.1",
    port: int = 8765,
    options: Options | None = None,
    ready: Callable[[Emulator], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` is called once with the listening emulator.

    OSError when the port is taken. Anyone who reaches the port can steer it, so keep it on the loopback.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        # SIGINT too, which a shell lets its background jobs ignore.
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        with Emulator(options, host, port) as api, suppress(KeyboardInterrupt):
            if ready is not None:
                ready(api)
            threading.Event().wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
