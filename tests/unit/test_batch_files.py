"""Batches in files: what a line may be, what a run keeps beside its output, what a person is shown."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from freddy_tasks import ConfigurationError, InvalidRequest, ResponseFailed
from freddy_tasks.batch import BatchItem, Outcome
from freddy_tasks.batch.checkpoint import Checkpoint
from freddy_tasks.batch.items import Item
from freddy_tasks.batch.plan import FREE, Room
from freddy_tasks.batch.source import BadLine, GoodItems, Source, check
from freddy_tasks.batch.window import line_of
from freddy_tasks.cli.batch_display import BarDisplay, LineDisplay, Pace, Position, duration


def accept(item: Item) -> None:
    """Refuse an empty prompt only."""
    if not item.prompt:
        raise InvalidRequest("empty")


def read(path: Path, written: bytes, form: Any = "jsonl", column: str = "prompt") -> list[Any]:
    """The items and bad lines of a file."""
    path.write_bytes(written)
    return list(GoodItems(Source(path, form, column), accept).judged())


def line(outcome: str, number: int = 0) -> dict[str, Any]:
    """A line of an output."""
    return {"id": number, "outcome": outcome, "output_text": "é\u2028"}


def test_a_line_is_a_text_messages_or_an_object(tmp_path: Path) -> None:
    """Empty lines are passed over, and an item without an id has its line's number."""
    written = '\ufeff"ants"\r\n\n[{"role": "user"}]\n{"id": "c", "prompt": "cats", "model": "small"}'.encode()

    assert read(tmp_path / "a.jsonl", written) == [
        Item(1, "ants"),
        Item(3, [{"role": "user"}]),
        Item("c", "cats", {"model": "small"}),
    ]


def test_another_key_can_hold_the_prompt(tmp_path: Path) -> None:
    """`--column` names it; the others stay fields."""
    assert read(tmp_path / "a.jsonl", b'{"text": "ants", "model": "small"}', column="text") == [
        Item(1, "ants", {"model": "small"})
    ]


def test_a_column_holds_the_prompt_and_another_the_id(tmp_path: Path) -> None:
    """Further columns are left alone; a quoted prompt may go over several lines."""
    written = b'price,text,id\n1,"ants,\nbees",a\n2,cats,\n3,,c\n4\n'

    items = read(tmp_path / "a.csv", written, "csv", "text")

    assert items[:2] == [Item("a", "ants,\nbees"), Item(4, "cats")]
    assert [(bad.number, type(bad)) for bad in items[2:]] == [(5, BadLine), (6, BadLine)]


def test_a_missing_column_is_told_with_those_there_are(tmp_path: Path) -> None:
    """Nothing can be read then."""
    with pytest.raises(InvalidRequest, match="price, text"):
        read(tmp_path / "a.csv", b"price,text\n1,ants\n", "csv")


def test_each_line_of_a_text_is_a_prompt(tmp_path: Path) -> None:
    """As it stands, quotes and all."""
    assert read(tmp_path / "a.txt", b'say "ants"\n\n[bees]\n', "text") == [
        Item(1, 'say "ants"'),
        Item(3, "[bees]"),
    ]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"nonsense", "not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b"7", "not int"),
        (b'{"id": 1}', "no `prompt`"),
        (b'""', "empty"),
        (b'{"id": "1", "prompt": "bees"}', "that of line 1"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"prompt": "bees", "seed": ' + b"9" * 5_000 + b"}", "too many digits"),
    ],
)
def test_a_bad_line_is_named_and_its_neighbours_are_not_lost(
    tmp_path: Path, written: bytes, said: str
) -> None:
    """By its number, with the reason."""
    good, bad, other = read(tmp_path / "a.jsonl", b'"ants"\n' + written + b'\n"cats"\n')

    assert (good, other) == (Item(1, "ants"), Item(3, "cats"))
    assert bad.number == 2
    assert said in bad.reason


def test_bytes_that_are_no_text_are_bad_in_csv_as_well(tmp_path: Path) -> None:
    """The line is named, and the file is read on."""
    bad, good = read(tmp_path / "a.csv", b"prompt\n\xff\nants\n", "csv")

    assert bad == BadLine(2, "it is not UTF-8.")
    assert good == Item(3, "ants")


