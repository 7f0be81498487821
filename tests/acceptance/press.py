"""The Celery app that acceptance tests run in processes of their own: `celery -A press worker`."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, signals

app = Celery("press")
app.config_from_object("celeryconfig")
if timeout := os.environ.get("PRESS_VISIBILITY_TIMEOUT"):
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "visibility_timeout": int(timeout),
    }
if folder := os.environ.get("PRESS_BROKER_FOLDER"):
    app.conf.broker_transport_options = {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": folder,
    }
if master := os.environ.get("PRESS_MASTER"):
    for name in ("broker_transport_options", "result_backend_transport_options"):
        app.conf[name] = {**app.conf[name], "master_name": master}


@app.task(name="press.collect")
def collect(responses: list[dict[str, Any]]) -> list[str]:
    """Texts of the answers; each run leaves a mark."""
    app.backend.client.incr("press.collected")
    return [response["output_text"] for response in responses]


@app.task(name="press.work")
def work(seconds: float) -> None:
    """Keep a slot busy, as a user's own task would."""
    time.sleep(seconds)


@app.task(name="press.work_late", acks_late=True, ignore_result=True)
def work_late(seconds: float) -> None:
    """The same, of a task whose message is acknowledged at its end."""
    time.sleep(seconds)


@signals.task_prerun.connect
def _count(task: Any = None, task_id: str = "", **_: Any) -> None:
    if task.name.startswith("freddy_tasks."):
        app.backend.client.hincrby("press.pids", str(os.getpid()), 1)
