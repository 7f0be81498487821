"""The emulator over HTTP: what a client meets on each profile, under each fault, at each limit."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from hashlib import sha256
from urllib.parse import urlsplit

import pytest
import requests

from freddy_tasks.emulator import (
    AfterPolls,
    Clock,
    Constant,
    Emulator,
    Fault,
    LogNormal,
    Options,
    parse_durations,
    serve,
)

PATH = "/v1/model/response"
PROMPT = "Write a detailed article about AI"
PLAIN = {"durations": AfterPolls(1), "time_scale": 0, "per_minute": None, "per_day": None}


class Caller:
    """A plain client: one session, the documented bodies, every call with a timeout."""

    def __init__(self, api):
        self.api = api
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {api.key}"

    def call(self, method, path, **more):
        """Send one request; redirects are not followed."""
        more.setdefault("timeout", 10)
        return self.session.request(method, self.api.url + path, allow_redirects=False, **more)

    def create(self, prompt=PROMPT, headers=None, timeout=10, **fields):
        """Submit a background response."""
        inputs = [{"role": "user", "texts": [{"text": prompt}]}]
        body = {"model": "gpt-4.1", "background": True, "inputs": inputs} | fields
        return self.call("POST", PATH, json=body, headers=headers, timeout=timeout)

    def retrieve(self, response_id, **more):
        """Poll once."""
        return self.call("GET", f"{PATH}/{response_id}", **more)

    def cancel(self, response_id, **more):
        """Cancel."""
        return self.call("DELETE", f"{PATH}/{response_id}", **more)

    def control(self, method, name, body=None):
        """Use the control endpoint, which needs no key."""
        return requests.request(method, f"{self.api.url}/__emulator__/{name}", json=body, timeout=10)


@pytest.fixture(autouse=True)
def _no_thread_left():
    """Every test leaves no thread of the emulator behind."""
    before = set(threading.enumerate())  # those of other tests' emulators may end meanwhile
    yield
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name == "freddy-emulator"]


@pytest.fixture
def start():
    """Return a function that starts an emulator and gives a caller of it."""
    with ExitStack() as stack:

        def started(*faults, **options):
            chosen = PLAIN | options | {"faults": tuple(Fault.parse(fault) for fault in faults)}
            caller = Caller(stack.enter_context(Emulator(Options(**chosen))))
            stack.callback(caller.session.close)
            return caller

        yield started


def statuses(caller, response_id, polls):
    """Return the status words of so many polls."""
    return [caller.retrieve(response_id).json()["status"] for _ in range(polls)]


def error_of(reply):
    """Return status and code of an E1 body, its parts checked."""
    error = reply.json()["error"]
    assert error["trace_id"] == reply.headers["x-request-id"]
    assert error["status"] == reply.status_code
    assert set(error) == {
        "code", "message", "system_message", "type", "status", "details", "trace_id", "timestamp",
    }  # fmt: skip
    return reply.status_code, error["code"]


# The documented life


def test_a_response_lives_through_exactly_the_documented_bodies(start):
    """queued, in_progress, completed; nothing in a body before its time."""
    caller = start(durations=Constant(8), queue_seconds=2, start=1741476542)
    created = caller.create().json()
    one = caller.retrieve(created["id"]).json()
    caller.api.clock.advance(2)
    two = caller.retrieve(created["id"]).json()
    caller.api.clock.advance(6)
    three = caller.retrieve(created["id"]).json()

    assert created["id"].startswith("resp_")
    assert created == one == {"id": created["id"], "status": "queued", "created_at": 1741476542}
    assert two == created | {"status": "in_progress"}
    assert set(three) == {"id", "status", "created_at", "completed_at", "output", "usage"}
    assert three["completed_at"] == 1741476550
    assert [part["type"] for part in three["output"][0]["content"]] == ["output_text"]
    assert three["usage"]["total_tokens"] == three["usage"]["input_tokens"] + three["usage"]["output_tokens"]


def test_the_answer_is_an_article_on_the_topic_that_says_where_it_comes_from(start):
    """The same prompt gives the same text, on any emulator."""
    texts = []
    for caller in (start(), start()):
        response_id = caller.create().json()["id"]
        caller.retrieve(response_id)
        texts.append(caller.retrieve(response_id).json()["output"][0]["content"][0]["text"])

    assert texts[0] == texts[1]
    assert texts[0].startswith("Here is a detailed article about AI. It comes from the Freddy emulator")
    assert texts[0].count("\n\n") >= 3


def test_an_answer_can_be_made_by_a_function_of_the_prompt(start):
    """What a test needs to recognise its own answers."""
    caller = start(answer=str.upper)
    response_id = caller.create("one two").json()["id"]
    caller.retrieve(response_id)

    assert caller.retrieve(response_id).json()["output"][0]["content"][0]["text"] == "ONE TWO"


def test_without_background_the_answer_comes_at_once(start):
    """The completed body is the reply to the POST, and there is nothing to poll."""
    caller = start(durations=Constant(5))
    body = caller.create(background=False).json()

    assert body["status"] == "completed"
    assert body["output"]
    assert error_of(caller.retrieve(body["id"])) == (404, "RESOURCE_NOT_FOUND")


def test_every_reply_carries_the_documented_headers(start):
    """Correlation headers always, both families of the plan where a plan limits."""
    caller = start(per_minute=100, per_day=10_000)
    headers = caller.create().headers

    assert {"x-request-id", "freddy-processing-ms", "freddy-api-version", "aitronos-organization"} <= set(
        headers
    )
    assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("100", "119")
    assert headers["X-RateLimit-Retry-After"] == "0"
    assert headers["x-ratelimit-remaining-requests"] == "119"
    assert int(headers["X-RateLimit-Reset"]) >= caller.api.clock.now()


def test_a_response_running_for_half_an_hour_fails(start):
    """The status is our reading of the limit; its code says so."""
    caller = start(durations=Constant(3600))
    response_id = caller.create().json()["id"]
    caller.api.clock.advance(1799)
    before = caller.retrieve(response_id).json()["status"]
    caller.api.clock.advance(1)
    after = caller.retrieve(response_id).json()

    assert before == "in_progress"
    assert (after["status"], after["error"]["code"]) == ("failed", "emulator_time_limit")


def test_a_response_is_unknown_a_day_after_its_creation(start):
    """Retention is on the emulator's clock."""
    caller = start(durations=Constant(1))
    response_id = caller.create().json()["id"]
    caller.api.clock.advance(86_399)
    before = caller.retrieve(response_id).json()["status"]
    caller.api.clock.advance(1)

    assert before == "completed"
    assert error_of(caller.retrieve(response_id)) == (404, "RESOURCE_NOT_FOUND")