@pytest.mark.parametrize(
    ("written", "said"),
    [(b'"ants"x', "not CSV"), (b"ants, bees", "more columns"), (b"\xff", "not UTF-8")],
)
def test_a_bad_row_is_named_and_its_neighbours_are_not_lost(
    tmp_path: Path, written: bytes, said: str
) -> None:
    """What follows it is read, and a prompt whose comma has no quotes around it is not cut short."""
    first, bad, other = read(tmp_path / "a.csv", b"prompt\nflies\n" + written + b"\n\ncats\n", "csv")

    assert (first, other) == (Item(2, "flies"), Item(5, "cats"))
    assert bad.number == 3
    assert said in bad.reason


def test_a_row_may_end_in_commas_and_a_prompt_may_be_a_book(tmp_path: Path) -> None:
    """Spreadsheets write the one; Python's own limit for a field is 128 KB."""
    book = "x" * 200_000

    items = read(tmp_path / "a.csv", f"id,prompt\na,ants,\nb,{book}\n".encode(), "csv")

    assert items == [Item("a", "ants"), Item("b", book)]


def test_a_first_row_that_is_no_csv_is_told(tmp_path: Path) -> None:
    """Nothing can be read then."""
    with pytest.raises(InvalidRequest, match="not CSV"):
        read(tmp_path / "a.csv", b'"prompt"x\nants\n', "csv")


@settings(max_examples=50)
@given(st.binary(max_size=200), st.sampled_from(["jsonl", "csv", "text"]))
def test_whatever_a_file_holds_each_line_is_an_item_or_bad(
    tmp_path_factory: pytest.TempPathFactory, written: bytes, form: str
) -> None:
    """No file brings the reader down."""
    path = tmp_path_factory.mktemp("files") / "a"

    found = read(path, (b"prompt\n" if form == "csv" else b"") + written, form)

    assert all(isinstance(one, Item | BadLine) for one in found)


def test_a_file_is_known_by_its_items_and_options(tmp_path: Path) -> None:
    """Bad lines do not count: whether they are left out by hand or by an option is the same."""

    def told(written: bytes, **options: Any) -> str:
        path = tmp_path / "a.jsonl"
        path.write_bytes(written)
        return check(GoodItems(Source(path, "jsonl"), accept), options).fingerprint

    same = told(b'{"id": 1, "prompt": "ants"}\n{"id": 2, "prompt": "bees"}')
    assert same == told(b'{"prompt": "ants", "id": 1}\n\nbad\n{"id": 2, "prompt": "bees"}\n')
    assert same != told(b'{"id": 2, "prompt": "bees"}\n{"id": 1, "prompt": "ants"}')
    assert same != told(b'{"id": 1, "prompt": "ants"}\n{"id": 2, "prompt": "bees"}', model="small")


def test_at_most_twenty_bad_lines_are_named_and_all_are_counted(tmp_path: Path) -> None:
    """A file of the wrong kind does not fill the screen."""
    path = tmp_path / "a.jsonl"
    path.write_text("bad\n" * 50 + '"ants"\n')

    checked = check(GoodItems(Source(path, "jsonl"), accept), {})

    assert (checked.total, checked.bad_count, len(checked.bad)) == (1, 50, 20)


def test_outcomes_survive_and_come_out_in_order(tmp_path: Path) -> None:
    """Whatever order they came in; the output is replaced as a whole."""
    with Checkpoint(tmp_path / "out", "print", 3) as first:
        first.note_sent_below(3)
        first.append([(2, line("completed", 2))])
        first.append([(0, line("failed"))])
        ids = [first.task_id(index) for index in range(3)]
    with Checkpoint(tmp_path / "out", "print", 3) as again:
        again.write_output()

        assert again.manifest.is_begun
        assert [again.outcome(index) for index in range(3)] == [Outcome.FAILED, None, Outcome.COMPLETED]
        assert again.task_id(1) == ids[1]
        assert again.open_below(3) == 1
        assert again.open_below(3, [Outcome.FAILED]) == 2
    written = (tmp_path / "out").read_text().split("\n")
    assert [json.loads(text)["id"] for text in written if text] == [0, 2]


