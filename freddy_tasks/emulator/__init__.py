"""A faithful local stand-in for the Freddy API: jobs, limits, errors, and faults on demand.

::

    with Emulator(Options(durations=AfterPolls(2), faults=(Fault.parse("503_long@first=1"),))) as api:
        ...  # talk to api.url with api.key
        assert api.counts.posts == 1

Needs nothing but the standard library, and nothing of the rest of this package.
"""

from freddy_tasks.emulator.clock import Clock
from freddy_tasks.emulator.durations import (
    AfterPolls,
    ByLabel,
    Constant,
    Durations,
    LogNormal,
    Trace,
    parse_durations,
)
from freddy_tasks.emulator.emulator import Emulator, serve
from freddy_tasks.emulator.faults import Fault
from freddy_tasks.emulator.journal import Counts, JobRecord, RequestRecord
from freddy_tasks.emulator.options import PROFILES, Options, Profile

__all__ = [
    "PROFILES",
    "AfterPolls",
    "ByLabel",
    "Clock",
    "Constant",
    "Counts",
    "Durations",
    "Emulator",
    "Fault",
    "JobRecord",
    "LogNormal",
    "Options",
    "Profile",
    "RequestRecord",
    "Trace",
    "parse_durations",
    "serve",
]