def test_a_running_response_can_be_cancelled_once(start):
    """The cancel page's body; then a clear conflict."""
    caller = start(durations=Constant(60))
    response_id = caller.create().json()["id"]
    body = caller.cancel(response_id).json()
    caller.api.clock.advance(120)

    assert (body["id"], body["status"]) == (response_id, "cancelled")
    assert set(body) == {"id", "status", "cancelledAt", "message"}
    assert caller.retrieve(response_id).json()["status"] == "cancelled"
    assert error_of(caller.cancel(response_id)) == (409, "CONFLICT")
    assert error_of(caller.cancel("resp_nobody")) == (404, "RESOURCE_NOT_FOUND")


def test_a_prompt_can_tell_the_emulator_what_to_do(start):
    """For demonstrations: duration and end are in the text, or in the metadata."""
    caller = start()
    told = caller.create("Hello [emulate: duration=3 status=failed code=content_filter]").json()["id"]
    noted = caller.create(metadata={"emulate": "duration=3 stuck=queued"}).json()["id"]
    caller.api.clock.advance(3)
    body = caller.retrieve(told).json()

    assert (body["status"], body["error"]["code"]) == ("failed", "content_filter")
    assert caller.retrieve(noted).json()["status"] == "queued"
    assert error_of(caller.create("[emulate: durations=3]")) == (422, "VALIDATION_ERROR")


# Who is refused


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": None}, "AUTHENTICATION_REQUIRED"),
        ({"Authorization": "bearer good"}, "AUTHENTICATION_REQUIRED"),
        ({"Authorization": "Bearer "}, "AUTHENTICATION_REQUIRED"),
        ({"Authorization": None, "X-API-Key": "good"}, "AUTHENTICATION_REQUIRED"),
        ({"Authorization": "Bearer wrong"}, "INVALID_API_KEY"),
    ],
)
def test_a_bad_key_is_refused_before_the_body_is_looked_at(start, headers, code):
    """An invalid body with an invalid key is a 401, never a 422."""
    caller = start(keys=("good",))
    reply = caller.call("POST", PATH, json={}, headers=headers)

    assert error_of(reply) == (401, code)
    assert "wrong" not in reply.text  # no hexadecimal id spells that


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": None},
        {"inputs": []},
        {"inputs": "text"},
        {"inputs": [{"role": "robot", "texts": [{"text": "x"}]}]},
        {"inputs": [{"role": "user", "content": "x"}]},
        {"temperature": 1.5},
        {"top_p": "high"},
        {"max_output_synapses": 0},
        {"output_mode": "xml"},
        {"output_mode": "json_schema"},
        {"instructions": "x" * 5001},
        {"background": "yes"},
        {"stream": True},
    ],
)
def test_an_invalid_body_is_refused_and_the_field_named(start, fields):
    """422 with `details.fields`, and no job."""
    caller = start()
    reply = caller.create(**fields)

    assert error_of(reply) == (422, "VALIDATION_ERROR")
    assert reply.json()["error"]["details"]["fields"][0]["field"].startswith(next(iter(fields)))
    assert caller.api.counts.jobs == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(start, body):
    """400, and the connection lives on."""
    caller = start()

    assert error_of(caller.call("POST", PATH, data=body)) == (400, "BAD_REQUEST")
    assert caller.create().status_code == 200


