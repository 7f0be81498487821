"""The `freddy_emulator` fixture, for anyone who tests against Freddy.

Mark a test with ``@pytest.mark.freddy_emulator(faults=("503_long@first=1",))`` to choose its options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from freddy_tasks.emulator import Emulator


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known to --strict-markers."""
    config.addinivalue_line(
        "markers", "freddy_emulator(**options): fields of Options for the freddy_emulator fixture"
    )


@pytest.fixture
def freddy_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """A running emulator: responses complete after two polls, time stands still, requests are not limited."""
    # Here, because a plugin is imported by every pytest run on the machine.
    from freddy_tasks.emulator import AfterPolls, Emulator, Fault, Options

    options = Options(durations=AfterPolls(2), time_scale=0, per_minute=None, per_day=None)
    for mark in reversed(list(request.node.iter_markers("freddy_emulator"))):
        options = replace(options, **mark.kwargs)
    faults = tuple(Fault.parse(each) if isinstance(each, str) else each for each in options.faults)
    with Emulator(replace(options, faults=faults)) as api:
        yield api