@given(st.integers(1, 120))
def test_a_line_that_was_cut_off_is_not_there(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A machine may die in the middle of any write: what came before it stands, and writing goes on."""
    output = tmp_path_factory.mktemp("run") / "out"
    journal = output.with_name("out.journal")
    with Checkpoint(output, "print", 2) as first:
        first.append([(0, line("completed", 0))])
        whole = journal.stat().st_size
        first.append([(1, line("completed", 1))])
    with journal.open("r+b") as file:
        file.truncate(max(whole, journal.stat().st_size - cut))

    with Checkpoint(output, "print", 2) as again:
        assert again.outcome(0) is Outcome.COMPLETED
        assert again.outcome(1) is None
        again.append([(1, line("failed", 1))])
        again.write_output()
    with Checkpoint(output, "print", 2) as last:
        assert last.outcome(1) is Outcome.FAILED


@given(st.binary(max_size=60))
def test_a_line_of_which_the_disk_has_anything_else_is_not_there(
    tmp_path_factory: pytest.TempPathFactory, left: bytes
) -> None:
    """A power cut may leave a write at its full length without its bytes."""
    output = tmp_path_factory.mktemp("run") / "out"
    with Checkpoint(output, "print", 2) as first:
        first.append([(0, line("completed", 0))])
    with output.with_name("out.journal").open("ab") as file:
        file.write(b"\0" * 20 + left + b"\n")

    with Checkpoint(output, "print", 2) as again:
        assert again.outcome(0) is Outcome.COMPLETED
        assert again.outcome(1) is None
        again.append([(1, line("failed", 1))])
    with Checkpoint(output, "print", 2) as last:
        assert last.outcome(1) is Outcome.FAILED


def test_text_that_is_no_unicode_becomes_json_all_the_same(tmp_path: Path) -> None:
    """Half a surrogate pair, from a prompt's id or an answer, is the escape that it was."""
    path = tmp_path / "a.jsonl"
    (item,) = read(path, b'{"id": "\\ud800", "prompt": "ants"}')
    with Checkpoint(tmp_path / "out", "print", 1) as run:
        run.append([(0, {**line("completed"), "id": item.id})])
        run.write_output()

    assert json.loads((tmp_path / "out").read_text(encoding="utf-8"))["id"] == "\ud800"


def test_a_round_ends_with_the_prompts_that_were_asked_for(tmp_path: Path) -> None:
    """Those beyond `--limit` do not keep it open: what failed again can be tried again."""
    with Checkpoint(tmp_path / "out", "print", 3) as run:
        run.append([(0, line("failed"))])
        opened = []
        for _ in range(2):
            run.send_again([Outcome.FAILED], 1)
            opened.append(run.outcome(0))
            run.append([(0, line("failed"))])

    assert opened == [None, None]


def test_a_round_sends_again_what_it_names_and_only_once(tmp_path: Path) -> None:
    """A killed round goes on; a new one begins only when nothing of it is open."""
    with Checkpoint(tmp_path / "out", "print", 3) as run:
        first = run.task_id(1)
        run.append([(0, line("completed")), (1, line("failed")), (2, line("unknown"))])
        run.send_again([Outcome.FAILED], 3)
        opened = [run.outcome(index) for index in range(3)]
        task_id = run.task_id(1)
    with Checkpoint(tmp_path / "out", "print", 3) as run:
        run.send_again([Outcome.FAILED], 3)
        same = run.task_id(1), run.manifest.round
        run.append([(1, line("failed"))])
        closed = run.outcome(1)
        run.send_again([Outcome.FAILED], 3)
        third = run.outcome(1), run.manifest.round

    assert opened == [Outcome.COMPLETED, None, Outcome.UNKNOWN]
    assert task_id != first
    assert same == (task_id, 1)
    assert closed is Outcome.FAILED
    assert third == (None, 2)


def test_nothing_to_send_again_changes_nothing(tmp_path: Path) -> None:
    """No new round for a run that went well."""
    with Checkpoint(tmp_path / "out", "print", 1) as run:
        run.append([(0, line("completed"))])
        run.send_again([Outcome.FAILED, Outcome.UNKNOWN], 1)

        assert run.manifest.round == 0


def test_files_of_another_run_are_refused(tmp_path: Path) -> None:
    """Other prompts, a file that is no output, and a run that another process is at."""
    with Checkpoint(tmp_path / "out", "print", 1) as run:
        run.note_sent_below(1)
        with pytest.raises(ConfigurationError, match="Another process"):
            Checkpoint(tmp_path / "out", "print", 1).__enter__()
    with pytest.raises(ConfigurationError, match="other prompts"):
        Checkpoint(tmp_path / "out", "another print", 1).__enter__()
    (tmp_path / "precious").write_text("answers")
    with pytest.raises(ConfigurationError, match="no manifest"):
        Checkpoint(tmp_path / "precious", "print", 1).__enter__()


def test_a_run_that_sent_nothing_leaves_its_place_to_another(tmp_path: Path) -> None:
    """With answers of an earlier stack it has done something, though nothing is under way now."""
    output = tmp_path / "out"
    with Checkpoint(output, "print", 1) as unused:
        unused.write_output()
    with Checkpoint(output, "another print", 2) as used:
        used.note_sent_below(1)
        used.append([(0, line("completed"))])
        used.forget_sent()

    with pytest.raises(ConfigurationError, match="other prompts"):
        Checkpoint(output, "print", 1).__enter__()


def test_a_line_of_the_output_has_nothing_that_differs_from_run_to_run() -> None:
    """No id of a response or a task, no time, no count of polls."""
    answer = {"id": "resp_1", "created_at": 1.0, "polls": 3, "output_text": "Ants", "usage": {"total": 3}}
    failure = ResponseFailed(
        "Response resp_2 failed: no luck.", {"response_id": "resp_2", "code": "busy", "request_id": "req_1"}
    )

    assert line_of(BatchItem("a", "task_1", Outcome.COMPLETED, answer)) == {
        "id": "a",
        "outcome": "completed",
        "output_text": "Ants",
        "usage": {"total": 3},
    }
    failed = line_of(BatchItem("b", "task_2", Outcome.FAILED, None, failure))
    assert failed == {
        "id": "b",
        "outcome": "failed",
        "error": {"type": "ResponseFailed", "message": "Response … failed: no luck.", "code": "busy"},
    }


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.2, "1 s"), (60, "1 min"), (310, "5 min 10 s"), (3_600, "1 h"), (90_000, "1 d 1 h")],
)
def test_a_length_of_time_is_told_in_two_units(seconds: float, said: str) -> None:
    """As precise as it is of use."""
    assert duration(seconds) == said


