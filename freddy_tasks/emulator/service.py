"""The emulated service: one request in, one reply out. No sockets; many threads may call it at once."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from email.utils import formatdate
from urllib.parse import parse_qs

from freddy_tasks.emulator import profiles
from freddy_tasks.emulator.calls import Call, Method, Proceed, through
from freddy_tasks.emulator.clock import Clock
from freddy_tasks.emulator.creation import new_job
from freddy_tasks.emulator.errors import Refusal, Trouble, error_reply
from freddy_tasks.emulator.exchange import JsonObject, Reply, Request
from freddy_tasks.emulator.faults import Fault, FaultList
from freddy_tasks.emulator.gate import Gate, plan_headers, refuse_over_limit
from freddy_tasks.emulator.jobs import Job, can_cancel, knocked, prompt_digest, read, status_at
from freddy_tasks.emulator.journal import Counts, JobRecord, Journal, RequestRecord, record_of
from freddy_tasks.emulator.limits import DAY, Admission
from freddy_tasks.emulator.options import Options
from freddy_tasks.emulator.routes import find_route
from freddy_tasks.emulator.validation import bad_field, prompt_of, read_json, validate_create

API_VERSION = "2025-01-01"
ORGANIZATION = "org_emulator"


class Service:
    """Jobs, limits, faults and counts behind one lock; ``wait`` sleeps real seconds, less when all stops."""

    def __init__(self, options: Options, clock: Clock, wait: Callable[[float], object]) -> None:
        self.options = options
        self.clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._gate = Gate(options)
        self._journal = Journal(options.log_path)
        self._start_over()

    def _start_over(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._made = 0
        self._creates: Counter[str] = Counter()
        self._replays: dict[str, tuple[str, str, float]] = {}
        self._faults = FaultList(self.options.faults, self.clock.now())

    # What a test or an operator asks.

    def counts(self) -> Counts:
        """Return how much happened."""
        with self._lock:
            journal = self._journal
            return Counts(
                posts=journal.methods["POST"],
                gets=journal.methods["GET"],
                deletes=journal.methods["DELETE"],
                jobs=self._made,
                over_limit=self._gate.over_limit,
                faults=dict(journal.faults),
                polls={job.id: job.polls for job in self._jobs.values()},
                submits=dict(journal.submits),
            )

    def jobs(self) -> tuple[JobRecord, ...]:
        """Return all responses remembered, in the order of their creation."""
        with self._lock:
            now = self.clock.now()
            return tuple(record_of(job, now) for job in self._jobs.values())

    def requests(self) -> tuple[RequestRecord, ...]:
        """Return the latest requests."""
        with self._lock:
            return tuple(self._journal.requests)

    def faults(self) -> tuple[Fault, ...]:
        """Return the faults in force."""
        with self._lock:
            return self._faults.faults

    def set_faults(self, faults: Iterable[Fault]) -> None:
        """Put these faults in the place of all others."""
        with self._lock:
            self._faults = FaultList(tuple(faults), self.clock.now())

    def rotate_key(self, key: str) -> None:
        """Take this key only, from now on."""
        self._gate.rotate_key(key)

    def reset(self) -> None:
        """Forget jobs, counts and requests; back to the faults and limits of the options."""
        with self._lock:
            self._journal.forget()
            self._gate.reset()
            self._start_over()

    def flush_log(self) -> None:
        """Log the responses that ended without anyone looking."""
        with self._lock:
            now = self.clock.now()
            for job in self._jobs.values():
                self._journal.ended(job, now)

    # What a client asks.

    def answer(self, request: Request) -> Reply:
        """Return the reply; never raises for what a client can send."""
        began, now, trace_id, admission = time.perf_counter(), self.clock.now(), secrets.token_hex(16), None
        with self._lock:
            self._journal.arrived(request, now)
        try:
            route, subject = find_route(self.options.profile, request.method, request.path)
            key = self._gate.authorise(request)
            admission = self._gate.admit(now)
            refuse_over_limit(admission)
            self._pause(self.options.latency)
            reply = self._answer_route(route, subject, request, key, trace_id)
        except Refusal as refusal:
            reply = _refused(refusal, trace_id, now)
        return self._with_headers(reply, admission, trace_id, time.perf_counter() - began)

    def _pause(self, seconds: float) -> None:
        if seconds:
            self._wait(self.clock.real_seconds(seconds))

    def _answer_route(self, route: str, subject: str, request: Request, key: str, trace_id: str) -> Reply:
        match route:
            case "create":
                return self._answer_create(request, key, trace_id)
            case "retrieve":
                return self._answer_known("GET", subject, request, key, trace_id)
            case "cancel":
                return self._answer_known("DELETE", subject, request, key, trace_id)
            case "cancel_thread":
                # A stream is all this route cancels, and the emulator streams nothing.
                raise Refusal(404, "No active stream for this thread")
        return Reply(200, profiles.OUTPUT_MODES if route == "output_modes" else profiles.REASONING_LEVELS)

    def _answer_create(self, request: Request, key: str, trace_id: str) -> Reply:
        payload = read_json(request.body)
        prompt = prompt_of(payload)
        digest = prompt_digest(prompt)
        idempotency_key = request.headers.get("idempotency-key")
        with self._lock:
            self._creates[digest] += 1
            occurrence = self._creates[digest]
            ordinal = self._made + 1
            if idempotency_key is not None:
                self._journal.submits[idempotency_key] += 1
        call = Call(
            "POST",
            request.path,
            response_id="",
            origin=(digest, occurrence),
            number=occurrence,
            ordinal=ordinal,
            now=self.clock.now(),
            trace_id=trace_id,
            wait=self._pause,
            key=key,
            prompt=prompt,
        )
        return self._through_faults(call, lambda call: self._create(call, payload, request, idempotency_key))

    def _through_faults(self, call: Call, action: Proceed) -> Reply:
        with self._lock:
            taken = self._faults.take(call, self.options.seed)
            self._journal.faults.update(fault.name for fault in taken)
        return through([fault.effect for fault in taken], _refusals_answered(action))(call)

    def _create(
        self, call: Call, payload: JsonObject, request: Request, idempotency_key: str | None
    ) -> Reply:
        validate_create(payload, self.options.profile)
        background = self.options.profile != "current" and payload.get("background") is True
        # Outside the lock: the caller's own function may be slow.
        answer = self.options.answer(call.prompt) if self.options.answer else None
        with self._lock:
            now = self.clock.now()
            job = self._replayed(idempotency_key, request, now)
            if job is None:
                job = new_job(self.options, call, payload, self._made + 1, now)
                job = replace(job, background=background, idempotency_key=idempotency_key, answer=answer)
                self._remember(job, request)
        return Reply(200, profiles.created(job)) if background else self._run_now(job)

    def _replayed(self, idempotency_key: str | None, request: Request, now: float) -> Job | None:
        if idempotency_key is None or not self.options.honour_idempotency:
            return None
        digest, response_id, at = self._replays.get(idempotency_key, ("", "", -math.inf))
        if now >= at + DAY or response_id not in self._jobs:
            return None
        if digest != prompt_digest(request.body.decode("utf-8", "replace")):
            raise Refusal(409, "Idempotency key was used with another payload", "IDEMPOTENCY_KEY_REUSED")
        return self._jobs[response_id]

    def _remember(self, job: Job, request: Request) -> None:
        self._made += 1
        self._jobs[job.id] = job
        if len(self._jobs) > self.options.max_jobs:
            del self._jobs[next(iter(self._jobs))]
        if job.idempotency_key is not None and self.options.honour_idempotency:
            digest = prompt_digest(request.body.decode("utf-8", "replace"))
            self._replays[job.idempotency_key] = (digest, job.id, job.created_at)

    def _run_now(self, job: Job) -> Reply:
        """Answer a create that was not for the background: its duration is spent in the call."""
        finished_at = job.created_at if job.finished_at is None else job.finished_at
        job = replace(
            job, finished_at=finished_at, started_at=job.created_at, life=replace(job.life, stuck=None)
        )
        if self.clock.scale:
            self._pause(finished_at - job.created_at)
        with self._lock:
            self._jobs[job.id] = job
            self._journal.ended(job, finished_at)
        if self.options.profile == "current" and job.life.ending == "failed":
            raise Refusal(500, "Something went wrong")
        return Reply(200, profiles.synchronous(self.options, job))

    def _answer_known(
        self, method: Method, response_id: str, request: Request, key: str, trace_id: str
    ) -> Reply:
        with self._lock:
            job = self._jobs.get(response_id)
            if job is not None:
                job = self._jobs[response_id] = knocked(job, method)
        call = Call(
            method,
            request.path,
            response_id,
            origin=(job.digest, job.occurrence) if job else (request.path, 0),
            number=(job.polls if method == "GET" else job.cancels) if job else 1,
            ordinal=job.ordinal if job else 0,
            now=self.clock.now(),
            trace_id=trace_id,
            wait=self._pause,
            key=key,
            prompt=job.topic if job else "",
        )
        act = self._retrieve if method == "GET" else self._cancel
        return self._through_faults(call, lambda call: act(call.response_id, request))

    def _retrieve(self, response_id: str, request: Request) -> Reply:
        self._check_organization(request)
        with self._lock:
            now = self.clock.now()
            job = self._jobs[response_id] = read(self._known(response_id, now), now, self.options.time_limit)
            self._journal.ended(job, now)
        return Reply(200, profiles.retrieved(self.options, job, now))

    def _cancel(self, response_id: str, request: Request) -> Reply:
        self._check_organization(request)
        with self._lock:
            now = self.clock.now()
            job = self._known(response_id, now)
            if not can_cancel(job, now, self.options.cancel_queued):
                raise Refusal(
                    409, f"Only a running response can be cancelled; this one is {status_at(job, now)}"
                )
            job = self._jobs[response_id] = replace(job, cancelled_at=now)
            if job.life.cancel_holds:
                self._journal.ended(job, now)
        return Reply(200, profiles.cancelled(job, now))

    def _check_organization(self, request: Request) -> None:
        if self.options.profile == "get-status" and not parse_qs(request.query).get("organizationId"):
            raise bad_field("organizationId", "Field required: organizationId")

    def _known(self, response_id: str, now: float) -> Job:
        job = self._jobs.get(response_id)
        if job is None or not job.background or now >= job.created_at + self.options.retention:
            raise Refusal(404, "Response not found")
        return job

    def _with_headers(
        self, reply: Reply, admission: Admission | None, trace_id: str, seconds: float
    ) -> Reply:
        now = self.clock.now()
        headers = (
            ("Date", formatdate(now + reply.date_offset, usegmt=True)),
            ("x-request-id", trace_id),
            ("freddy-processing-ms", str(int(seconds * 1000))),
            ("freddy-api-version", API_VERSION),
            ("aitronos-organization", ORGANIZATION),
        )
        plan = plan_headers(admission, now) if admission is not None and reply.rate_headers else ()
        return replace(reply, headers=headers + plan + reply.headers)


def _refusals_answered(action: Proceed) -> Proceed:
    """Return the action with its refusals as replies, so that a fault can spoil those too."""

    def answered(call: Call) -> Reply:
        try:
            return action(call)
        except Refusal as refusal:
            return _refused(refusal, call.trace_id, call.now)

    return answered


def _refused(refusal: Refusal, trace_id: str, now: float) -> Reply:
    trouble = Trouble(refusal.status, refusal.message, refusal.code, refusal.details, trace_id, now)
    return error_reply(refusal.shape, trouble, refusal.headers)
