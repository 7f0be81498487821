"""The ledger and the waiting room: one Redis hash per response, one sorted set of due times.

Every transition is one Lua script, so it happens whole or not at all, and Redis' clock is the only clock.
The scripts in `lua/` say what each field means.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import resources
from typing import Any, Self

from kombu.utils.json import dumps, loads

from .budget import Budget
from .models import Job, Lane
from .records import (
    Enlisted,
    Fenced,
    Gone,
    Held,
    Hop,
    LinedUp,
    Parked,
    Phase,
    Popped,
    Pressure,
    Record,
    Unsent,
)
from .replicas import Replicas

RECORD_TTL = 3 * 86_400  # past the API's retention of 24 hours, and a queue of a day before it
ADMISSION_TIMEOUT = 7 * 86_400.0  # longest wait for one of the plan's requests, in seconds
DISPATCHER_TTL = 30  # seconds
PRICE_INTERVAL = 0.9  # seconds, under the dispatchers' own second
LINE_PATIENCE = 10  # seconds for which an app's word on the length of its line is believed
PREPAID_SECONDS = 2.0  # how long a request paid for by the dispatcher may be used
UNSENT_PAUSES = 1.0, 5.0  # seconds until an intent that was given back is tried again: the first, the longest
RANKS = {Lane.INTERACTIVE: 0, Lane.NORMAL: 1, Lane.BATCH: 2}


class Wake:
    """A subscription to the ledger's wake-up calls."""

    def __init__(self, pubsub: Any, channel: str) -> None:
        self._pubsub = pubsub
        self._channel = channel

    def __enter__(self) -> Self:
        self._pubsub.subscribe(self._channel)
        return self

    def __exit__(self, *_: object) -> None:
        self._pubsub.close()

    def wait(self, timeout: float) -> None:
        """Return after `timeout` seconds, or at the first call."""
        if self._pubsub.get_message(timeout=timeout) is None:
            return
        while self._pubsub.get_message() is not None:  # one look answers all calls so far
            pass