def test_what_is_shown_of_a_run_comes_from_the_last_minute_and_the_plan() -> None:
    """The rate, the estimated end by the slower of pace and plan, and the requests left."""
    now = [0.0]
    pace = Pace(lambda: now[0])
    slow = Room(at_once=0, per_second=0.5, today=500, per_day=1_000)
    first = pace.facts(Position(100, 0, 0, 20, FREE))
    now[0] = 10.0
    free = pace.facts(Position(100, 20, 2, 20, FREE))
    bound = pace.facts(Position(100, 20, 2, 20, slow))
    now[0] = 100.0

    assert first == ["20 in flight"]
    assert free == ["2 without an answer", "20 in flight", "2.0/s", "about 40 s left"]
    assert bound[3:] == ["about 4 min 40 s left", "500 requests left today"]
    assert pace.facts(Position(100, 100, 2, 0, FREE)) == ["2 without an answer", "0 in flight"]


def test_a_terminal_shows_a_bar_and_anything_else_a_line_now_and_then() -> None:
    """A log of a night's run stays short, and has its first and its last position."""
    now = [0.0]
    bar, log = StringIO(), StringIO()
    lines = LineDisplay(Console(file=log, soft_wrap=True), Pace(lambda: now[0]))
    with BarDisplay(Console(file=bar, force_terminal=True, width=100), Pace(lambda: now[0])) as shown:
        shown.say("a remark")
        for ended in range(11):
            now[0] += 3.0
            shown.show(Position(10, ended, 0, 10 - ended, FREE))
            lines.show(Position(10, ended, 0, 10 - ended, FREE))

    said = log.getvalue().splitlines()
    assert "a remark" in bar.getvalue()
    assert "10/10" in bar.getvalue()
    assert said[0] == "0/10 done, 10 in flight"
    assert said[-1].startswith("10/10 done")
    assert len(said) == 4