def test_unknown_routes_and_methods_get_the_frameworks_own_bodies(start):
    """E4 without a `success` key, and without a look at the key."""
    caller = start()
    nowhere = caller.call("GET", "/v1/responses", headers={"Authorization": None})
    wrong = caller.call("PUT", PATH)

    assert (nowhere.status_code, nowhere.json()) == (404, {"detail": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})
    assert wrong.headers["Allow"] == "POST"


def test_a_rotated_key_is_refused_in_mid_life_and_the_new_one_finds_the_response(start):
    """The job lives on behind the 401."""
    caller = start()
    response_id = caller.create().json()["id"]
    caller.api.rotate_key("fresh")
    old = caller.retrieve(response_id, headers={"Authorization": "Bearer stale"})
    new = caller.retrieve(response_id, headers={"Authorization": "Bearer fresh"})

    assert error_of(old)[0] == 401
    assert new.json()["status"] in ("queued", "in_progress")


# Limits


def test_more_than_the_burst_at_once_is_refused_until_tokens_are_back(start):
    """120 at once, then one every 0.6 s; each refusal is counted and says when."""
    caller = start(per_minute=100, per_day=None)
    good = [caller.retrieve("resp_x").status_code for _ in range(120)]
    refused = caller.retrieve("resp_x")
    caller.api.clock.advance(0.6)
    again = caller.retrieve("resp_x")

    assert set(good) == {404}
    assert error_of(refused) == (429, "RATE_LIMIT_EXCEEDED")
    assert refused.headers["Retry-After"] == refused.headers["X-RateLimit-Retry-After"] == "1"
    assert again.status_code == 404
    assert caller.api.counts.over_limit == 1


def test_the_day_has_a_limit_of_its_own(start):
    """The oldest request of the day makes room, 24 hours later."""
    caller = start(per_minute=None, per_day=2)
    codes = [caller.retrieve("resp_x").status_code for _ in range(3)]
    caller.api.clock.advance(86_400)

    assert codes == [404, 404, 429]
    assert caller.retrieve("resp_x").status_code == 404


# Idempotency


def test_an_idempotency_key_means_nothing_unless_asked_for(start):
    """The real service documents none here, so two creates are two jobs; both are counted under the key."""
    caller = start()
    ids = {caller.create(headers={"Idempotency-Key": "k1"}).json()["id"] for _ in range(2)}

    assert len(ids) == 2
    assert caller.api.counts.submits == {"k1": 2}


def test_an_honoured_idempotency_key_replays_for_a_day_and_refuses_another_payload(start):
    """The semantics of the dictation endpoint."""
    caller = start(honour_idempotency=True)
    headers = {"Idempotency-Key": "k1"}
    first, second = (caller.create(headers=headers).json()["id"] for _ in range(2))
    other = caller.create("Another prompt", headers=headers)
    caller.api.clock.advance(86_400)

    assert first == second
    assert error_of(other) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert caller.create(headers=headers).json()["id"] != first


# Profiles


def test_the_get_status_profile_speaks_camel_case_and_wants_the_organization(start):
    """`processing`, `progress` and nullable times, as on that page."""
    caller = start(profile="get-status", durations=Constant(10), queue_seconds=0)
    bare = caller.create()
    response_id = caller.create(organization_id="org_1").json()["id"]
    query = {"params": {"organizationId": "org_1"}}
    caller.api.clock.advance(5)
    running = caller.retrieve(response_id, **query).json()
    caller.api.clock.advance(5)
    ended = caller.retrieve(response_id, **query).json()

    assert bare.status_code == 422
    assert caller.retrieve(response_id).status_code == 422
    assert (running["status"], running["completedAt"]) == ("processing", None)
    assert (running["progress"]["percentage"], running["progress"]["stage"]) == (50, "generating")
    assert (ended["status"], ended["progress"]["percentage"]) == ("completed", 100)
    assert ended["completedAt"] - ended["createdAt"] == 10
    assert "created_at" not in ended


