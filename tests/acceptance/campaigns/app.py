"""The Celery app of a campaign's workers, as a user would write it: `celery -A campaigns.app worker`.

Nothing is set that a user need not set: `visibility_timeout` stays Celery's hour unless the campaign says
otherwise. With SURVIVE_POINT the worker kills itself, once in the life of its folder, at that point.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

from campaigns import points

app = Celery("survive", include=["freddy_tasks.tasks"])
app.conf.update(
    broker_url=os.environ.get("CELERY_BROKER_URL"),
    result_backend=os.environ.get("CELERY_RESULT_BACKEND"),
    result_backend_thread_safe=True,
    broker_connection_retry_on_startup=True,
    task_routes={"survive.collect": {"queue": "bodies"}},
)
if timeout := os.environ.get("SURVIVE_VISIBILITY_TIMEOUT"):
    app.conf.broker_transport_options = {
        "visibility_timeout": float(timeout),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
if prefetch := os.environ.get("SURVIVE_PREFETCH"):
    app.conf.worker_prefetch_multiplier = int(prefetch)
if soft := os.environ.get("SURVIVE_SOFT"):
    app.conf.worker_soft_shutdown_timeout = float(soft)
if os.environ.get("SURVIVE_CONSUMER"):
    app.conf.worker_consumer = os.environ["SURVIVE_CONSUMER"]
if master := os.environ.get("SURVIVE_MASTER"):
    for name in ("broker_transport_options", "result_backend_transport_options"):
        app.conf[name] = {**app.conf[name], "master_name": master}
if point := os.environ.get("SURVIVE_POINT"):
    points.arm(app, point, os.environ["SURVIVE_FLAG"])
if times := os.environ.get("SURVIVE_CUT"):
    points.cut_off(app, int(times), os.environ["SURVIVE_BODIES"])


@app.task(name="survive.collect")
def collect(members: list[Any], name: str) -> int:
    """The body of a chord: each run leaves the number of its members, where no server can forget it."""
    with (Path(os.environ["SURVIVE_BODIES"]) / name).open("a") as runs:
        runs.write(f"{len(members)} {time.time()}\n")
    return len(members)
