"""Child processes that never outlive the command that started them."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, output in `log`.

    Ctrl-C on the terminal does not reach it: whoever started it stops it, in order. On Linux it also ends
    when its parent is killed.
    """
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  # argv comes from this package
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            start_new_session=True,
            preexec_fn=_ends_with_parent(),
        )


def stop(process: subprocess.Popen[bytes], timeout: float) -> None:
    """End a child: SIGTERM, and SIGKILL when it is still there after `timeout` seconds."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ends_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork

    def request() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return request
