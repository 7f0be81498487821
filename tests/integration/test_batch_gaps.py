"""A batch, or a run of the command, that is looked at between two effects of its prompts' steps."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hops import ENDLESS, Stage
from pydantic import SecretStr

from freddy_tasks.batch import Batch, Outcome
from freddy_tasks.batch.checkpoint import Checkpoint
from freddy_tasks.batch.items import Item
from freddy_tasks.batch.record import Record, load, save
from freddy_tasks.batch.survey import Survey
from freddy_tasks.batch.window import SURVEY_EVERY, Window
from freddy_tasks.cli import suspended
from freddy_tasks.emulator import Constant, Emulator, Options
from freddy_tasks.outbox import message_of
from freddy_tasks.records import Phase
from freddy_tasks.runtime import build

ANSWERED = "Whales [emulate: polls=0]"
PATIENCE = 2.0  # seconds for what is there already


@pytest.fixture
def batch(stage: Stage) -> Batch:
    """One prompt, which the test submits."""
    kept = Record(str(uuid.uuid4()), 1, created_at=time.time())
    save(stage.runtime.ledger, kept)
    return Batch.restore(kept.id, stage.app)


def fail_resumably(stage: Stage, task_id: str) -> None:
    """Submit, and look in vain: a person may take it up again."""
    stage.submit(task_id)
    stage.api.set_faults(["401@method=GET"])
    stage.deliver(stage.next(task_id))
    stage.api.set_faults([])


def settle_under_a_failure_of_celery(stage: Stage, task_id: str) -> None:
    """Its answer is kept, and will be given to Celery again, which has made a time limit a failure."""
    ledger, message = stage.runtime.ledger, stage.next(task_id)
    held: Any = ledger.claim(task_id, message["args"][0])
    answer = {"id": "resp_1", "status": "completed", "output_text": "About whales"}
    assert ledger.settle(held, {"result": answer}, held.job)
    stage.app.backend.mark_as_failure(task_id, TimeoutError("hard time limit"))


def deliver_all(stage: Stage) -> None:
    """What is due now."""
    for hop in stage.runtime.ledger.pop().hops:
        stage.deliver(message_of(hop))


class Run:
    """A run of the command, of some prompts; `now` is its clock, in seconds."""

    def __init__(self, stage: Stage, checkpoint: Checkpoint, *prompts: str, end: int | None = None) -> None:
        self.now = 0.0
        self.window = Window(
            stage.app,
            stage.runtime,
            checkpoint,
            [Item(number, prompt) for number, prompt in enumerate(prompts)],
            end=len(prompts) if end is None else end,
            size=10,
            options={},
            monotonic=lambda: self.now,
        )

    def survey(self) -> None:
        """Have a look at everything that is under way."""
        self.now += SURVEY_EVERY
        self.window.step()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    """A run of one prompt that has not begun."""
    with Checkpoint(tmp_path / "answers.jsonl", "print", 1) as begun:
        yield begun


def test_a_prompt_that_was_cancelled_as_its_answer_came_is_cancelled(stage: Stage, batch: Batch) -> None:
    """The API answered at once, and the wish was there before that was on record."""
    (task_id,) = batch.task_ids
    options = Options(profile="current", durations=Constant(0.0))
    with Emulator(options) as current:
        update = {
            "base_url": current.url,
            "api_key": SecretStr(current.key),
            "auth_scheme": "x-api-key",
            "message_shape": "content",
        }
        settings = stage.runtime.settings.model_copy(update=update)
        stage.client.client = build(stage.app, settings).client
        stage.client.then = lambda: batch.cancel()
        stage.submit(task_id, "Whales")
        stage.deliver(stage.next(task_id))

    assert [item.outcome for item in batch.results(PATIENCE)] == [Outcome.CANCELLED]
    assert (batch.progress().completed, batch.progress().cancelled) == (0, 1)


def test_a_prompt_that_is_taken_up_again_has_not_ended(stage: Stage, batch: Batch) -> None:
    """Who looked before sees it go on, and would not send it again beside itself."""
    (task_id,) = batch.task_ids
    fail_resumably(stage, task_id)
    survey = Survey(stage.app, load(stage.runtime.ledger, batch.id))
    before = survey.outcomes()
    assert suspended.revive(stage.app, stage.runtime.ledger, task_id, Phase.WAITING, 60.0)

    assert before == {0: Outcome.FAILED}
    assert survey.outcomes() == {}
    assert survey.counts()["queued"] == 1


def test_a_suspended_prompt_whose_result_has_expired_is_unknown(stage: Stage, batch: Batch) -> None:
    """Its record is kept for days longer, and brings no result unless a person takes it up again."""
    (task_id,) = batch.task_ids
    fail_resumably(stage, task_id)
    stage.app.backend.forget(task_id)

    assert [item.outcome for item in batch.results(PATIENCE)] == [Outcome.UNKNOWN]
    assert batch.progress().unknown == 1


def test_a_cancel_of_a_batch_that_is_forgotten_leaves_it_at_its_end(batch: Batch) -> None:
    """A fence under an id that no message will ever bring would look like a prompt under way."""
    assert batch.cancel() == 0
    assert batch.progress().done
    assert [item.outcome for item in batch.results(PATIENCE)] == [Outcome.UNKNOWN]


def test_results_wait_for_the_answer_that_replaces_a_failure_of_celery(stage: Stage, batch: Batch) -> None:
    """As progress does."""
    (task_id,) = batch.task_ids
    stage.submit(task_id, ANSWERED)
    settle_under_a_failure_of_celery(stage, task_id)
    with pytest.raises(TimeoutError):
        next(batch.results(0.1))
    stage.deliver(stage.next(task_id))

    assert [item.outcome for item in batch.results(PATIENCE)] == [Outcome.COMPLETED]


def test_a_run_waits_for_the_answer_that_replaces_a_failure_of_celery(
    stage: Stage, checkpoint: Checkpoint
) -> None:
    """Written down as failed it would be asked, and paid for, again."""
    run = Run(stage, checkpoint, ANSWERED)
    run.window.step()
    deliver_all(stage)
    settle_under_a_failure_of_celery(stage, checkpoint.task_id(0))
    run.window.step()
    assert checkpoint.outcome(0) is None
    deliver_all(stage)
    stage.deliver(stage.next(checkpoint.task_id(0)))
    run.window.step()

    assert checkpoint.outcome(0) is Outcome.COMPLETED


def test_a_server_that_is_emptied_during_a_survey_has_nothing_sent_twice(
    stage: Stage, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark made anew would vouch that what is missing was never begun."""
    run = Run(stage, checkpoint, ENDLESS)
    run.window.step()
    deliver_all(stage)
    survey = run.window._survey

    def empty_after() -> Iterator[Any]:
        yield from survey()
        stage.runtime.ledger.redis.flushdb()

    with monkeypatch.context() as patch:
        patch.setattr(run.window, "_survey", empty_after)
        run.survey()
    for _ in range(2):
        run.survey()
        deliver_all(stage)

    assert stage.api.counts.posts == 1
    assert checkpoint.outcome(0) is Outcome.UNKNOWN