def test_the_current_profile_ignores_background_and_has_nothing_to_poll(start):
    """Another key header, another message shape, another body, no GET route."""
    caller = start(profile="current", durations=Constant(0))
    caller.session.headers["X-API-Key"] = caller.api.key
    inputs = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    body = caller.create(inputs=inputs).json()
    missing = caller.retrieve(body["response_id"])

    assert caller.create().json()["error"]["details"]["fields"][0]["field"] == "inputs[0].content"
    assert caller.create(headers={"X-API-Key": None}).status_code == 401
    assert body["success"] is True
    assert body["response"][0]["text"].startswith("Here is a detailed article about AI")
    assert not {"id", "status"} & set(body)
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    assert error_of(caller.call("POST", f"{PATH}/{body['thread_id']}/cancel")) == (404, "RESOURCE_NOT_FOUND")
    assert "text" in caller.call("GET", f"{PATH}/output-modes").json()["output_modes"]
    assert "high" in caller.call("GET", f"{PATH}/reasoning-levels").json()["reasoning_levels"]


def test_the_strict_profile_refuses_the_background_field(start):
    """The 422 names it."""
    caller = start(profile="strict")
    reply = caller.create()

    assert error_of(reply) == (422, "VALIDATION_ERROR")
    assert "background" in reply.json()["error"]["message"]


# Faults: no reply, late replies, odd bytes


@pytest.mark.parametrize(("fault", "jobs"), [("reset_before", 0), ("reset_after", 1)])
def test_a_reset_loses_the_reply_with_or_without_the_job(start, fault, jobs):
    """`reset_after` is the case that makes duplicates."""
    caller = start(f"{fault}@first=1@method=POST")

    with pytest.raises(requests.ConnectionError):
        caller.create()

    assert caller.api.counts.jobs == jobs
    assert caller.create().status_code == 200


@pytest.mark.parametrize(("fault", "jobs"), [("hang", 0), ("hang_after", 1)])
def test_a_hanging_call_ends_with_the_clients_timeout(start, fault, jobs):
    """The connection stays open and silent."""
    caller = start(fault)

    with pytest.raises(requests.ReadTimeout):
        caller.create(timeout=0.2)

    assert caller.api.counts.jobs == jobs


def test_a_delayed_call_is_answered_in_the_end(start):
    """A read timeout shorter than the delay sees nothing; the job was made all the same."""
    caller = start("delay=0.4@nth=1@method=GET", "delay=0@method=POST")
    response_id = caller.create().json()["id"]

    with pytest.raises(requests.ReadTimeout):
        caller.retrieve(response_id, timeout=0.1)

    assert caller.retrieve(response_id).status_code == 200


def test_a_cut_reply_breaks_off_in_the_body(start):
    """More was announced than arrived."""
    caller = start("cut@first=1@method=GET")
    response_id = caller.create().json()["id"]

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        caller.retrieve(response_id)

    assert caller.retrieve(response_id).status_code == 200


def test_a_slow_loris_reply_comes_one_byte_at_a_time_and_stop_does_not_wait_for_it(start):
    """One byte, then silence for longer than anyone waits; leaving the test ends it."""
    caller = start("slow_loris=3600")
    address = urlsplit(caller.api.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as client:
        client.sendall(f"GET {PATH}/x HTTP/1.1\r\nAuthorization: Bearer k\r\n\r\n".encode())
        first = client.recv(100)
        client.settimeout(0.1)

        assert first == b"H"
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_huge_body_is_announced_and_sent(start):
    """Valid JSON at its front, blanks behind."""
    caller = start("huge=300000@method=GET")
    reply = caller.retrieve(caller.create().json()["id"])

    assert int(reply.headers["Content-Length"]) == len(reply.content) > 300_000
    assert reply.json()["status"] == "in_progress"


@pytest.mark.parametrize(
    ("fault", "status", "start_of_text"),
    [
        ("html", 200, "<html>"),
        ("html=502", 502, "<html>"),
        ("empty", 200, ""),
        ("text=504", 504, "Something"),
    ],
)
def test_some_replies_are_not_json(start, fault, status, start_of_text):
    """As a proxy or a firewall answers."""
    reply = start(fault).create()

    assert reply.status_code == status
    assert reply.text.startswith(start_of_text)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        reply.json()


def test_a_page_of_another_server_can_be_truncated_as_well(start):
    """Faults go together in any way."""
    reply = start("truncated", "html=502").create()

    assert reply.status_code == 502
    assert reply.content.startswith(b"<html>")
    assert not reply.content.rstrip().endswith(b"</html>")


def test_a_truncated_body_looks_whole_and_does_not_parse(start):
    """Content-Length agrees with what is left."""
    caller = start("truncated")
    reply = caller.create()

    assert reply.content.startswith(b'{"id": "resp_')
    with pytest.raises(requests.exceptions.JSONDecodeError):
        reply.json()


# Faults: refusals


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("status", 500),
        ("status=502", 502),
        ("status=408", 408),
        ("503_long", 503),
        ("401", 401),
        ("410@method=POST", 410),
    ],
)
def test_a_refused_call_gets_the_usual_error_body_and_makes_no_job(start, fault, status):
    """E1, whatever the status."""
    caller = start(fault)

    assert error_of(caller.create())[0] == status
    assert caller.api.counts.jobs == 0
    assert list(caller.api.counts.faults.values()) == [1]


