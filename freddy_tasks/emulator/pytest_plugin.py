"""The `freddy_emulator` fixture, for anyone who tests against Freddy.

Mark a test with ``@pytest.mark.freddy_emulator(faults=("503_long@first=1",))`` to choose its options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from freddy_tasks.emulator import AfterPolls, Emulator, Fault, Options

OPTIONS = Options(durations=AfterPolls(2), time_scale=0, per_minute=None, per_day=None)


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known to --strict-markers."""
    config.addinivalue_line("markers", "freddy_emulator(**options): fields of Options for that fixture")


@pytest.fixture
def freddy_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """A running emulator: responses complete after two polls, time stands still, requests are not limited."""
    options = OPTIONS
    # The nearest mark comes first and has the last word.
    for mark in reversed(list(request.node.iter_markers("freddy_emulator"))):
        options = replace(options, **mark.kwargs)
    faults = tuple(Fault.parse(each) if isinstance(each, str) else each for each in options.faults)
    with Emulator(replace(options, faults=faults)) as api:
        yield api
