"""An app with a callback for batches, for workers in processes of their own: `celery -A bindery worker`."""

from __future__ import annotations

from typing import Any

from celery import Celery

app = Celery("bindery")
app.config_from_object("celeryconfig")
# A killed worker's messages come back after this long, in seconds.
app.conf.broker_transport_options = {**app.conf.broker_transport_options, "visibility_timeout": 3}


@app.task(name="bindery.bind")
def bind(result: dict[str, Any]) -> dict[str, int]:
    """The callback of a batch; each run leaves a mark."""
    app.backend.client.incr("bindery.bound")
    counts: dict[str, int] = result["counts"]
    return counts