def test_a_long_503_says_to_come_back_in_more_than_a_minute(start):
    """Longer than most clients cut a Retry-After to."""
    assert start("503_long").create().headers["Retry-After"] == "90"
    assert start("503_long=300").create().headers["Retry-After"] == "300"


@pytest.mark.parametrize(
    ("hint", "found"),
    [
        ("retry-after:7", lambda reply, _: float(reply.headers["Retry-After"])),
        (
            "http-date:7",
            lambda reply, now: parsedate_to_datetime(reply.headers["Retry-After"]).timestamp() - now,
        ),
        ("plan:7", lambda reply, now: float(reply.headers["X-RateLimit-Reset"]) - now),
        ("plan:7", lambda reply, _: float(reply.headers["X-RateLimit-Retry-After"])),
        ("openai:7", lambda reply, _: float(reply.headers["x-ratelimit-reset-requests"].rstrip("s"))),
        ("body:7", lambda reply, _: reply.json()["error"]["retry_after"]),
        ("details:7", lambda reply, _: reply.json()["error"]["details"]["retry_after"]),
    ],
)
def test_a_429_says_when_to_come_back_in_one_way_only(start, hint, found):
    """Each family of hints alone, even where a plan would add its own headers."""
    caller = start(f"429={hint}", per_minute=100)
    reply = caller.create()
    hints = [name for name in reply.headers if name.lower().startswith(("retry-after", "x-ratelimit"))]

    assert reply.status_code == 429
    assert found(reply, caller.api.clock.now()) == 7
    assert len(hints) <= (2 if hint.startswith("plan") else 1)
    assert caller.api.counts.over_limit == 0


@pytest.mark.parametrize(
    ("hint", "code"), [("none", "RATE_LIMIT_EXCEEDED"), ("spend", "USAGE_LIMIT_EXCEEDED")]
)
def test_a_429_may_give_no_hint(start, hint, code):
    """The spending cap is told by its words alone."""
    reply = start(f"429={hint}", per_minute=100).create()

    assert error_of(reply) == (429, code)
    assert "retry" not in " ".join(reply.headers).lower()
    assert ("CHF" in reply.text) == (hint == "spend")


def test_the_first_polls_can_find_nothing(start):
    """`404=2`: a response not yet known everywhere."""
    caller = start("404=2")
    response_id = caller.create().json()["id"]
    codes = [caller.retrieve(response_id).status_code for _ in range(3)]

    assert codes == [404, 404, 200]


def test_the_first_cancel_can_fail_and_the_next_succeed(start):
    """Cancels are counted for each response, as polls are."""
    caller = start("status=503@first=1@method=DELETE")
    response_id = caller.create().json()["id"]

    assert [caller.cancel(response_id).status_code for _ in range(2)] == [503, 200]


def test_a_fault_spoils_a_refusal_too(start):
    """The refusal of an invalid body can be lost like any other reply."""
    caller = start("reset_after@first=1")

    with pytest.raises(requests.ConnectionError):
        caller.create(inputs=[])
    assert caller.create(inputs=[]).status_code == 422


def test_a_response_can_be_gone_for_good(start):
    """`404` without a number, `410`, and a route that never was."""
    lost, gone, unrouted = start("404"), start("410"), start("route_404")
    replies = [caller.retrieve(caller.create().json()["id"]) for caller in (lost, gone, unrouted)]

    assert error_of(replies[0]) == (404, "RESOURCE_NOT_FOUND")
    assert error_of(replies[1]) == (410, "RESOURCE_GONE")
    assert replies[2].json() == {"detail": "Not Found"}


def test_one_worker_of_two_may_not_know_a_response(start):
    """Every second poll finds it."""
    caller = start("404_half")
    response_id = caller.create().json()["id"]

    assert [caller.retrieve(response_id).status_code for _ in range(4)] == [404, 200, 404, 200]


