"""The benchmark of the documentation, in its quick form."""

from benchmarks import polling


def test_the_quick_benchmark_gives_every_figure_a_verdict(capsys):
    """Few replications of few cases: marks that do not hang on their number are reached."""
    polling.main(["--quick", "--seed", "3"])
    lines = capsys.readouterr().out.splitlines()
    verdicts = [line for line in lines if line.endswith(("reached", "NOT REACHED"))]

    assert len(verdicts) > 8
    assert [line[:2] for line in lines if line[:1].isdigit()] == ["1.", "2.", "2b", "3.", "4."]
    assert not any(line.endswith("NOT REACHED") for line in lines if "times" in line or "at once" in line)