def test_failed_prompts_that_were_not_sent_again_yet_are_not_given_up(stage: Stage, tmp_path: Path) -> None:
    """The run rested for over a day; only of what was sent nobody can tell what became of it."""
    prompts = ["Whales", "Otters", "Kelp"]
    output = tmp_path / "answers.jsonl"
    with Checkpoint(output, "print", 3) as first:
        run = Run(stage, first, *prompts, end=2)
        stage.api.set_faults(["401@method=POST"])
        run.window.step()
        deliver_all(stage)
        run.window.step()
        stage.api.set_faults([])
        assert [first.outcome(index) for index in range(3)] == [Outcome.FAILED, Outcome.FAILED, None]
        stage.runtime.ledger.redis.flushdb()
    with Checkpoint(output, "print", 3) as second:
        second.send_again({Outcome.FAILED}, 2)
        run = Run(stage, second, *prompts, end=2)
        assert second.outcome(0) is None
        run.window.step()
        deliver_all(stage)
        stage.runtime.ledger.redis.flushdb()
    posts = stage.api.counts.posts
    with Checkpoint(output, "print", 3) as third:
        Run(stage, third, *prompts)

        assert posts == 4
        assert [third.outcome(index) for index in range(3)] == [Outcome.UNKNOWN, Outcome.UNKNOWN, None]