def test_error_bodies_come_in_all_shapes_and_some_repeat_what_they_were_sent(start):
    """E2, E3 with the prompt, E5 with the key, E6, and an E1 with both."""
    replies = {name: start(name).create() for name in ("E2", "E3", "E5", "E6", "echo")}
    keys = {
        name: reply.request.headers["Authorization"].removeprefix("Bearer ")
        for name, reply in replies.items()
    }

    assert set(replies["E2"].json()) == {"detail", "status_code", "error_type", "meta", "errors"}
    assert replies["E3"].json()["detail"][0]["input"] == PROMPT
    assert (replies["E5"].status_code, keys["E5"] in replies["E5"].text) == (401, True)
    assert isinstance(replies["E6"].json()["error"], str)
    assert keys["echo"] in replies["echo"].text
    assert PROMPT in replies["echo"].text


def test_a_redirect_points_to_another_host(start):
    """A client that follows it hands its key to a stranger."""
    elsewhere = start()
    reply = start(f"redirect={elsewhere.api.url}").create()

    assert (reply.status_code, reply.headers["Location"]) == (307, elsewhere.api.url + PATH)


# Faults: odd lives and odd bodies


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("stuck=queued", ["queued", "queued", "queued"]),
        ("stuck", ["queued", "in_progress", "in_progress"]),
        ("unknown_status", ["thinking", "thinking", "completed"]),
        ("unknown_status=warming_up@first=1", ["warming_up", "in_progress", "completed"]),
        ("backwards", ["in_progress", "queued", "completed"]),
        ("uppercase", ["QUEUED", "IN_PROGRESS", "COMPLETED"]),
        ("canceled", ["queued", "in_progress", "canceled"]),
        ("cancelled", ["queued", "in_progress", "cancelled"]),
        ("incomplete", ["queued", "in_progress", "incomplete"]),
        ("expired", ["queued", "in_progress", "expired"]),
        ("ends=evaporated", ["queued", "in_progress", "evaporated"]),
    ],
)
def test_a_response_can_show_any_status(start, fault, expected):
    """What a client that knows five words must survive."""
    caller = start(fault, durations=AfterPolls(2))
    response_id = caller.create().json()["id"]

    assert statuses(caller, response_id, 3) == expected


def test_a_cancelled_response_can_complete_all_the_same(start):
    """Cancelling is a request, not a fact."""
    caller = start("cancel_race", durations=Constant(10))
    response_id = caller.create().json()["id"]
    caller.cancel(response_id)
    first = statuses(caller, response_id, 1)
    caller.api.clock.advance(10)

    assert first == ["cancelled"]
    assert statuses(caller, response_id, 1) == ["completed"]


@pytest.mark.parametrize(("fault", "output"), [("empty_output", []), ("no_output", None)])
def test_a_completed_response_can_be_without_an_answer(start, fault, output):
    """An empty list, or no field at all and no usage."""
    caller = start(fault, durations=AfterPolls(0))
    body = caller.retrieve(caller.create().json()["id"]).json()

    assert body["status"] == "completed"
    assert body.get("output") == output
    assert ("usage" in body) == (fault == "empty_output")


@pytest.mark.parametrize(
    ("form", "check"),
    [
        ("object", lambda body: set(body["error"]) == {"message", "code", "type"}),
        ("string", lambda body: isinstance(body["error"], str)),
        ("null", lambda body: body["error"] is None),
        ("absent", lambda body: "error" not in body),
        ("echo", lambda body: PROMPT in body["error"]["message"]),
    ],
)
def test_a_failed_responses_error_comes_in_any_form(start, form, check):
    """HTTP 200 each time."""
    caller = start(f"failed={form}", durations=AfterPolls(0))
    reply = caller.retrieve(caller.create().json()["id"])

    assert (reply.status_code, reply.json()["status"]) == (200, "failed")
    assert check(reply.json())


def test_ids_and_codes_of_good_replies_can_be_unusual(start):
    """`response_id`, 202, and another id at the end."""
    caller = start("response_id", "202", "new_id", durations=AfterPolls(0))
    reply = caller.create()
    response_id = reply.json()["response_id"]
    ended = caller.retrieve(response_id).json()

    assert reply.status_code == 202
    assert "id" not in reply.json()
    assert ended["id"] != response_id


def test_a_skewed_clock_shows_in_bodies_and_date(start):
    """An hour ahead of everybody else."""
    caller = start("skew=3600")
    reply = caller.create()
    now = caller.api.clock.now()

    assert reply.json()["created_at"] - now == 3600
    assert parsedate_to_datetime(reply.headers["Date"]).timestamp() - now == 3600


def mixed_run(caller, responses=100):
    """Submit and poll five hundred times under mixed faults; return what happened to each prompt's calls."""
    seen = {}
    for number in range(responses):
        prompt = f"Prompt {number}"
        codes = seen[prompt] = []
        while (reply := caller.create(prompt)).status_code != 200:
            codes.append(reply.status_code)
        codes += [caller.retrieve(reply.json()["id"]).status_code for _ in range(4)]
    return seen


