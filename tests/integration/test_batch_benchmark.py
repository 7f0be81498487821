"""The benchmark of batches runs, and says what it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "batch.py"


def test_the_benchmark_runs() -> None:
    """In small numbers, which say nothing of a rate: the lag and the memory keep to their marks."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--quick"], capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("no-op tasks in a chord", "batch, answers after", "last answer to the chord's body"):
        assert name in done.stdout
