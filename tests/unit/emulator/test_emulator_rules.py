"""The emulator's rules, by table: no sockets, every moment handed in."""

import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freddy_tasks.emulator import (
    AfterPolls,
    ByLabel,
    Clock,
    Constant,
    Emulator,
    Fault,
    LogNormal,
    Options,
    Trace,
    parse_durations,
)
from freddy_tasks.emulator.answers import TOPIC_CHARS, article, topic_of
from freddy_tasks.emulator.calls import Call
from freddy_tasks.emulator.catalogue import KINDS
from freddy_tasks.emulator.durations import chance, draw
from freddy_tasks.emulator.faults import FaultList
from freddy_tasks.emulator.instructions import find_instruction, instructed_life, instructed_pace
from freddy_tasks.emulator.jobs import Job, Life, can_cancel, ended_at, progress, read, status_at, with_pace
from freddy_tasks.emulator.journal import record_of
from freddy_tasks.emulator.limits import RequestLimit
from freddy_tasks.emulator.validation import prompt_of

LIMIT = 1800.0


def job(**changes):
    """Return a job created at 0."""
    plain = {
        "id": "resp_1",
        "ordinal": 1,
        "occurrence": 1,
        "digest": "d",
        "topic": "t",
        "prompt_chars": 1,
        "model": "m",
        "thread_id": "thread_1",
        "created_at": 0.0,
    }
    return Job(**plain | changes)


def call(**changes):
    """Return a poll of a response."""
    plain = {
        "method": "GET",
        "path": "/",
        "response_id": "resp_1",
        "origin": ("d", 1),
        "number": 1,
        "ordinal": 1,
        "now": 0.0,
        "trace_id": "t",
        "wait": abs,
    }
    return Call(**plain | changes)


# Lives


@pytest.mark.parametrize(
    ("life", "cancelled_at", "now", "status", "end"),
    [
        (Life(), None, 0, "queued", None),
        (Life(), None, 1.9, "queued", None),
        (Life(), None, 2, "in_progress", None),
        (Life(), None, 9.9, "in_progress", None),
        (Life(), None, 10, "completed", 10),
        (Life(ending="incomplete"), None, 10, "incomplete", 10),
        (Life(stuck="queued"), None, 1e9, "queued", None),
        (Life(stuck="in_progress"), None, 1, "queued", None),
        (Life(stuck="in_progress"), None, 1e9, "in_progress", None),
        (Life(), 5, 6, "cancelled", 5),
        (Life(), 5, 20, "cancelled", 5),
        (Life(cancel_holds=False), 5, 6, "cancelled", 5),
        (Life(cancel_holds=False), 5, 20, "completed", 10),
        (Life(stuck="queued"), 5, 20, "cancelled", 5),
    ],
)
def test_the_status_follows_from_life_and_moment(life, cancelled_at, now, status, end):
    """Two seconds queued, ten in all."""
    timed = with_pace(job(life=life, cancelled_at=cancelled_at), 10.0, 2.0, LIMIT)

    assert status_at(timed, now) == status
    assert ended_at(timed, now) == end


@pytest.mark.parametrize(
    ("polls", "words"),
    [
        (0, ["completed", "completed"]),
        (1, ["in_progress", "completed"]),
        (2, ["queued", "in_progress", "completed"]),
        (3, ["queued", "in_progress", "in_progress", "completed"]),
    ],
)
def test_polls_can_stand_for_time(polls, words):
    """Each look moves the response on."""
    looked = with_pace(job(), AfterPolls(polls), 1.0, LIMIT)
    seen = []
    for now in range(len(words)):
        looked = read(looked, float(now), LIMIT)
        seen.append(status_at(looked, float(now)))

    assert seen == words
    assert looked.finished_at == polls


@pytest.mark.parametrize(
    ("pace", "now", "status"),
    [
        (1800.0, 1800, "completed"),
        (1801.0, 1799, "in_progress"),
        (1801.0, 1800, "failed"),
        (AfterPolls(9), 1800, "failed"),
    ],
)
def test_the_time_limit_fails_what_still_runs(pace, now, status):
    """Counted from creation, whatever sets the pace."""
    late = read(with_pace(job(), pace, 0.0, LIMIT), float(now), LIMIT)

    assert status_at(late, now) == status
    assert (late.life.ending == "failed") == (pace != 1800.0)


@pytest.mark.parametrize(
    ("now", "cancel_queued", "can"), [(1, True, True), (1, False, False), (5, False, True), (10, True, False)]
)
def test_only_a_running_response_can_be_cancelled(now, cancel_queued, can):
    """Whether a queued one counts as running is a choice."""
    assert can_cancel(with_pace(job(), 10.0, 2.0, LIMIT), now, cancel_queued) is can


