"""How a response is born: its pace and life, from options, chance, faults and the request's own wishes."""

from __future__ import annotations

import secrets

from freddy_tasks.emulator.answers import topic_of
from freddy_tasks.emulator.calls import Call
from freddy_tasks.emulator.durations import chance, draw
from freddy_tasks.emulator.exchange import JsonObject
from freddy_tasks.emulator.instructions import (
    find_instruction,
    instructed_life,
    instructed_pace,
    instructed_queue,
)
from freddy_tasks.emulator.jobs import Job, with_pace
from freddy_tasks.emulator.options import Options
from freddy_tasks.emulator.validation import bad_field


def new_job(options: Options, call: Call, payload: JsonObject, ordinal: int, now: float) -> Job:
    """Return the job a create makes; refuse with 422 an instruction that makes no sense.

    Its id is random, though all else follows from the seed: a restarted emulator must not give an old id to
    somebody else's answer.
    """
    digest, occurrence = call.origin
    metadata = payload.get("metadata")
    label = metadata.get("label") if isinstance(metadata, dict) else None
    luck = chance(options.seed, "duration", digest, occurrence)
    drawn = draw(options.durations, ordinal, luck, label if isinstance(label, str) else None)
    try:
        words = find_instruction(call.prompt, metadata)
        pace = instructed_pace(words, drawn)
        queue_seconds = instructed_queue(words, options.queue_seconds)
        life = instructed_life(words, call.life)
    except ValueError as error:
        raise bad_field("emulate", str(error)) from error
    thread_id = payload.get("thread_id")
    job = Job(
        id="resp_" + secrets.token_hex(16),
        ordinal=ordinal,
        occurrence=occurrence,
        digest=digest,
        topic=topic_of(call.prompt),
        prompt_chars=len(call.prompt),
        model=str(payload.get("model") or "ftg-3.0"),
        thread_id=thread_id if isinstance(thread_id, str) else "thread_" + secrets.token_hex(16),
        created_at=now,
        life=life,
    )
    return with_pace(job, pace, queue_seconds, options.time_limit)
