"""`freddy-tasks simulate`: what it reads, what it tells, what it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from freddy_tasks.cli import freddy_tasks
from freddy_tasks.cli.exits import DONE, FAILED, USAGE

DOCS = Path(__file__).parents[2] / "docs" / "polling.md"
FEW = ("--responses", "200", "--plan", "unlimited")


def run(*arguments: str, stdin: str | None = None) -> Result:
    """What the command says and how it ends."""
    return CliRunner().invoke(freddy_tasks, ["simulate", *arguments], input=stdin)


def told(*arguments: str, stdin: str | None = None) -> dict[str, object]:
    """What the command says in JSON."""
    answer: dict[str, object] = json.loads(run(*arguments, "--json", stdin=stdin).stdout)
    return answer


def trace(*durations: float) -> str:
    """Lines of a trace, submitted an hour apart, the last one first."""
    lines = [
        json.dumps({"created_at": 3_600.0 * place, "completed_at": 3_600.0 * place + duration})
        for place, duration in enumerate(durations)
    ]
    return "\n".join(reversed(lines))


def test_the_table_compares_five_policies_when_none_is_named() -> None:
    """One row each, and what the figures mean below."""
    result = run(*FEW)
    rows = [line.split() for line in result.stdout.splitlines()]

    assert result.exit_code == DONE
    assert [row[0] for row in rows[5:10]] == ["tiers", "fixed:5", "backoff:1,1.5,20", "learned", "optimal"]
    assert {len(row) for row in rows[5:10]} == {10}
    assert "200 responses, lognormal:90,0.5; no limit" in result.stdout
    assert "Cost is the lag and 0.41 s for each poll" in result.stdout


def test_json_has_every_figure_and_the_frontier() -> None:
    """One object; the frontier reaches from the fewest polls to the most."""
    answer = told(*FEW, "--policy", "tiers", "--policy", "optimal", "--durations", "uniform:10,30")

    assert list(answer["policies"]) == ["tiers", "optimal"]
    assert answer["policies"]["tiers"]["requests"] == answer["policies"]["tiers"]["polls"] + 1
    assert answer["limit"] == {"per_minute": 0.0, "per_day": 0, "at_once": 1}
    assert answer["frontier"][0]["polls"] < answer["frontier"][-1]["polls"]


def test_the_same_seed_gives_the_same_answer() -> None:
    """And another one another."""
    first, again, other = (
        told(*FEW, "--policy", "learned", "--per-hour", "900", "--seed", seed) for seed in "112"
    )

    assert first == again
    assert first["policies"] != other["policies"]


def test_a_trace_is_taken_as_it_came() -> None:
    """In the order of its submits and at their moments: three hours, an hour apart."""
    answer = told("-", "--policy", "fixed:5", stdin=trace(12.0, 12.0, 12.0, 7.0))
    policy = answer["policies"]["fixed:5"]

    assert answer["responses"] == 4
    assert policy["seconds"] == pytest.approx(3 * 3_600.0 + 10.0, abs=1.0)
    assert policy["polls"] == pytest.approx((3 * 3 + 2) / 4)


def test_a_trace_is_drawn_from_when_a_number_or_a_rate_is_given() -> None:
    """Its moments are then left aside."""
    all_at_once = told("-", "--responses", "50", "--policy", "fixed:5", stdin=trace(12.0, 7.0))
    at_a_rate = told("-", "--per-hour", "36000", "--policy", "fixed:5", stdin=trace(12.0, 7.0))

    assert all_at_once["responses"] == 50
    assert all_at_once["policies"]["fixed:5"]["seconds"] < 120.0
    assert at_a_rate["policies"]["fixed:5"]["seconds"] < 120.0


def test_the_emulators_own_log_is_a_trace(tmp_path: Path) -> None:
    """As the emulator writes it: ended responses, in the order of their ends."""
    line = {"id": "resp_1", "status": "completed", "created_at": 50.0, "started_at": 51.0, "polls": 2}
    log = tmp_path / "log.jsonl"
    log.write_text(
        json.dumps({**line, "completed_at": 62.0, "duration": 12.0})
        + "\n"
        + json.dumps({**line, "status": "failed", "created_at": 49.0, "completed_at": 99.0, "duration": 50.0})
        + "\n"
        + json.dumps({**line, "status": "cancelled", "completed_at": 51.0, "duration": 1.0})
    )

    assert told(str(log), "--policy", "fixed:5")["responses"] == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("no json", "line 2 is not a JSON object"),
        ("[1]", "line 2 is not a JSON object"),
        ('{"duration": "long"}', "line 2: `duration` is no number of seconds"),
        ('{"duration": -3}', "line 2: the response took less than no time"),
        ('{"created_at": "noon", "completed_at": 4}', "line 2: `created_at` is neither"),
        ('{"created_at": 4, "completed_at": true}', "line 2: `completed_at` is no number"),
    ],
)
def test_a_bad_line_of_a_trace_is_named_by_its_number(line: str, problem: str) -> None:
    """And nothing is simulated."""
    result = run("-", stdin=f'{{"duration": 3}}\n{line}\n')

    assert result.exit_code == USAGE
    assert f"trace: {problem}" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--policy", "best"], "policy 'best': write tiers, fixed:5, backoff:1,1.5,20, learned or optimal"),
        (["--durations", "normal:1"], "durations 'normal:1': write lognormal:90,0.5"),
        (["--durations", "fixed:2", "-"], "a trace or --durations, not both"),
        (["--plot", "no/such/folder.png"], "there is no such folder"),
        (["--plot", "picture.doc"], "ends in .png, .svg, .pdf"),
        (["--per-hour", "0"], "--per-hour"),
        (["no-such-trace.jsonl"], "no-such-trace.jsonl"),
        (["-"], "no line has a duration"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments: list[str], problem: str) -> None:
    """With what is wrong and how to write it."""
    result = run(*arguments)

    assert result.exit_code == USAGE
    assert problem in " ".join(result.stderr.split())


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is simulated."""
    for name in [*sys.modules, "matplotlib", "matplotlib.axes"]:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "freddy_tasks.cli.plot", raising=False)
    result = run("--plot", "picture.png")

    assert result.exit_code == USAGE
    assert "pip install 'freddy-tasks[plot]'" in result.stderr


