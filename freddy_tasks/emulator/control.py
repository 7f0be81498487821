"""The emulator's own endpoint, `/__emulator__/`: no key, no limits, no faults.

======  ========  ==================================================================
GET     (empty)   {"profile", "seed", "now"}
GET     counts    requests, jobs, polls by response, creates by idempotency key
GET     jobs      the responses and their times
GET     requests  the latest requests, keys redacted
GET     faults    the faults in force, as text
POST    faults    {"faults": ["503_long@first=2", ...]}: in the place of all others
POST    clock     {"advance": seconds}
POST    key       {"key": text}: the only good key from now on
POST    reset     forgets everything
======  ========  ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from freddy_tasks.emulator.errors import Refusal, Trouble, error_reply
from freddy_tasks.emulator.exchange import JsonObject, Reply, Request
from freddy_tasks.emulator.faults import Fault
from freddy_tasks.emulator.service import Service
from freddy_tasks.emulator.validation import read_json

PREFIX = "/__emulator__/"


class Control:
    """Answers the requests below :data:`PREFIX`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._routes: dict[tuple[str, str], Callable[[JsonObject], JsonObject]] = {
            ("GET", ""): self._about,
            ("GET", "counts"): lambda _: asdict(service.counts()),
            ("GET", "jobs"): lambda _: {"jobs": [asdict(job) for job in service.jobs()]},
            ("GET", "requests"): lambda _: {"requests": [asdict(request) for request in service.requests()]},
            ("GET", "faults"): lambda _: {"faults": [str(fault) for fault in service.faults()]},
            ("POST", "faults"): self._set_faults,
            ("POST", "clock"): self._advance,
            ("POST", "key"): self._rotate_key,
            ("POST", "reset"): self._reset,
        }

    def answer(self, request: Request) -> Reply:
        """Return the reply: 404 with what there is, 422 for a bad body."""
        act = self._routes.get((request.method, request.path.removeprefix(PREFIX)), self._nothing)
        try:
            return Reply(200, act(read_json(request.body) if request.body else {}))
        except Refusal as refusal:
            return error_reply("E1", Trouble(refusal.status, refusal.message, now=self._service.clock.now()))
        except (KeyError, TypeError, ValueError) as error:
            return error_reply("E1", Trouble(422, f"{error!s}", now=self._service.clock.now()))

    def _nothing(self, _: JsonObject) -> JsonObject:
        there = ", ".join(f"{method} {PREFIX}{name}" for method, name in self._routes)
        raise Refusal(404, f"Not here. There are {there}")

    def _about(self, _: JsonObject) -> JsonObject:
        options = self._service.options
        return {"profile": options.profile, "seed": options.seed, "now": self._service.clock.now()}

    def _set_faults(self, body: JsonObject) -> JsonObject:
        self._service.set_faults([Fault.parse(text) for text in body["faults"]])
        return {"faults": [str(fault) for fault in self._service.faults()]}

    def _advance(self, body: JsonObject) -> JsonObject:
        self._service.clock.advance(float(body["advance"]))
        return {"now": self._service.clock.now()}

    def _rotate_key(self, body: JsonObject) -> JsonObject:
        self._service.rotate_key(str(body["key"]))
        return {}

    def _reset(self, _: JsonObject) -> JsonObject:
        self._service.reset()
        return {}
