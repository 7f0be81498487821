"""What a worker can take: its slots, how many are taken, and how long a step takes in one."""

from __future__ import annotations

from typing import Any

from celery.worker import state

from .packing import Pace

pace = Pace()  # of this worker's main process


def slots(worker: Any) -> int:
    """How many tasks its pool runs at once; with autoscaling, how many it may."""
    try:
        return int(worker.max_concurrency or worker.pool.num_processes)
    except AttributeError:  # a prefork pool that has ended, while the worker stops
        return 0


def taken_slots() -> int:
    """How many tasks the worker of this process has, begun or not."""
    return len(state.reserved_requests)