def test_progress_goes_from_nothing_to_all():
    """By time or by polls."""
    timed = with_pace(job(), 10.0, 2.0, LIMIT)
    counted = read(with_pace(job(), AfterPolls(3), 0.0, LIMIT), 1.0, LIMIT)

    assert [progress(timed, now) for now in (0, 2, 6, 10, 99)] == [0, 0, 0.5, 1, 1]
    assert progress(counted, 1) == 0.25


def test_a_record_has_no_start_for_a_response_cancelled_in_the_queue():
    """It never began, though it would have."""
    record = record_of(with_pace(job(cancelled_at=1.0), 10.0, 2.0, LIMIT), 20.0)

    assert (record.status, record.started_at, record.completed_at, record.duration) == (
        "cancelled",
        None,
        1,
        1,
    )


# Durations and chance


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_chance_is_a_quantile_and_always_the_same(parts):
    """Never 0 or 1, where a distribution has no value."""
    assert 0 < chance(*parts) < 1
    assert chance(*parts) == chance(*parts)


def test_durations_are_drawn_as_told():
    """Each rule by its own input: ordinal, luck or label."""
    by_label = ByLabel({"fast": Constant(1)}, Constant(9))
    lucks = [chance("luck", number) for number in range(999)]

    assert draw(Constant(7), 1, 0.5) == 7
    assert draw(AfterPolls(2), 1, 0.5) == AfterPolls(2)
    assert [draw(Trace((1, 2)), ordinal, 0.5) for ordinal in (1, 2, 3)] == [1, 2, 1]
    assert (draw(by_label, 1, 0.5, "fast"), draw(by_label, 1, 0.5, "slow"), draw(by_label, 1, 0.5)) == (
        1,
        9,
        9,
    )
    assert draw(LogNormal(90, 0.5), 1, 0.5) == pytest.approx(90)
    assert median(draw(LogNormal(90, 0.5), 1, luck) for luck in lucks) == pytest.approx(90, rel=0.1)


def test_the_default_takes_four_to_six_seconds():
    """Long enough to see, short enough to watch."""
    drawn = sorted(draw(Options().durations, 1, chance(number)) for number in range(1000))

    assert 4 < drawn[25] < drawn[-25] < 6.2
    assert Options().queue_seconds < drawn[0]


@pytest.mark.parametrize(
    ("text", "durations"),
    [
        ("20", Constant(20)),
        ("polls:2", AfterPolls(2)),
        ("lognormal:90,0.5", LogNormal(90, 0.5)),
        ("list:1,2,3", Trace((1, 2, 3))),
        ("labels:fast=2;*=lognormal:9,1", ByLabel({"fast": Constant(2)}, LogNormal(9, 1))),
    ],
)
def test_durations_are_read_from_text(text, durations):
    """The forms of the command line."""
    assert parse_durations(text) == durations


def test_durations_are_read_from_a_trace_file(tmp_path):
    """Responses that never ended are left out."""
    path = tmp_path / "trace.jsonl"
    path.write_text('{"duration": 3}\n\n{"duration": null}\n{"duration": 0.5, "id": "x"}\n')

    assert parse_durations(f"trace:{path}") == Trace((3, 0.5))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "-1",
        "inf",
        "nan",
        "polls:x",
        "lognormal:0,1",
        "lognormal:9",
        "list:",
        "trace:/no/file",
        "labels:a=1",
    ],
)
def test_bad_durations_are_named(text):
    """With the forms there are."""
    with pytest.raises(ValueError, match="use 20, polls:2"):
        parse_durations(text)


# Answers


@pytest.mark.parametrize(
    ("prompt", "topic"),
    [
        ("Write a detailed article about AI", "AI"),
        ("Write a detailed article about AI. [emulate: duration=3]", "AI"),
        ("Explain\nhow queues work?", "how queues work"),
        ("Hello", "Hello"),
        ("", "nothing in particular"),
        ("about " + "x" * 500, "x" * TOPIC_CHARS),
    ],
)
def test_the_topic_is_what_the_prompt_is_about(prompt, topic):
    """A few words are all that is remembered."""
    assert topic_of(prompt) == topic


def test_an_article_can_be_as_long_as_a_test_needs():
    """The size is exact, the text the same each time."""
    assert len(article("AI", "d", 50_000)) == 50_000
    assert article("AI", "d") == article("AI", "d")
    assert len({article("AI", str(number)) for number in range(20)}) > 10


# Instructions


