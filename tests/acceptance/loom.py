"""The app of `bindery` whose workers look after batches more often than a user has patience for."""

from __future__ import annotations

from bindery import app

from freddy_tasks.batch import watch

watch.EVERY = 0.3  # seconds

__all__ = ["app"]