MIXED = ("status=503@p=0.1", "429@p=0.05", "E2=500@p=0.05@method=GET", "failed@jobs=0.1")


def test_mixed_faults_are_the_same_for_the_same_seed(start):
    """A fifth of the calls goes wrong, and the same fifth each time, although ids differ."""
    one, two, other = (mixed_run(start(*MIXED, seed=seed)) for seed in (1, 1, 2))
    codes = [code for each in one.values() for code in each]
    share = sum(code != 200 for code in codes) / len(codes)

    assert one == two != other
    assert 0.1 < share < 0.3


def test_durations_follow_from_seed_and_prompt_not_from_order(start):
    """Two callers submit the same prompts in opposite orders and get the same durations."""
    prompts = [f"Prompt {number}" for number in range(20)]
    found = []
    for order in (prompts, prompts[::-1]):
        caller = start(durations=LogNormal(60, 0.5), seed=7)
        for prompt in order:
            caller.create(prompt)
        caller.api.clock.advance(1800)
        found.append({job.prompt_sha256: job.duration for job in caller.api.jobs()})

    assert found[0] == found[1]
    assert len(set(found[0].values())) == 20


# What the emulator saw


def test_counts_tell_what_was_called_and_how_often(start):
    """In Python and over HTTP alike; the control endpoint itself is not counted."""
    caller = start()
    response_id = caller.create(headers={"Idempotency-Key": "k1"}).json()["id"]
    caller.retrieve(response_id)
    caller.retrieve(response_id)
    caller.cancel("resp_nobody")
    counts = caller.api.counts

    assert (counts.posts, counts.gets, counts.deletes, counts.jobs) == (1, 2, 1, 1)
    assert counts.polls == {response_id: 2}
    assert caller.control("GET", "counts").json() == {
        "posts": 1,
        "gets": 2,
        "deletes": 1,
        "jobs": 1,
        "over_limit": 0,
        "faults": {},
        "polls": {response_id: 2},
        "submits": {"k1": 1},
    }


def test_jobs_show_times_and_a_digest_and_never_the_prompt(start):
    """Enough to measure latency by."""
    caller = start(durations=Constant(10), queue_seconds=4)
    caller.create()
    caller.api.clock.advance(5)
    running = caller.api.jobs()[0]
    caller.api.clock.advance(5)
    reply = caller.control("GET", "jobs")
    ended = reply.json()["jobs"][0]

    assert (running.status, running.duration, running.started_at - running.created_at) == (
        "in_progress",
        None,
        4,
    )
    assert (ended["status"], ended["duration"]) == ("completed", 10)
    assert ended["prompt_sha256"] == sha256(PROMPT.encode()).hexdigest()
    assert PROMPT not in reply.text


def test_requests_are_kept_without_their_keys(start):
    """The line and the headers, the key redacted."""
    caller = start()
    caller.create()
    reply = caller.control("GET", "requests")
    record = reply.json()["requests"][0]

    assert (record["method"], record["path"]) == ("POST", PATH)
    assert record["headers"]["authorization"] == "Bearer [redacted]"
    assert caller.api.key not in reply.text
    assert len(caller.api.requests()) == 1


def test_the_control_endpoint_steers(start):
    """Clock, faults, key and reset, and an error that lists what there is."""
    caller = start(durations=Constant(60))
    response_id = caller.create().json()["id"]
    moved = caller.control("POST", "clock", {"advance": 60})
    ended = caller.retrieve(response_id).json()["status"]
    put_in = caller.control("POST", "faults", {"faults": ["429=spend@p=0.5@method=POST,GET", "404=3"]})
    listed = caller.control("GET", "faults")
    bad = caller.control("POST", "faults", {"faults": ["nonsense"]})
    caller.control("POST", "faults", {"faults": []})
    caller.control("POST", "key", {"key": "fresh"})
    locked_out = caller.create().status_code
    caller.control("POST", "reset")

    assert moved.json()["now"] == caller.api.clock.now()
    assert ended == "completed"
    assert put_in.json() == listed.json() == {"faults": ["429=spend@method=POST,GET@p=0.5", "404@first=3"]}
    assert (bad.status_code, "no fault is called" in bad.text) == (422, True)
    assert locked_out == 401
    assert (caller.api.counts.posts, caller.api.jobs()) == (0, ())
    assert "POST /__emulator__/clock" in caller.control("GET", "elsewhere").text
    assert caller.control("POST", "clock", {}).status_code == 422
    assert caller.control("GET", "").json()["profile"] == "bg"


