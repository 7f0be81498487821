"""What a person sees while responses are in flight."""

from __future__ import annotations

import io

from rich.console import Console

from freddy_tasks import ResponseFailed
from freddy_tasks.cli.display import LiveDisplay, PlainDisplay
from freddy_tasks.cli.run import plain
from freddy_tasks.cli.watch import Sight

SENT = Sight(1, "t1", 100.0)
RUNNING = Sight(
    1,
    "t1",
    100.0,
    "IN_PROGRESS",
    {"response_id": "resp_1", "polls": 1, "next_poll_at": 107.4, "progress": 0.4, "deadline": 500.0},
)
ANSWERED = Sight(1, "t1", 100.0, "SUCCESS", {}, {"id": "resp_1", "polls": 2, "output_text": "secret answer"})
FAILED = Sight(2, "t2", 100.0, "FAILURE", {}, ResponseFailed("No luck.", {"response_id": "resp_2"}))


def test_plain_lines_come_once_for_each_change() -> None:
    """A log is no place for countdowns."""
    out = io.StringIO()
    with PlainDisplay(Console(file=out)) as shown:
        for now, sight in [
            (100.0, SENT),
            (101.0, SENT),
            (102.0, RUNNING),
            (103.0, RUNNING),
            (110.0, ANSWERED),
        ]:
            shown.show([sight], now)

    assert out.getvalue().splitlines() == [
        "sent",
        "in progress, response resp_1, 1 poll, 40%",
        "answered, response resp_1, 2 polls",
    ]


def test_several_prompts_are_numbered_and_failures_named() -> None:
    """By their number on the command line, never by their text."""
    out = io.StringIO()
    with PlainDisplay(Console(file=out)) as shown:
        shown.show([ANSWERED, FAILED], 110.0)

    assert out.getvalue().splitlines() == [
        "1/2  answered, response resp_1, 2 polls",
        "2/2  ResponseFailed",
    ]


def test_a_terminal_shows_the_countdown_to_the_next_look() -> None:
    """Drawn anew in place."""
    out = io.StringIO()
    with LiveDisplay(Console(file=out, force_terminal=True, width=100)) as shown:
        shown.say("a remark")
        for now in (105.0, 107.2):
            shown.show([RUNNING], now)

    assert "a remark" in out.getvalue()
    assert "response resp_1, 1 poll, 40%, next look in 2 s" in out.getvalue()
    assert "response resp_1, 1 poll, 40%, looking" in out.getvalue()


def test_an_answer_cannot_steer_the_terminal() -> None:
    """It comes from outside."""
    assert plain("one\n\ttwo\x1b[2J\x07 three: ünï → 4") == "one\n\ttwo[2J three: ünï → 4"


def test_an_outcome_is_expected_until_its_deadline_and_a_margin() -> None:
    """No wait is without an end; a prompt that is lined up for the plan may take a day to be sent."""
    assert RUNNING.latest(10.0) == 620.0
    assert SENT.latest(10.0) == 230.0
    assert Sight(1, "t1", 100.0, "QUEUED").latest(10.0) == 86_400.0 + 230.0