def test_a_response_given_up_shows_in_the_exit_status() -> None:
    """And in a line of its own; where nothing was found finished, figures are empty and JSON is JSON."""
    result = run(*FEW, "--timeout", "30", "--durations", "fixed:60", "--policy", "fixed:5")
    answer = told(*FEW, "--timeout", "30", "--durations", "fixed:60", "--policy", "fixed:5")

    assert result.exit_code == FAILED
    assert "fixed:5: 200 responses were given up at the deadline." in result.stdout
    assert "nan" not in result.stdout
    assert answer["policies"]["fixed:5"]["lag"] is None


def test_limits_come_from_the_settings_and_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan named on the command line takes the place of all limits of the environment."""
    monkeypatch.setenv("FREDDY_REQUESTS_PER_DAY", "500")
    few = ("--responses", "20", "--policy", "optimal")

    assert told(*few)["limit"] == {"per_minute": pytest.approx(98.0), "per_day": 500, "at_once": 20}
    assert told(*few, "--per-minute", "50")["limit"]["per_day"] == 500
    assert told(*few, "--plan", "premium")["limit"]["per_day"] == 100_000
    assert told(*few, "--plan", "premium", "--per-day", "7000", "--burst", "1100")["limit"] == {
        "per_minute": pytest.approx(980.0),
        "per_day": 7_000,
        "at_once": 100,
    }


def test_what_the_caller_expects_moves_the_first_look() -> None:
    """Tiers by the estimate: 45 s for a long one."""
    short, long = (
        told(*FEW, "--policy", "tiers", "--expected", word)["policies"]["tiers"]["polls"]
        for word in ("short", "long")
    )

    assert long < short / 3


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_plot_is_a_picture_of_its_kind(tmp_path: Path, suffix: str) -> None:
    """Recognised by its first bytes."""
    path = tmp_path / f"lag{suffix}"
    result = run(*FEW, "--plot", str(path))
    begins = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}

    assert result.exit_code == DONE
    assert path.read_bytes().startswith(begins[suffix])


def test_the_plot_names_its_axes_units_and_policies(tmp_path: Path) -> None:
    """Read back from the text of the drawing."""
    path = tmp_path / "lag.svg"
    run(*FEW, "--policy", "tiers", "--policy", "fixed:5", "--plot", str(path))
    drawn = path.read_text()

    for text in (
        "polls per response",
        "mean lag: seconds from finished to noticed",
        "the optimum for so many polls",
        "tiers",
        "fixed:5",
        "200 responses, lognormal:90,0.5; no limit",
    ):
        assert text in drawn


def test_the_documentation_shows_what_the_command_prints() -> None:
    """The command of `docs/polling.md`, run as it stands there."""
    section = DOCS.read_text().partition("## Try it on your own durations")[2]
    command = re.search(r"^    freddy-tasks simulate (.*)$", section, re.MULTILINE)
    shown = re.search(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert command
    assert shown
    printed = run(*command[1].split()).stdout

    assert [line.rstrip() for line in printed.splitlines()] == shown[1].splitlines()