def test_ended_responses_are_logged_as_a_trace_that_can_be_replayed(tmp_path, start):
    """Once each, whether someone looked or not; the file is a source of durations."""
    path = tmp_path / "jobs.jsonl"
    with Emulator(Options(**PLAIN | {"durations": parse_durations("list:3,5"), "log_path": path})) as api:
        caller = Caller(api)
        first = caller.create().json()["id"]
        caller.create()
        api.clock.advance(10)
        caller.retrieve(first)
        caller.retrieve(first)
        caller.session.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    assert [line["duration"] for line in lines] == [3, 5]
    assert parse_durations(f"trace:{path}") == parse_durations("list:3,5")


# The server itself


def test_a_stopped_emulator_refuses_and_comes_back_with_its_jobs(start):
    """An outage: same address, same responses."""
    caller = start()
    response_id = caller.create().json()["id"]
    caller.api.stop()

    with pytest.raises(requests.ConnectionError):
        caller.retrieve(response_id)
    caller.api.start()
    assert caller.retrieve(response_id).status_code == 200


def test_connections_are_kept_alive_and_requests_may_be_pipelined(start):
    """Two requests in one packet, two replies on one connection, chunked and large bodies too."""
    caller = start()
    address = urlsplit(caller.api.url)
    body = json.dumps({"background": True, "inputs": [{"role": "user", "texts": [{"text": "x" * 200_000}]}]})
    ask = f"GET {PATH}/x HTTP/1.1\r\nAuthorization: Bearer k\r\n\r\n".encode()
    with socket.create_connection((address.hostname, address.port), timeout=10) as client:
        client.sendall(ask + ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        with client.makefile("rb") as stream:
            replies = stream.read()

    assert replies.count(b"HTTP/1.1 404") == 2
    assert caller.call("POST", PATH, data=iter([body[:7].encode(), body[7:].encode()])).status_code == 200


@pytest.mark.parametrize(
    "rubbish",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"x" * 70_000,
    ],
)
def test_rubbish_is_answered_with_400(start, rubbish):
    """And the connection is closed."""
    address = urlsplit(start().api.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as client:
        client.sendall(rubbish)
        with client.makefile("rb") as stream:
            reply = stream.read()

    assert reply.startswith(b"HTTP/1.1 400 ")


def test_a_defect_of_the_emulator_is_raised_in_the_test(start):
    """A 500 that nobody asked for must not pass for a fault."""

    def broken(prompt):
        raise ZeroDivisionError

    api = Emulator(Options(**PLAIN | {"answer": broken})).start()
    caller = Caller(api)
    reply = caller.create()
    caller.session.close()

    assert reply.status_code == 500
    with pytest.raises(ZeroDivisionError):
        api.stop()


def test_many_threads_may_call_at_once(start):
    """Nothing is lost or counted twice."""
    caller = start()

    def work():
        with requests.Session() as session:
            session.headers["Authorization"] = "Bearer k"
            own = Caller.__new__(Caller)
            own.api, own.session = caller.api, session
            for _ in range(10):
                own.retrieve(own.create().json()["id"])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (caller.api.counts.posts, caller.api.counts.gets, caller.api.counts.jobs) == (80, 80, 80)
    assert set(caller.api.counts.polls.values()) == {1}


def test_serve_runs_until_terminated(tmp_path):
    """SIGTERM ends it in good order; `ready` knows the address."""

    def stop(api):
        seen.append(requests.get(f"{api.url}/__emulator__/", timeout=10).json()["profile"])
        os.kill(os.getpid(), signal.SIGTERM)

    seen = []
    before = signal.getsignal(signal.SIGTERM)
    serve(port=0, options=Options(**PLAIN), ready=stop)

    assert seen == ["bg"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_pytest_plugin_gives_a_running_emulator(tmp_path):
    """A marked test chooses the options; the mark is known to --strict-markers."""
    (tmp_path / "test_it.py").write_text(
        "import pytest, urllib.request\n"
        "@pytest.mark.freddy_emulator(profile='strict', faults=('404=2',))\n"
        "def test_it(freddy_emulator):\n"
        "    assert freddy_emulator.options.profile == 'strict'\n"
        "    assert str(freddy_emulator.faults[0]) == '404@first=2'\n"
        "    assert urllib.request.urlopen(freddy_emulator.url + '/__emulator__/counts').status == 200\n"
    )
    plugin = "freddy_tasks.emulator.pytest_plugin"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", plugin, "test_it.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "1 passed" in run.stdout, run.stdout


def test_a_scaled_clock_shortens_real_waiting(start):
    """Half an hour of the service within one test."""
    caller = start(durations=Constant(1800), time_scale=1e6)
    response_id = caller.create().json()["id"]
    while (status := caller.retrieve(response_id).json()["status"]) in ("queued", "in_progress"):
        pass

    assert status == "completed"
    assert Clock(10).real_seconds(60) == 6
