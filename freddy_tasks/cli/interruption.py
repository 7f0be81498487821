"""Ctrl-C and SIGTERM as facts to look at, so that nothing is left half started or half stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from .exits import INTERRUPTED, TERMINATED


class Interruption:
    """Counts the signals that ask to stop; inside `at_once` the first one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self.exit_status = INTERRUPTED
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For calls that may hang for long, and whose loss at any point is harmless."""
        self._raises = True
        try:
            if self.count:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self.count:
            self.exit_status = TERMINATED if number == signal.SIGTERM else INTERRUPTED
        self.count += 1
        if self._raises:
            raise KeyboardInterrupt