@pytest.mark.parametrize(
    ("prompt", "metadata", "words"),
    [
        ("Hello", None, {}),
        ("Hello [emulate: duration=3 status=failed] you", None, {"duration": "3", "status": "failed"}),
        ("Hello [EMULATE: Polls=3, queue=1]", None, {"polls": "3", "queue": "1"}),
        ("Hello [emulate: duration=3]", {"emulate": "duration=4"}, {"duration": "4"}),
        ("Hello", {"emulate": {"duration": 4}}, {"duration": "4"}),
        ("Hello", {"other": 1}, {}),
    ],
)
def test_instructions_are_found_in_prompt_and_metadata(prompt, metadata, words):
    """Metadata has the last word."""
    assert find_instruction(prompt, metadata) == words


@pytest.mark.parametrize("words", ["duration", "speed=3", "stuck=completed"])
def test_a_misspelt_instruction_is_an_error(words):
    """Or a demonstration would show something else than it says."""
    with pytest.raises(ValueError, match="emulate instruction"):
        find_instruction(f"[emulate: {words}]", None)


@pytest.mark.parametrize("number", ["-1", "inf", "nan", "soon"])
def test_an_instructed_number_is_a_number_of_0_or_more(number):
    """Seconds and polls alike."""
    with pytest.raises(ValueError, match=number):
        instructed_pace({"duration": number}, 1.0)
    with pytest.raises(ValueError, match=number):
        instructed_pace({"polls": number}, 1.0)


def test_an_instruction_changes_the_life_and_nothing_else_of_it():
    """The error of a failure can be chosen."""
    failed = instructed_life({"status": "failed", "code": "c", "message": "no_more"}, Life())

    assert failed.ending == "failed"
    assert failed.error == {"message": "no more", "code": "c", "type": "server_error"}
    assert instructed_life({"stuck": "queued"}, Life()).stuck == "queued"
    assert instructed_life({}, Life(ending="x")) == Life(ending="x")


# Limits


def test_the_bucket_holds_the_burst_and_fills_at_the_rate():
    """120 at once, then one more each 0.6 s."""
    limit = RequestLimit(100, None, None)
    admitted = [limit.admit(0.0).admitted for _ in range(121)]
    refused = limit.admit(0.0)

    assert admitted == [True] * 120 + [False]
    assert refused.retry_after == pytest.approx(0.6, abs=1e-5)
    assert refused.reset_after == pytest.approx(72)
    assert [limit.admit(moment).admitted for moment in (0.59, 0.6, 0.6, 1.2)] == [False, True, False, True]


def test_the_day_is_a_window_that_moves():
    """The refused request took no place in it."""
    limit = RequestLimit(10**9, None, 2)
    answers = [limit.admit(now) for now in (0.0, 100.0, 200.0, 86_399.0, 86_400.0, 86_401.0)]

    assert [answer.admitted for answer in answers] == [True, True, False, False, True, False]
    assert answers[2].retry_after == 86_200
    assert [answer.remaining for answer in answers[:2]] == [1, 0]


@pytest.mark.parametrize(("per_minute", "burst", "per_day"), [(0, None, None), (1, 0, None), (1, 1, 0)])
def test_a_limit_below_one_is_refused(per_minute, burst, per_day):
    """Nobody could ever call."""
    with pytest.raises(ValueError, match="at least 1"):
        RequestLimit(per_minute, burst, per_day)


# Clock and options


def test_a_clock_of_scale_zero_moves_only_by_hand():
    """To the exact second it is told."""
    clock = Clock(0, start=1000)
    clock.advance(0.5)

    assert clock.now() == 1000.5
    assert clock.real_seconds(3) == 3
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(math.inf)


def test_a_running_clock_never_goes_back_and_can_be_pushed():
    """Faster than the machine's by its scale."""
    clock = Clock(1000)
    before = clock.now()
    clock.advance(1e6)

    assert clock.now() >= before + 1e6
    assert clock.real_seconds(500) == 0.5
    with pytest.raises(ValueError, match="time_scale"):
        Clock(-1)


def test_options_and_emulator_keep_keys_out_of_their_repr():
    """They end up in logs and in assertion messages."""
    options = Options(keys=("secret-key",))

    assert "secret-key" not in repr(options) + repr(Emulator(options))
    with pytest.raises(ValueError, match="no profile"):
        Options(profile="newest")


def test_an_emulator_has_no_url_before_it_is_started():
    """The message says what to do."""
    with pytest.raises(RuntimeError, match="with Emulator"):
        _ = Emulator().url


# Faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hang", Fault("hang")),
        ("429=http-date:5@p=0.2", Fault("429", "http-date:5", p=0.2)),
        ("reset_after@first=1@method=post", Fault("reset_after", first=1, methods=("POST",))),
        ("404=3", Fault("404", first=3)),
        ("status=502@nth=2@skip=1@times=9@job=3", Fault("status", "502", nth=2, skip=1, times=9, job=3)),
        ("failed=null@jobs=0.5", Fault("failed", "null", jobs=0.5)),
        ("503_long=120@seconds=1000000", Fault("503_long", "120", seconds=1_000_000)),
    ],
)
def test_faults_are_read_from_text_and_written_back(text, fault):
    """What the command line and the control endpoint take."""
    assert Fault.parse(text) == fault
    assert Fault.parse(str(fault)) == fault


@pytest.mark.parametrize("name", KINDS)
def test_every_fault_can_be_named_and_written_back(name):
    """With its default, or with a value where it needs one."""
    value = {"redirect": "http://elsewhere.example", "ends": "gone"}.get(name, "")
    fault = Fault(name, value, p=0.5, times=1_234_567)

    assert Fault.parse(str(fault)) == fault
    assert fault.methods


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "no fault is called 'nonsense'"),
        ("", "no fault is called ''"),
        ("hang=3", "takes no value"),
        ("delay=long", "cannot take 'long'"),
        ("delay=-1", "cannot take '-1'"),
        ("status=700", "from 200 to 599"),
        ("429=perhaps", "one of retry-after"),
        ("failed=sadly", "one of object"),
        ("ends", "needs a value"),
        ("redirect", "needs a value"),
        ("hang@p=2", "from 0 to 1"),
        ("hang@p=often", "p is a number"),
        ("hang@often=2", "no condition 'often'"),
        ("hang@method=PUT", "method is POST"),
        ("stuck@method=GET", "POST only"),
    ],
)
def test_a_bad_fault_says_what_is_wrong(text, complaint):
    """And what there is instead."""
    with pytest.raises(ValueError, match=complaint):
        Fault.parse(text)


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("hang", [1, 2, 3, 4, 5]),
        ("hang@first=2", [1, 2]),
        ("hang@nth=3", [3]),
        ("hang@skip=3", [4, 5]),
        ("hang@skip=1@first=2", [2, 3]),
        ("hang@times=1", [1]),
        ("hang@job=2", []),
        ("hang@job=1", [1, 2, 3, 4, 5]),
        ("hang@method=POST", []),
        ("hang@p=0", []),
        ("hang@jobs=0", []),
        ("hang@seconds=3", [1, 2]),
        ("404_half", [1, 3, 5]),
    ],
)
def test_conditions_choose_the_calls(text, hit):
    """Five polls of the first response, a second apart, the fault put in at 0."""
    faults = FaultList((Fault.parse(text),), now=0.0)

    assert [
        number for number in range(1, 6) if faults.take(call(number=number, now=float(number)), seed=0)
    ] == hit


def test_shares_are_kept_and_follow_from_seed_and_prompt_alone():
    """Neither ids nor other faults' luck nor the order of calls matter."""
    faults = (Fault("hang", p=0.2), Fault("cut", jobs=0.2))
    calls = [call(origin=(str(prompt), 1), number=n) for prompt in range(500) for n in (1, 2)]
    one = [[fault.name for fault in FaultList(faults, 0.0).take(each, seed=3)] for each in calls]
    again = [[fault.name for fault in FaultList(faults, 9.0).take(each, seed=3)] for each in reversed(calls)]

    assert one == again[::-1]
    assert sum("hang" in names for names in one) / 1000 == pytest.approx(0.2, abs=0.05)
    assert sum("cut" in names for names in one) / 1000 == pytest.approx(0.2, abs=0.05)
    assert all(
        ("cut" in first) == ("cut" in second) for first, second in zip(one[::2], one[1::2], strict=True)
    )


# Requests

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["texts", "text", "content"]), inner)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["inputs", "metadata"]), json_values))
def test_the_prompt_of_anything_is_a_string(payload):
    """Before the body is validated there may be anything in it."""
    assert isinstance(prompt_of(payload), str)


@pytest.mark.parametrize(
    ("message", "prompt"),
    [
        ({"texts": [{"text": "a"}, {"text": "b"}]}, "a\nb"),
        ({"content": "a"}, "a"),
        ({"content": [{"type": "text", "text": "a"}]}, "a"),
        ({"files": [{"fileId": "f"}]}, ""),
    ],
)
def test_the_prompt_is_all_the_text_of_the_messages(message, prompt):
    """In either message shape."""
    assert prompt_of({"inputs": [message]}) == prompt
