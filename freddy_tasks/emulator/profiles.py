"""The bodies of good replies, by profile."""

from __future__ import annotations

from freddy_tasks.emulator.answers import article
from freddy_tasks.emulator.exchange import JsonObject
from freddy_tasks.emulator.jobs import RUNNING, Job, progress, status_at
from freddy_tasks.emulator.options import Options

STEPS = 4

OUTPUT_MODES = {"success": True, "output_modes": ["text", "plain", "blocks"]}
REASONING_LEVELS = {"success": True, "reasoning_levels": ["off", "low", "medium", "high", "maximum"]}


def answer_text(options: Options, job: Job) -> str:
    """Return the model's answer: the same for the same prompt."""
    return job.answer if job.answer is not None else article(job.topic, job.digest, options.answer_size)


def usage(prompt_chars: int, answer: str) -> JsonObject:
    """Return token counts at about four characters each."""
    spent, made = prompt_chars // 4 + 1, len(answer) // 4 + 1
    return {"input_tokens": spent, "output_tokens": made, "total_tokens": spent + made}


def created(job: Job) -> JsonObject:
    """Return the reply to a background create."""
    return {"id": job.id, "status": "queued", "created_at": int(job.created_at)}


def synchronous(options: Options, job: Job) -> JsonObject:
    """Return the reply to a create that was not run in the background."""
    if options.profile != "current":
        return _page_body(options, job, job.created_at if job.finished_at is None else job.finished_at)
    return {
        "success": True,
        "thread_id": job.thread_id,
        "response": [{"type": "text", "text": answer_text(options, job)}],
        "response_id": job.id,
        "stop_reason": "end_turn",
        "is_summarized": False,
    }


def retrieved(options: Options, job: Job, now: float) -> JsonObject:
    """Return the reply to a retrieve."""
    if options.profile == "get-status":
        return _status_page_body(options, job, now)
    return _page_body(options, job, now)


def cancelled(job: Job, now: float) -> JsonObject:
    """Return the reply to a cancel that worked."""
    message = "Response cancelled. There is no refund for work already done."
    return {"id": job.id, "status": "cancelled", "cancelledAt": int(now), "message": message}


def _page_body(options: Options, job: Job, now: float) -> JsonObject:
    status = status_at(job, now)
    body: JsonObject = {"id": job.id, "status": status, "created_at": int(job.created_at)}
    if status == "completed":
        body["completed_at"] = _second(job.finished_at)
    return body | _end(options, job, status)


def _status_page_body(options: Options, job: Job, now: float) -> JsonObject:
    status = status_at(job, now)
    ended = status not in RUNNING
    started_at = job.started_at if job.started_at is not None and job.started_at <= now else None
    body: JsonObject = {
        "id": job.id,
        "status": status if ended else "processing",
        "model": job.model,
        "createdAt": int(job.created_at),
        "startedAt": _second(started_at),
        "completedAt": _second(job.finished_at) if ended and status != "cancelled" else None,
        "progress": _progress(1.0 if status == "completed" else progress(job, now), status),
        "thread": {"id": job.thread_id, "messageCount": 2 if ended else 1},
    }
    return body | _end(options, job, status)


def _end(options: Options, job: Job, status: str) -> JsonObject:
    if status == "completed":
        return _result(options, job)
    if status == "failed" and job.life.names_error:
        return {"error": job.life.error}
    # Freddy shows no body for this word; the reason is the analogue of OpenAI's `max_output_tokens`.
    return {"incomplete_details": {"reason": "max_output_synapses"}} if status == "incomplete" else {}


def _result(options: Options, job: Job) -> JsonObject:
    if job.life.output == "absent":
        return {}
    if job.life.output == "empty":
        return {"output": [], "usage": usage(job.prompt_chars, "")}
    text = answer_text(options, job)
    content = [{"type": "output_text", "text": text}]
    message = {"type": "message", "role": "assistant", "content": content}
    return {"output": [message], "usage": usage(job.prompt_chars, text)}


def _progress(done: float, status: str) -> JsonObject:
    stage = {"queued": "queued", "in_progress": "generating"}.get(status, status)
    return {
        "percentage": int(done * 100),
        "stage": stage,
        "stepsCompleted": int(done * STEPS),
        "totalSteps": STEPS,
    }


def _second(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
