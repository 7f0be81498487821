"""A Celery app of our own, for those who have none: what the CLI, Procfile and compose file run."""

from importlib.util import find_spec

from celery import Celery

# In a checkout the file stands at the top; a wheel carries it inside the package.
_CONFIG = "freddy_tasks.celeryconfig" if find_spec("freddy_tasks.celeryconfig") else "celeryconfig"

app = Celery("freddy_tasks")
app.config_from_object(_CONFIG)