class Ledger:
    """All transitions of all responses of one app. Safe to share between threads and across a fork.

    Any method raises `redis.exceptions.RedisError` when the state server cannot be reached.
    """

    def __init__(
        self,
        redis: Any,
        prefix: str,
        budget: Budget,
        lease: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
        replicas: int = 0,
    ) -> None:
        self.redis = redis
        self.prefix = prefix
        self.lease = lease
        self.budget = budget
        self._monotonic = monotonic
        self._replicas = Replicas(redis, replicas, monotonic)
        self._scripts = {name: redis.register_script(source) for name, source in _sources().items()}

    def begin(
        self,
        task_id: str,
        job: Job,
        *,
        body: Mapping[str, Any],
        options: Mapping[str, Any],
        timeout: float,
        whole: bool,
    ) -> Held | LinedUp | Fenced:
        """Record a submit that arrives for the first time, with the intent to send it where one is free.

        `timeout` is in seconds, from now when `whole`, else from the moment the request is sent.
        """
        answer, confirmed = self._confirm(
            "begin", task_id, _dump(body), _dump(options), _dump(job.to_message()), RANKS[job.lane],
            timeout, int(whole), self.lease, ADMISSION_TIMEOUT, uuid.uuid4().hex,
        )  # fmt: skip
        match answer[0]:
            case "granted":
                job = replace(job, deadline=float(answer[2]))
                now = float(answer[1])
                return Held(
                    task_id,
                    1,
                    Phase.QUEUED,
                    now,
                    job,
                    self._monotonic(),
                    body=body,
                    options=options,
                    stretch=_by_lane(answer[3])[job.lane],
                    confirmed=confirmed,
                )
            case "lined_up":
                return LinedUp()
            case _:
                return Fenced(Phase(answer[1]))

    def enlist(self, prompts: Iterable[Enlisted]) -> list[Phase]:
        """Record submits that no message brings, in a round trip or two; the phase that each is in now.

        Those that were seen before are left as they are.
        """
        with self.redis.pipeline(transaction=False) as pipe:
            for one in prompts:
                self._run(
                    "enlist", one.task_id, _dump(one.body), _dump(one.options), _dump(one.job.to_message()),
                    RANKS[one.job.lane], one.timeout, int(one.whole),
                    ADMISSION_TIMEOUT, _or_empty(one.patience), one.delay, client=pipe,
                )  # fmt: skip
            return [Phase(answer[0]) for answer in pipe.execute()]

    def claim(
        self, task_id: str, generation: int, *, confirm: bool = False
    ) -> Held | LinedUp | Fenced | Gone:
        """Take hold of a published hop; with phase `QUEUED`, the intent to submit is on record.

        With `confirm` the replicas that must have an intent are asked for it.
        """
        claiming = "claim", task_id, generation, self.lease, uuid.uuid4().hex
        answer, confirmed = self._confirm(*claiming) if confirm else (self._run(*claiming), True)
        match answer[0]:
            case "held":
                return _held(task_id, generation, answer, self._monotonic(), confirmed)
            case "lined_up":
                return LinedUp()
            case "gone":
                return Gone()
            case _:
                return Fenced(Phase(answer[1]))

    def park(self, held: Held, phase: Phase, job: Job, delay: float) -> Parked | Fenced:
        """Put a held job back for `delay` seconds; its deadline rings earlier where it comes first."""
        brings_id = bool(job.response_id) and not held.job.response_id
        parking = (
            "park", held.task_id, held.generation, phase.value, _dump(job.to_message()), max(0.0, delay)
        )  # fmt: skip
        answer, confirmed = self._confirm(*parking) if brings_id else (self._run(*parking), True)
        if answer[0] != "parked":
            return Fenced(Phase(answer[1]) if answer[1] else None)
        return Parked(float(answer[1]), Phase(answer[2]), confirmed)

    def unsend(self, held: Held) -> Unsent | Fenced:
        """Give back the intent to submit: nothing was sent, and it is tried again within seconds.

        The request goes back to the plan, and a timeout that runs from the submit runs no more.
        """
        answer = self._run("unsend", held.task_id, held.generation, *UNSENT_PAUSES)
        if answer[0] != "parked":
            return Fenced(Phase(answer[1]) if answer[1] else None)
        return Unsent(float(answer[1]), int(answer[3]))

    def accept(self, task_id: str, job: Job, delay: float) -> Parked | Fenced:
        """Keep the id of an accepted response, though its submit is not the holder any more.

        Where nobody has judged that submit yet, it waits for its poll as if it had been parked in time.
        Fenced with phase `SENT` or `QUEUED`: somebody is about to judge it, ask again in a moment. With any
        other phase the id is with the record, for `resume` or for the cancel, unless that had one already.
        """
        answer, confirmed = self._confirm("accept", task_id, _dump(job.to_message()), max(0.0, delay))
        if answer[0] != "parked":
            return Fenced(Phase(answer[1]) if answer[1] else None)
        return Parked(float(answer[1]), Phase(answer[2]), confirmed)

    def settle(self, held: Held, outcome: Mapping[str, Any], job: Job, after: Phase = Phase.CLOSED) -> bool:
        """Keep the outcome before Celery stores it; False when a cancel or another holder came first.

        `after` is what becomes of the record then: `CLOSED`, `SUSPENDED` or `CANCELLING`.
        """
        answer = self._run(
            "settle", held.task_id, held.generation, _dump(outcome), _dump(job.to_message()), after.value,
            self.lease,
        )  # fmt: skip
        # Of a record that was lost nobody else can have the outcome.
        return answer[0] in {"settled", "gone"}

    def close(self, task_id: str, generation: int) -> bool:
        """Celery has the outcome: drop it here, and keep the id as a fence."""
        return bool(self._run("close", task_id, generation)[0] not in {"fenced", "gone"})

    def cancel(self, task_id: str, *, even_unseen: bool = True) -> Phase | None:
        """Record the wish to cancel; the phase it was in, or None when there is nothing left to cancel.

        An id that was never seen here is fenced all the same, as its message may still be on its way;
        with `even_unseen=False` it is left alone.
        """
        answer = self._run("cancel", task_id, int(even_unseen), uuid.uuid4().hex)
        return Phase(answer[1]) if answer[0] == "cancelling" else None

    def hand_back(self, task_id: str, generation: int) -> bool:
        """End the lease of a hop that its worker will not carry out, or has killed; False where it has none.

        Nor for a submit on its way. The next hop has a new generation: the old one, if it lives, cannot act.
        """
        return bool(self._run("hand_back", task_id, generation)[0] == "handed_back")

    def revive(self, task_id: str, phase: Phase, timeout: float) -> bool:
        """Take up a suspended job again, as `WAITING` or `QUEUED`, for `timeout` seconds from now.

        False when it is not suspended, or has no response to wait for, or no prompt to submit. Let the result
        backend forget the task's failure first: a worker takes any outcome there for the last word.
        """
        # It leaves its chord, which has counted its failure. Only Celery's Redis backend (5.7) would notice
        # a second count; those that count by increments would start the body too early.
        options = _load(self.redis.hget(f"{self.prefix}:job:{task_id}", "options"))
        options.pop("chord", None)
        answer = self._run("revive", task_id, phase.value, timeout, _dump(options), uuid.uuid4().hex)
        return bool(answer[0] == "revived")

    def rebuild(self, task_id: str, job: Job, *, options: Mapping[str, Any], timeout: float) -> bool:
        """Take up a response whose record was lost, as `WAITING`, for `timeout` seconds from now.

        `job` has its response id; False when there is a record.
        """
        answer = self._run(
            "rebuild", task_id, _dump(options), _dump(job.to_message()), RANKS[job.lane], timeout,
            uuid.uuid4().hex,
        )  # fmt: skip
        return bool(answer[0] == "revived")

    def pop(self, most: int = 100, submits: int | None = None) -> Popped:
        """Take up to `most` due jobs out of the waiting room and leave a lease behind for each.

        Of the prompts that line up to be submitted, no more than `submits`.
        """
        now, wait, lined_up, released = self._run(
            "pop", most, self.lease, most if submits is None else submits
        )
        return Popped(
            float(now),
            tuple(_hop(item) for item in released),
            None if float(wait) < 0 else float(wait),
            int(lined_up),
        )

    def record(self, task_id: str) -> Record | None:
        """A response as it stands; None for an id the ledger never saw or has forgotten."""
        fields = self.redis.hgetall(f"{self.prefix}:job:{task_id}")
        if not fields:
            return None
        job = fields.get("job")
        return Record(
            task_id,
            Phase(fields["phase"]),
            int(fields.get("generation", 0)),
            _job(job, fields.get("deadline", 0)) if job else None,
            self.redis.zscore(f"{self.prefix}:due", task_id),
        )

    def suspended(self) -> tuple[Record, ...]:
        """Responses that wait for a person's decision, oldest first."""
        found = self.redis.zrange(f"{self.prefix}:suspended", 0, -1, withscores=True)
        records = ((self.record(task_id), since) for task_id, since in found)
        return tuple(replace(record, suspended_at=since) for record, since in records if record is not None)

    def heed(
        self, *, refused: bool, retry_in: float | None, per_minute: int | None, remaining: int | None
    ) -> float:
        """Slow every process down to what the API itself says; the seconds for which nobody may call.

        `refused` says that it was a 429, `retry_in` is the pause it named, in seconds; without one the pause
        doubles from 1 s with each refusal in a row.
        """
        answer = self._run(
            "heed", int(refused), _or_empty(retry_in), _or_empty(per_minute), _or_empty(remaining)
        )
        return float(answer[1])

    def pressure(self) -> Pressure | None:
        """How hard the budget binds; None when it cannot, or when somebody was told within the last second.

        Whoever is told answers with `price`. The lines of all apps that use the key count, each as its own
        dispatchers last told it by this call.
        """
        answer = self._run("pressure", PRICE_INTERVAL, LINE_PATIENCE)
        if not answer:
            return None
        stretch, backlog, day_left, interval = answer
        return Pressure(_by_lane(stretch), _by_lane(backlog), float(day_left), float(interval))

    def price(self, stretch: Mapping[Lane, float]) -> None:
        """Set the price of a poll, as a multiple of the usual one, for every process that uses the key."""
        # Cut to thousandths, so that it comes to rest at 1 and not a little above.
        self._run("price", " ".join(f"{math.floor(1_000 * stretch[lane]) / 1_000:g}" for lane in RANKS))

    def listen(self) -> Wake:
        """Hear of it when something is due earlier than all that was known."""
        return Wake(self.redis.pubsub(ignore_subscribe_messages=True), f"{self.prefix}:wake")

    def wake(self) -> None:
        """Call all who listen."""
        self.redis.publish(f"{self.prefix}:wake", "")

    def sign_in(self, dispatcher: str) -> str:
        """Leave a sign of life of a dispatcher; a mark that changes when the state server is emptied."""
        key, mark = f"{self.prefix}:dispatchers", f"{self.prefix}:mark"
        now = float(self.redis.time()[0])
        with self.redis.pipeline() as pipe:
            pipe.zadd(key, {dispatcher: now})
            pipe.zremrangebyscore(key, "-inf", now - DISPATCHER_TTL)
            pipe.expire(key, DISPATCHER_TTL)
            pipe.set(mark, uuid.uuid4().hex, nx=True)
            pipe.expire(mark, RECORD_TTL)
            pipe.get(mark)
            return str(pipe.execute()[-1])

    def dispatchers(self) -> tuple[str, ...]:
        """Those that gave a sign of life within the last half minute."""
        since = float(self.redis.time()[0]) - DISPATCHER_TTL
        return tuple(self.redis.zrangebyscore(f"{self.prefix}:dispatchers", since, "+inf"))

    def _run(self, name: str, *args: Any, client: Any = None) -> Any:
        budget = self.budget
        return self._scripts[name](
            keys=[*budget.keys, self.prefix],
            args=[*budget.limits, RECORD_TTL, PREPAID_SECONDS, *args],
            client=client,
        )

    def _confirm(self, name: str, *args: Any) -> tuple[Any, bool]:
        return self._replicas.confirm(lambda client: self._run(name, *args, client=client))


