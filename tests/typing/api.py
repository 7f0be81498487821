"""The public interface as users write it: read by the type checker, never run."""

from __future__ import annotations

from typing import Any, assert_type

from celery import chain, chord, group
from celery.result import AsyncResult

import freddy_tasks
from freddy_tasks import (
    Batch,
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


def batch(prompts: list[str]) -> Batch:
    """Many at once."""
    return process_batch(prompts, on_error=0.1, model="m", label="letters")


def cancel(task_id: str) -> bool:
    """Durable once it returns."""
    assert_type(cancel_response(task_id), bool)
    return cancel_response(task_id)


assert_type(freddy_tasks.__version__, str)
