"""Log records of one logger, whatever a worker in this process does to the root's handlers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler


@contextmanager
def logged(name: str) -> Iterator[list[logging.LogRecord]]:
    """The records from WARNING up, as they come."""
    logger, handler = logging.getLogger(name), BufferingHandler(1_000)
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