def _sources() -> dict[str, str]:
    folder = resources.files(__package__) / "lua"
    prelude = (folder / "budget.lua").read_text() + (folder / "ledger.lua").read_text()
    names = (
        "begin",
        "enlist",
        "claim",
        "park",
        "accept",
        "unsend",
        "settle",
        "close",
        "cancel",
        "hand_back",
        "revive",
        "rebuild",
        "pop",
        "heed",
        "pressure",
        "price",
    )
    return {name: prelude + (folder / f"{name}.lua").read_text() for name in names}


def _dump(value: Mapping[str, Any]) -> str:
    return str(dumps(value, separators=(",", ":")))


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def _load(text: str | None) -> Any:
    return loads(text) if text else {}


def _job(text: str, deadline: float | str) -> Job:
    return Job.from_message({**_load(text), "deadline": float(deadline)})


def _by_lane(text: str) -> dict[Lane, float]:
    return dict(zip(RANKS, map(float, text.split()), strict=True))


def _held(task_id: str, generation: int, answer: list[Any], claimed_at: float, confirmed: bool) -> Held:
    _, now, phase, deadline, text, body, outcome, options, may_ask, *flags, stretch = answer
    job = _job(text, deadline)
    cancelled, lost, abandoned = (flag == "1" for flag in flags)
    return Held(
        task_id,
        generation,
        Phase(phase),
        float(now),
        job,
        claimed_at,
        body=_load(body),
        outcome=loads(outcome) if outcome else None,
        options=_load(options),
        may_ask=bool(int(may_ask)),
        cancelled=cancelled,
        recovered=lost,
        abandoned=abandoned,
        stretch=_by_lane(stretch)[job.lane],
        confirmed=confirmed,
    )


def _hop(item: list[Any]) -> Hop:
    task_id, generation, phase, job, options, body, deadline, lost = item
    return Hop(
        task_id,
        int(generation),
        Phase(phase),
        _job(job, deadline),
        options=_load(options),
        body=_load(body),
        recovered=lost == "1",
        size=len(body),
    )
