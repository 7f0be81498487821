"""The whole way of a response in one process: for eager mode, and for a task that is called as a function."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from . import answers, polling
from .models import Job, Request
from .polling import After, Complete, Decision, PollAgain, SubmitAgain
from .runtime import Runtime


def run(runtime: Runtime, request: Request, job: Job, timeout: float | None) -> Any:
    """The answer to a prompt, after a wait: without a ledger, and beyond the plan's limits.

    `timeout` is in seconds; None is the default. Raises a `FreddyError` unless the job returns exceptions.
    """
    started = runtime.clock()
    job = replace(job, deadline=started + (timeout or runtime.settings.timeout))
    key = str(uuid.uuid4())
    decision: Decision = SubmitAgain(job, 0.0)
    while isinstance(decision, PollAgain | SubmitAgain):
        runtime.sleep(decision.delay)
        if isinstance(decision, SubmitAgain):
            reply, decide = runtime.client.create(request, key), polling.decide_submit
        else:
            reply, decide = runtime.client.retrieve(decision.job.response_id), polling.decide
        decision = decide(
            decision.job,
            reply.seen,
            runtime.schedule(decision.job),
            runtime.clock(),
            runtime.random,
            runtime.policy,
            retry_in=runtime.retry_in(reply),
        )
    if isinstance(decision, Complete):
        return answers.terminal_result(decision.response, decision.job.polls)
    if decision.after is After.CANCEL and runtime.settings.cancel_remotely:
        runtime.client.cancel(decision.job.response_id)
    if decision.job.return_exceptions:
        return decision.error.to_result()
    raise decision.error
