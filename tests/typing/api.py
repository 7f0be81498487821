"""The public interface as users write it: read by the type checker, never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, assert_type

from celery import chain, chord, group
from celery.canvas import Signature
from celery.result import AsyncResult, GroupResult

import freddy_tasks
from freddy_tasks import (
    Batch,
    BatchFailed,
    BatchItem,
    BatchResult,
    FreddyError,
    InvalidRequest,
    OutcomeUnknown,
    ResponseError,
    ResponseFailed,
    ResponseResult,
    cancel_response,
    from_result,
    process_ai_response,
    process_batch,
)
from freddy_tasks.batch import Outcome, Progress


def submit(prompt: str) -> AsyncResult[dict[str, Any]]:
    """A response alone, with every option of its own and some of Celery's."""
    process_ai_response.delay(prompt, model="m", label="letters", expected="short", timeout=60)
    process_ai_response.delay([{"role": "user", "texts": [{"text": prompt}]}], temperature=0.2)
    process_ai_response.apply_async((prompt,), {"lane": "interactive"}, queue="ai", priority=3)
    return process_ai_response.delay(prompt)


def read(result: AsyncResult[dict[str, Any]]) -> str:
    """An answer, typed."""
    answer = ResponseResult.from_result(result.get(timeout=60))
    assert_type(answer.id, str)
    assert_type(answer.polls, int)
    assert_type(answer.completed_at, float | None)
    assert_type(answer.to_dict(), dict[str, Any])
    return answer.output_text


def fail(result: AsyncResult[dict[str, Any]]) -> str | None:
    """A failure, by class, with its facts."""
    try:
        result.get()
    except OutcomeUnknown as error:
        assert_type(error.resumable, bool)
        return error.message
    except ResponseFailed as error:
        assert_type(error.code, str | None)
        assert_type(error.http_status, int | None)
        assert_type(error.info, dict[str, Any])
        return error.response_id
    except (ResponseError, InvalidRequest) as error:
        return error.status
    except FreddyError as error:
        return error.request_id
    return None


def fail_as_a_value(value: dict[str, Any]) -> FreddyError | None:
    """What `return_exceptions=True` brings."""
    error = from_result(value)
    assert_type(error, FreddyError | None)
    return error


def compose(prompts: list[str]) -> None:
    """In Celery's canvas, as any task."""
    header = [process_ai_response.s(prompt, model="m") for prompt in prompts]
    group(header).apply_async()
    chord(header)(process_ai_response.s())
    chain(process_ai_response.s("a"), process_ai_response.s()).apply_async()


def batch(prompts: list[str], callback: Signature[Any], errback: Signature[Any]) -> Batch:
    """Many at once, in each of the ways to write a prompt."""
    process_batch(prompts)
    process_batch([{"id": "a-1", "prompt": "ants", "model": "small"}, {"prompt": "bees"}], on_error="collect")
    process_batch([[{"role": "user", "texts": [{"text": "ants"}]}]], on_error="fail_fast")
    process_batch((prompt for prompt in prompts), group_options={"queue": "ai", "priority": 3})
    return process_batch(
        prompts, callback=callback, errback=errback, on_error=0.1, model="m", label="letters", temperature=0.2
    )


def follow(handle: Batch) -> Progress:
    """A batch under way."""
    assert_type(handle.id, str)
    assert_type(len(handle), int)
    assert_type(handle.task_ids, list[str])
    assert_type(handle.body, AsyncResult[Any])
    assert_type(handle.group, GroupResult)
    assert_type(handle.results(timeout=60), Iterator[BatchItem])
    assert_type(handle.cancel(), int)
    progress = handle.progress()
    assert_type(progress.total, int)
    assert_type(progress.waiting + progress.queued + progress.in_progress + progress.ended, int)
    assert_type(progress.completed + progress.failed + progress.cancelled + progress.unknown, int)
    assert_type(progress.requests, int)
    assert_type(progress.done, bool)
    assert_type(progress.share, float)
    assert_type(progress.seconds_left, float | None)
    return progress


def gather(handle: Batch) -> BatchResult | None:
    """A batch that has ended."""
    try:
        return handle.get(timeout=60)
    except BatchFailed as error:
        assert_type(error.info, dict[str, Any])
        return None


def publish(plain: dict[str, Any]) -> list[str]:
    """What a callback of a batch does with what it is given."""
    result = BatchResult.from_result(plain)
    assert_type(result.batch_id, str)
    assert_type(result.items, tuple[BatchItem, ...])
    assert_type(result.failed + result.cancelled + result.unknown, tuple[BatchItem, ...])
    assert_type(result.counts, dict[str, int])
    assert_type(result.usage, dict[str, Any])
    assert_type(result.to_result(), dict[str, Any])
    return [item.output_text for item in result.completed]


def judge(item: BatchItem) -> str | None:
    """One prompt of a batch that has ended."""
    assert_type(item.id, str | int)
    assert_type(item.task_id, str)
    assert_type(item.result, Mapping[str, Any] | None)
    assert_type(item.error, FreddyError | None)
    assert_type(item.usage, Mapping[str, Any])
    assert_type(item.outcome, Outcome)
    return item.output_text if item.outcome is Outcome.COMPLETED else None


def try_again(batch_id: str, prompts: list[str], callback: Signature[Any]) -> Batch:
    """The failed ones, from another process."""
    found = Batch.restore(batch_id)
    assert_type(found.retry_failed(prompts), Batch)
    return found.retry_failed(prompts, even_unknown=True, callback=callback, model="m")


def cancel(task_id: str) -> bool:
    """Durable once it returns."""
    assert_type(cancel_response(task_id), bool)
    return cancel_response(task_id)


assert_type(freddy_tasks.__version__, str)
