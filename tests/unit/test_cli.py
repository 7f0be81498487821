"""The command line without its processes: what it reads, what it shows, how it takes signals."""

from __future__ import annotations

import io
import signal

import click
import pytest
from rich.console import Console

from freddy_tasks import ResponseFailed
from freddy_tasks.cli.display import LiveDisplay, PlainDisplay
from freddy_tasks.cli.interruption import Interruption
from freddy_tasks.cli.run import plain
from freddy_tasks.cli.values import expected, field
from freddy_tasks.cli.watch import Sight
from freddy_tasks.ledger import ADMISSION_TIMEOUT

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
        "in progress, 1 poll, 40%, resp_1",
        "answered, 2 polls, resp_1",
    ]


def test_several_prompts_are_numbered_and_failures_named() -> None:
    """By their number on the command line, never by their text."""
    out = io.StringIO()
    with PlainDisplay(Console(file=out)) as shown:
        shown.show([ANSWERED, FAILED], 110.0)

    assert out.getvalue().splitlines() == [
        "1/2  answered, 2 polls, resp_1",
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
    assert "1 poll, 40%, next look in 2 s, resp_1" in out.getvalue()
    assert "1 poll, 40%, looking, resp_1" in out.getvalue()


def test_an_answer_cannot_steer_the_terminal() -> None:
    """It comes from outside."""
    assert plain("one\n\ttwo\x1b[2J\x07 three: ünï → 4") == "one\n\ttwo[2J three: ünï → 4"


def test_an_outcome_is_expected_until_its_deadline_and_a_margin() -> None:
    """No wait is without an end; a prompt that is lined up for the plan may take a day to be sent."""
    assert RUNNING.latest(10.0) == 620.0
    assert SENT.latest(10.0) == 230.0
    assert Sight(1, "t1", 100.0, "QUEUED").latest(10.0) == ADMISSION_TIMEOUT + 230.0


def test_a_signal_that_came_early_stops_what_begins_later() -> None:
    """Ctrl-C while servers start must not end in a prompt that is paid for."""
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), interruption.at_once():
            pytest.fail("it was begun all the same")

    assert interruption.count == 1
    assert interruption.exit_status == 143


def test_signals_raise_only_where_that_is_safe() -> None:
    """Elsewhere they are counted; and the handlers of before come back."""
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        counted = interruption.count

    assert counted == 1
    assert interruption.exit_status == 130
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """On the command line already, not in a worker."""
    with pytest.raises(click.BadParameter):
        expected(text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("temperature=0.2", ("temperature", 0.2)),
        ("instructions=Be brief", ("instructions", "Be brief")),
        ('metadata={"a": "b=c"}', ("metadata", {"a": "b=c"})),
    ],
)
def test_a_field_is_json_or_the_text_it_is(text: str, pair: tuple[str, object]) -> None:
    """Nobody should have to quote quotes."""
    assert field(text) == pair


def test_a_duration_is_a_word_or_seconds() -> None:
    """As `expected=` takes them."""
    assert (expected("short"), expected("7.5")) == ("short", 7.5)
