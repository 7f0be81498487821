"""The Celery app of workers that will be stopped: `celery -A closing worker`."""

from __future__ import annotations

import os
import time

from billiard.process import current_process
from press import app

app.conf.worker_soft_shutdown_timeout = float(os.environ.get("CLOSING_SOFT", "0"))

READING = "closing.reading"  # key that is there while the worker's main process reads a result of its pool


class HardToRead(Exception):
    """Takes the worker's main process a second to unpickle."""

    def __reduce__(self) -> tuple[type[HardToRead] | object, tuple[()]]:
        return _read, ()


def _read() -> HardToRead:
    if current_process().name == "MainProcess":
        app.backend.client.set(READING, 1)
        time.sleep(1.0)
    return HardToRead()


@app.task(name="closing.fail")
def fail() -> None:
    """Fail with an error that is hard to read."""
    raise HardToRead
