"""The benchmarks with real workers run, in numbers too small to say anything of a rate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.campaign

BUNCHED = 2  # requests of two a second that are late, and meet the next ones, on a machine with other work
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def output_of(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_benchmark_of_batches_keeps_to_its_marks() -> None:
    """Those of lag and memory; a rate of so few says nothing."""
    output = output_of("batch.py", "--quick")

    for figure in ("no-op tasks in a chord", "bare way", "batch, answers after", "last answer to the chord"):
        assert figure in output


def test_the_benchmark_of_the_plan_counts_what_each_answer_cost() -> None:
    """Ten responses, all answered, none over the limit."""
    last = output_of(
        "plan.py", "--size", "10", "--median", "4", "--scale", "8", "--only", "freddy_tasks"
    ).splitlines()[-1]
    name, answered, requests, over_limit, *_ = last.split()

    assert (name, answered, over_limit) == ("freddy_tasks", "10", "0")
    assert 2.0 <= float(requests) <= 4.0


def test_the_benchmark_of_the_lanes_times_each_of_them_twice() -> None:
    """A batch of forty, and one prompt of each lane before and after it stands in line."""
    lines = output_of("lanes.py", "--size", "40", "--per-minute", "120", "--count", "1").splitlines()

    assert [line.split()[5:6] for line in lines if line.startswith("the batch is in the queue")] == [
        ["queue"]
    ] * 2
    over_limit, _, said = lines[-1].partition(" ")
    assert said == "requests over the limit"
    assert int(over_limit) <= BUNCHED
