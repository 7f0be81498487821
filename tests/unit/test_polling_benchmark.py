"""The benchmark of the documentation, in its quick form."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "polling.py"


def test_the_quick_benchmark_gives_every_figure_a_verdict():
    """Few cases reach their marks, but for the ratio of polls, which four replications do not settle."""
    command = [sys.executable, str(SCRIPT), "--quick", "--seed", "3"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    rows = [line for line in lines if line.endswith(("reached", "NOT REACHED"))]
    firm = [row for row in rows if "the optimum's ratio" not in row]

    assert [line[:2] for line in lines if line[:1].isdigit()] == ["1.", "2.", "2b", "3.", "4."]
    assert len(rows) == 7
    assert len(firm) == 6
    assert not any(row.endswith("NOT REACHED") for row in firm)
