"""What time it is for the emulator: the machine's own, faster than the machine's, or moved by hand."""

from __future__ import annotations

import math
import threading
import time


class Clock:
    """A clock that starts at the machine's time and runs ``scale`` times as fast; 0 stands still.

    Whatever the scale, :meth:`advance` moves it forward. Safe to share between threads.
    """

    def __init__(self, scale: float = 1.0, start: float | None = None) -> None:
        if not (scale >= 0 and math.isfinite(scale)):
            raise ValueError(f"time_scale must be 0 or more, got {scale}")
        self.scale = scale
        # Whole seconds where time stands still, so that a test can do arithmetic on what it reads.
        self._start = (time.time() if scale else float(int(time.time()))) if start is None else start
        self._origin = time.monotonic()
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return Unix seconds; they never go back, even when the machine's date is set."""
        with self._lock:
            return self._start + (time.monotonic() - self._origin) * self.scale

    def advance(self, seconds: float) -> None:
        """Move the time forward by ``seconds``; ValueError for a negative or infinite number."""
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise ValueError(f"time only moves forward, and not for ever: got {seconds}")
        with self._lock:
            self._start += seconds

    def real_seconds(self, seconds: float) -> float:
        """Return how long ``seconds`` of this clock last for somebody who waits on a socket.

        A clock that stands still counts as one that runs with the machine's: nobody could wait for it.
        """
        return seconds / self.scale if self.scale else seconds
