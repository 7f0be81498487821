"""A Celery app of our own, for those who have none: what the CLI, Procfile and compose file run."""

from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from celery import Celery


def _config() -> ModuleType:
    """`celeryconfig.py`: inside the package in a wheel, beside it in a checkout; never a stranger."""
    name = f"{__package__}.celeryconfig"
    if find_spec(name):
        return import_module(name)
    spec = spec_from_file_location(name, Path(__file__).parents[1] / "celeryconfig.py")
    if spec is None or spec.loader is None:
        raise ImportError("celeryconfig.py is missing: install the package again")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app = Celery("freddy_tasks")
app.config_from_object(_config())
