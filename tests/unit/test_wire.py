"""Requests out, replies in: every known shape, and any other."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freddy_tasks import wire
from freddy_tasks.errors import InvalidRequest
from freddy_tasks.models import CallFailed, FailureKind, Request, Response, ResponseResult, Seen, Status
from freddy_tasks.redaction import HIDDEN, one_line, texts_of

KEY = "oak_live_0123456789abcdef"
PROMPT = "Tell me a long story about the river and its seven bridges."
TEXT = "Once there was a river."
READERS = {"POST": wire.read_created, "GET": wire.read_retrieved, "DELETE": wire.read_cancelled}

R1 = {
    "id": "resp_1",
    "status": "completed",
    "created_at": 1_741_476_542,
    "completed_at": 1_741_476_642,
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]}],
    "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
}
R2 = {
    "success": True,
    "thread_id": "thread_1",
    "response": [{"type": "text", "text": TEXT}],
    "response_id": "resp_1",
    "stop_reason": "end_turn",
}
R3 = {
    "id": "resp_1",
    "object": "response",
    "createdAt": 1_741_476_542,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finishReason": "stop"}],
}
R4 = {
    "id": "resp_1",
    "createdAt": "2025-03-08T23:29:02Z",
    "status": "completed",
    "output": [{"id": "m", "type": "message", "status": "completed", "role": "assistant", "content": TEXT}],
}
EVENTS = [
    {"event": "thread.message.delta", "isResponse": True, "response": "Once"},
    {"event": "thread.run.step", "isResponse": False, "response": "thinking"},
    {"event": "thread.message.completed", "isResponse": True, "response": TEXT},
    {"event": "done", "isResponse": True, "response": None},
]
R5 = {"success": True, "data": EVENTS}

E1 = {
    "success": False,
    "error": {
        "code": "RESOURCE_NOT_FOUND",
        "message": "Response not found",
        "system_message": "no row",
        "type": "client_error",
        "details": {},
        "trace_id": "trace-1",
    },
}
E2 = {
    "detail": "Bad input",
    "status_code": 422,
    "error_type": "validation_error",
    "meta": {"request_id": "req-2"},
    "errors": [{"field": "model", "message": "unknown model", "code": "X"}],
}
E3 = {"detail": [{"loc": ["body", "temperature"], "msg": "must be at most 1", "type": "value_error"}]}
E4 = {"detail": "Not Found"}
E5 = {"title": "Unauthorized", "message": f"Invalid headerApiKey: {KEY}."}
E6 = {"error": "boom"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KNOWN = """
    id response_id status created_at createdAt completed_at startedAt progress percentage output response
    choices data message content text type role error code details fields detail loc msg meta errors field
    success usage isResponse retry_after incomplete_details reason request_id trace_id
"""
bodies = st.recursive(
    json_values | st.sampled_from(["completed", "failed", "message", "output_text", "assistant", True, TEXT]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KNOWN.split()), inner, max_size=6)
    ),
    max_leaves=25,
)


def read(call: str, body: object, status: int = 200, **headers: str) -> Seen:
    """Read a body, given as JSON or as bytes, as the reply to a call."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return READERS[call](status, raw, headers, secrets=[KEY, PROMPT])


def response(call: str, body: object, status: int = 200, **headers: str) -> Response:
    """The response that the reply must be."""
    seen = read(call, body, status, **headers)
    assert isinstance(seen, Response), seen
    return seen


def failure(call: str, body: object, status: int, **headers: str) -> CallFailed:
    """The failure that the reply must be."""
    seen = read(call, body, status, **headers)
    assert isinstance(seen, CallFailed), seen
    return seen


class TestRequests:
    """What may be sent, and how it is put."""

    @pytest.mark.parametrize(
        ("prompt", "fields", "words"),
        [
            ("", {}, "empty"),
            (" \n", {}, "empty"),
            ([], {}, "empty list"),
            (None, {}, "NoneType"),
            ({"role": "user"}, {}, "dict"),
            (["secret words"], {}, "Message 0 is str"),
            ([{"role": "user"}, {"content": "secret words"}], {}, "Message 1 has no `role`"),
            ([{"role": 5}], {}, "no `role`"),
            ([{"role": "user", "content": {"secret words"}}], {}, "set is not JSON"),
            ("Hi", {"stream": True}, "`stream`"),
            ("Hi", {"background": False}, "`background`"),
            ("Hi", {"inputs": []}, "`inputs`"),
            ("Hi", {"model": "m"}, "`model`"),
            ("Hi", {"metadata": {"when": object()}}, "`metadata` is not JSON"),
            ("Hi", {"temperature": float("nan")}, "`temperature` is not JSON"),
            ("Hi", {3: 4}, "int"),
        ],
    )
    def test_request_that_cannot_be_sent_is_refused(
        self, prompt: object, fields: dict[Any, Any], words: str
    ) -> None:
        """Before anything is paid for, and without repeating the prompt."""
        with pytest.raises(InvalidRequest) as raised:
            wire.check_request(prompt, fields)

        assert words in str(raised.value)
        assert "secret words" not in str(raised.value)

    @pytest.mark.parametrize(
        "prompt", ["Hi", [{"role": "user", "content": "Hi", "files": [{"fileId": "f"}]}]]
    )
    def test_sound_request_passes(self, prompt: object) -> None:
        """Unknown fields are the server's business."""
        wire.check_request(prompt, {"temperature": 0.5, "brand_new": {"a": [None]}})

    def test_request_that_holds_itself_is_refused(self) -> None:
        """JSON has no circles."""
        circle: list[Any] = []
        circle.append(circle)

        with pytest.raises(InvalidRequest, match="`tools`"):
            wire.check_request("Hi", {"tools": circle})

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ("texts", {"role": "user", "texts": [{"text": "Hi"}]}),
            ("content", {"role": "user", "content": "Hi"}),
        ],
    )
    def test_text_becomes_one_message_of_the_shape(self, shape: Any, message: object) -> None:
        """The two generations of the API differ in one switch."""
        body = wire.create_body(Request("Hi", "gpt-4.1"), shape=shape, organization_id=None)

        assert body == {"model": "gpt-4.1", "background": True, "inputs": [message]}

    def test_messages_and_fields_go_untouched(self) -> None:
        """A list is the caller's own wire format; so are the fields."""
        messages = [{"role": "user", "texts": [{"text": "Hi"}], "images": [{"fileId": "f"}]}]

        body = wire.create_body(
            Request(messages, "m", {"tools": [{"x": 1}]}), shape="content", organization_id="org_1"
        )

        assert body == {
            "organization_id": "org_1",
            "model": "m",
            "tools": [{"x": 1}],
            "background": True,
            "inputs": messages,
        }


class TestStatuses:
    """Every status word, in every spelling."""

    @pytest.mark.parametrize(
        ("word", "status"),
        [
            ("queued", Status.QUEUED),
            ("pending", Status.QUEUED),
            ("in_progress", Status.IN_PROGRESS),
            ("processing", Status.IN_PROGRESS),
            ("requires_action", Status.IN_PROGRESS),
            ("cancelling", Status.IN_PROGRESS),
            ("completed", Status.COMPLETED),
            ("failed", Status.FAILED),
            ("cancelled", Status.CANCELLED),
            ("canceled", Status.CANCELLED),
            ("incomplete", Status.INCOMPLETE),
            ("expired", Status.EXPIRED),
            ("COMPLETED", Status.COMPLETED),
            ("inProgress", Status.IN_PROGRESS),
            ("In-Progress", Status.IN_PROGRESS),
            (" Queued ", Status.QUEUED),
            ("thinking_hard", Status.UNKNOWN),
            ("完了", Status.UNKNOWN),
        ],
    )
    def test_word_is_understood_and_kept(self, word: str, status: Status) -> None:
        """The status is ours, the word the API's."""
        seen = response("GET", {"id": "r", "status": word})

        assert (seen.status, seen.word) == (status, word.strip())

    def test_both_dialects_tell_the_same(self) -> None:
        """Snake case and camel case, seconds and ISO 8601."""
        snake = {"created_at": 1_741_476_542, "started_at": 1_741_476_550.5, "completed_at": None}
        camel = {
            "createdAt": "2025-03-08T23:29:02Z",
            "startedAt": "2025-03-09T00:29:10.500+01:00",
            "completedAt": None,
            "progress": {"percentage": 45, "stage": "generating"},
        }

        one = response("GET", {"id": "r", "status": "in_progress"} | snake)
        other = response("GET", {"id": "r", "status": "processing"} | camel)

        assert (one.created_at, one.started_at, one.completed_at) == (1_741_476_542, 1_741_476_550.5, None)
        assert (other.created_at, other.started_at) == (one.created_at, one.started_at)
        assert (one.progress, other.progress) == (None, 0.45)

    @pytest.mark.parametrize(
        ("raw", "moment"),
        [
            ("1741476542", 1_741_476_542),
            (1_741_476_542_000, 1_741_476_542),
            ("2025-03-08T23:29:02", 1_741_476_542),
            (True, None),
            (-1, None),
            ("soon", None),
            ([], None),
            (10**400, None),
            ("nan", None),
        ],
    )
    def test_odd_moments_are_read_or_left_out(self, raw: object, moment: float | None) -> None:
        """Digits, milliseconds, no zone; nonsense is None."""
        assert response("GET", {"status": "queued", "created_at": raw}).created_at == moment

    @pytest.mark.parametrize(
        ("progress", "share"),
        [
            ({"percentage": 140}, 1),
            ({"percentage": -3}, 0),
            ({"percentage": "5"}, None),
            (0.5, None),
            ([], None),
        ],
    )
    def test_progress_is_a_share(self, progress: object, share: float | None) -> None:
        """0 to 1, or unknown."""
        assert response("GET", {"status": "queued", "progress": progress}).progress == share


class TestSubmitted:
    """Replies to the POST."""

    @pytest.mark.parametrize("status", [200, 201, 202])
    @pytest.mark.parametrize(
        "body",
        [
            {"id": "resp_1", "status": "queued", "created_at": 1_741_476_542},
            {"response_id": "resp_1", "status": "queued"},
            {"responseId": "resp_1"},
            {"id": None, "response_id": "resp_1", "status": None},
        ],
    )
    def test_accepted_request_is_queued(self, status: int, body: object) -> None:
        """Any success, either name of the id, with or without a status."""
        seen = response("POST", body, status)

        assert (seen.id, seen.status, seen.word) == ("resp_1", Status.QUEUED, "queued")
        assert not seen.background_ignored

    @pytest.mark.parametrize(
        "body",
        [R1, R2, R3, R4, R5, EVENTS, {**R1, "status": None}],
        ids=["R1", "R2", "R3", "R4", "R5", "list", "bare"],
    )
    def test_finished_answer_means_that_background_was_ignored(self, body: object) -> None:
        """There is nothing to poll: it ran, was billed, and is here."""
        seen = response("POST", body)

        assert seen.background_ignored
        assert (seen.status, seen.word, seen.output_text) == (Status.COMPLETED, "completed", TEXT)

    def test_tool_call_is_an_answer_too(self) -> None:
        """A synchronous reply without text is still finished."""
        body = {"success": True, "response": [{"type": "tool_use", "name": "f"}], "response_id": "resp_1"}

        seen = response("POST", body)

        assert (seen.status, seen.output_text) == (Status.COMPLETED, "")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"  ",
            b"<html>ok</html>",
            b"{",
            b"\xff\xfe",
            b"[" * 100_000,
            {},
            [],
            5,
            {"status": "queued"},
            {"id": ""},
        ],
        ids=range(11),
    )
    def test_success_without_id_or_answer_leaves_the_outcome_unknown(self, body: object) -> None:
        """It may have been accepted; nobody can tell."""
        assert failure("POST", body, 200).kind is FailureKind.TRANSIENT

    def test_error_under_the_status_of_a_success_is_an_error(self) -> None:
        """Its own status is believed."""
        body = {"success": False, "error": {"code": "INVALID_API_KEY", "message": "no", "status": 401}}

        assert failure("POST", body, 200).kind is FailureKind.DENIED


class TestPolled:
    """Replies to the GET and the DELETE."""

    @pytest.mark.parametrize("body", [b"", b"<html>", {}, {"id": "resp_1"}, [], b'{"id": "resp_1", "sta'])
    def test_reply_without_status_is_transient(self, body: object) -> None:
        """Truncated or empty, the next poll may know more."""
        assert failure("GET", body, 200).kind is FailureKind.TRANSIENT

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            ({"message": "No GPU", "code": "model_error", "type": "server_error"}, "model_error", "No GPU"),
            ({"message": "No GPU", "type": "server_error"}, "server_error", "No GPU"),
            ({"code": 17}, "17", None),
            ("No GPU", None, "No GPU"),
            (None, None, None),
            ([], None, None),
        ],
    )
    def test_failed_response_tells_why_when_it_can(
        self, error: object, code: str | None, message: str | None
    ) -> None:
        """The error is an object, a string, null, or something else."""
        seen = response("GET", {"id": "r", "status": "failed", "error": error}, **{"X-Request-Id": "req-1"})

        assert (seen.error_code, seen.error_message, seen.request_id) == (code, message, "req-1")

    @pytest.mark.parametrize("name", ["incomplete_details", "incompleteDetails"])
    def test_incomplete_response_tells_its_reason(self, name: str) -> None:
        """In both dialects."""
        seen = response("GET", {"status": "incomplete", name: {"reason": "max_output_synapses"}})

        assert seen.error_code == "max_output_synapses"

    def test_error_of_a_response_is_redacted(self) -> None:
        """It is shown like any other of the server's texts."""
        seen = response(
            "POST", {"status": "failed", "error": {"message": f"bad {PROMPT} {KEY}", "code": KEY}, "id": 1}
        )

        assert (seen.error_message, seen.error_code) == (f"bad {HIDDEN} {HIDDEN}", HIDDEN)

    @pytest.mark.parametrize(
        ("message", "shown"),
        [
            ("The model can't finish this response.", "The model can't finish this response."),
            ("The model refused this prompt: my secret", "The model refused this prompt…"),
            ("Refused 'my secret'", "Refused…"),
            ('{"input": "my secret"}', "…"),
            ("Refused [my secret]", "Refused…"),
        ],
    )
    def test_poll_shows_no_text_that_may_quote_the_prompt(self, message: str, shown: str) -> None:
        """A poll does not know the prompt, so it cannot recognise an echo of it."""
        failed = failure("GET", {"error": {"code": "X", "message": message}}, 400)

        assert response("GET", {"status": "failed", "error": {"message": message}}).error_message == shown
        assert "my secret" not in failed.message

    @pytest.mark.parametrize("code", ["the prompt was my secret", "", " ", "a\nb"])
    def test_code_is_one_word(self, code: str) -> None:
        """Anything longer is prose, and may quote."""
        assert failure("GET", {"error": {"code": code, "message": "no"}}, 400).code is None

    @pytest.mark.parametrize(
        ("body", "status", "outcome"),
        [
            ({"id": "resp_1", "status": "cancelled", "cancelledAt": 5}, 200, Status.CANCELLED),
            ({"id": "resp_1", "status": "cancelling"}, 202, Status.IN_PROGRESS),
            ({"success": True}, 200, Status.CANCELLED),
            (b"", 204, Status.CANCELLED),
        ],
    )
    def test_granted_cancel_says_so(self, body: object, status: int, outcome: Status) -> None:
        """In words, or by its status alone."""
        assert response("DELETE", body, status).status is outcome


class TestErrors:
    """What an HTTP error means for the next step."""

    @pytest.mark.parametrize(
        ("status", "body", "posted", "got", "deleted"),
        [
            (301, b"", "UNSUPPORTED", "UNSUPPORTED", "UNSUPPORTED"),
            (400, E6, "REFUSED", "REFUSED", "REFUSED"),
            (401, E5, "DENIED", "DENIED", "DENIED"),
            (402, E6, "SPENDING_LIMIT", "SPENDING_LIMIT", "SPENDING_LIMIT"),
            (403, b"<html>", "DENIED", "DENIED", "DENIED"),
            (404, E1, "REFUSED", "NOT_FOUND", "NOT_FOUND"),
            (404, E4, "UNSUPPORTED", "UNSUPPORTED", "UNSUPPORTED"),
            (404, b"<html>404</html>", "UNSUPPORTED", "NOT_FOUND", "NOT_FOUND"),
            (405, {"detail": "Method Not Allowed"}, "UNSUPPORTED", "UNSUPPORTED", "UNSUPPORTED"),
            (408, b"", "TRANSIENT", "TRANSIENT", "TRANSIENT"),
            (409, E6, "TRANSIENT", "TRANSIENT", "CONFLICT"),
            (410, E6, "UNSUPPORTED", "GONE", "GONE"),
            (413, b"", "REFUSED", "REFUSED", "REFUSED"),
            (418, b"", "REFUSED", "REFUSED", "REFUSED"),
            (422, E2, "REFUSED", "REFUSED", "REFUSED"),
            (422, E3, "REFUSED", "REFUSED", "REFUSED"),
            (429, E6, "RATE_LIMITED", "RATE_LIMITED", "RATE_LIMITED"),
            (500, E6, "TRANSIENT", "TRANSIENT", "TRANSIENT"),
            (501, b"", "UNSUPPORTED", "UNSUPPORTED", "UNSUPPORTED"),
            (502, b"<html>", "TRANSIENT", "TRANSIENT", "TRANSIENT"),
            (503, b"", "TRANSIENT", "TRANSIENT", "TRANSIENT"),
            (504, E1, "TRANSIENT", "TRANSIENT", "TRANSIENT"),
            (999, b"", "TRANSIENT", "TRANSIENT", "TRANSIENT"),
        ],
    )
    def test_status_and_body_tell_the_kind(
        self, status: int, body: object, posted: str, got: str, deleted: str
    ) -> None:
        """One row for each status, one column for each call."""
        kinds = [failure(call, body, status).kind.name for call in READERS]

        assert kinds == [posted, got, deleted]

    @pytest.mark.parametrize(
        ("body", "code", "message", "request_id"),
        [
            (E1, "RESOURCE_NOT_FOUND", "Response not found", "trace-1"),
            (E2, "validation_error", "Bad input; model: unknown model", "req-2"),
            (E3, None, "body.temperature: must be at most 1", None),
            (E5, None, f"Invalid headerApiKey: {HIDDEN}", None),
            (E6, None, "boom", None),
            ({"message": "boom"}, None, "boom", None),
            (b"plain words", None, "plain words", None),
            (b"<html>words</html>", None, "", None),
            (b"", None, "", None),
        ],
        ids=["E1", "E2", "E3", "E5", "E6", "message", "text", "html", "empty"],
    )
    def test_every_shape_of_error_is_understood(
        self, body: object, code: str | None, message: str, request_id: str | None
    ) -> None:
        """Code, words and the id to quote, from whichever place they are in."""
        failed = failure("POST", body, 400)

        assert (failed.http_status, failed.code, failed.request_id) == (400, code, request_id)
        assert f"HTTP 400{f' {code}' if code else ''}{f': {message}' if message else ''}." in failed.message

    def test_header_names_the_request_before_the_body_does(self) -> None:
        """As the API's debugging page tells to quote it."""
        assert failure("GET", E1, 404, **{"x-request-id": "req-9"}).request_id == "req-9"

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"detail": [{"loc": ["body", "background"], "msg": "Extra inputs"}]}, "no background mode"),
            ({"error": {"message": "Extra inputs are not permitted: background"}}, "no background mode"),
            ({"detail": [{"loc": ["inputs", 0, "content"], "msg": "Field required"}]}, "SHAPE=content"),
            (
                {"detail": [{"loc": ["inputs", 0, "texts"], "msg": "Extra inputs are not permitted"}]},
                "SHAPE=content",
            ),
            ({"error": {"message": "Field required: inputs[0].content"}}, "SHAPE=content"),
            (
                {"error": {"message": "Invalid", "details": {"fields": {"inputs.0.content": "x"}}}},
                "SHAPE=content",
            ),
            ({"detail": [{"loc": ["inputs", 0, "texts"], "msg": "Field required"}]}, "SHAPE=texts"),
            ({"error": {"message": "inputs[0].texts must be a list of objects with a text"}}, "SHAPE=texts"),
            ({"error": {"message": "content: unknown field; texts: Field required"}}, "SHAPE=texts"),
            ({"error": {"message": "texts: unknown field; content: Field required"}}, "SHAPE=content"),
        ],
    )
    @pytest.mark.parametrize("status", [400, 422])
    def test_refusal_of_our_own_fields_names_the_setting(self, status: int, body: object, words: str) -> None:
        """The caller cannot correct what the settings chose."""
        failed = failure("POST", body, status)

        assert failed.kind is FailureKind.UNSUPPORTED
        assert words in failed.message

    def test_content_policy_is_no_matter_of_shapes(self) -> None:
        """The word alone proves nothing."""
        body = {"error": {"message": "Your content violates the policy"}}

        assert failure("POST", body, 400).kind is FailureKind.REFUSED

    @pytest.mark.parametrize(
        ("status", "body", "words"),
        [
            (401, E5, ["FREDDY_API_KEY", "FREDDY_AUTH_SCHEME"]),
            (403, {"error": {"code": "AMBIGUOUS_ORGANIZATION", "message": "?"}}, ["FREDDY_ORGANIZATION_ID"]),
            (404, E4, ["no such route", "FREDDY_BASE_URL"]),
            (405, {"detail": "Method Not Allowed"}, ["no such route", "FREDDY_BASE_URL"]),
            (308, b"", ["FREDDY_BASE_URL"]),
        ],
    )
    def test_message_names_the_setting_to_check(self, status: int, body: object, words: list[str]) -> None:
        """What to do stands beside what happened."""
        message = failure("GET", body, status).message

        assert all(word in message for word in words)

    @pytest.mark.parametrize(
        ("error", "headers", "kind"),
        [
            (
                {"code": "USAGE_LIMIT_EXCEEDED", "message": "Monthly usage limit of 50 CHF exceeded"},
                {},
                "SPENDING_LIMIT",
            ),
            ({"code": "SPENDING_CAP", "message": "no"}, {}, "SPENDING_LIMIT"),
            ({"message": "You exceeded your current quota, check your plan"}, {}, "SPENDING_LIMIT"),
            ({"code": "MONTHLY_LIMIT_EXCEEDED"}, {}, "SPENDING_LIMIT"),
            ({"code": "RATE_LIMIT_EXCEEDED", "message": "Rate limit exceeded"}, {}, "RATE_LIMITED"),
            ({"message": "Too many requests"}, {}, "RATE_LIMITED"),
            ({"message": "Request quota per minute exceeded"}, {}, "RATE_LIMITED"),
            ({"message": "Daily limit exceeded"}, {}, "RATE_LIMITED"),
            ({"message": "Concurrency limit reached"}, {}, "RATE_LIMITED"),
            ({"message": "slow down"}, {}, "RATE_LIMITED"),
            ({}, {}, "RATE_LIMITED"),
            ({"message": "Usage limit exceeded"}, {"Retry-After": "5"}, "RATE_LIMITED"),
            ({"message": "Usage limit exceeded"}, {"X-RateLimit-Reset": "1741476542"}, "RATE_LIMITED"),
            ({"message": "Usage limit exceeded", "retry_after": 5}, {}, "RATE_LIMITED"),
        ],
    )
    def test_spending_cap_is_told_from_rate(
        self, error: dict[str, Any], headers: dict[str, str], kind: str
    ) -> None:
        """Waiting lifts one and not the other; in doubt it is the rate."""
        assert failure("POST", {"success": False, "error": error}, 429, **headers).kind.name == kind


class TestRedaction:
    """The server's texts, fit to be shown."""

    @pytest.mark.parametrize(
        "text",
        [
            KEY,
            f"key={quote(KEY, safe='')}",
            b64encode(KEY.encode()).decode(),
            f"Bearer {KEY}",
            KEY[:20],
            "sk-frdy-abcdef123456",
            "oak_prod_somebody_elses",
            "Authorization: Bearer eyJhbGciOi.J9",
        ],
    )
    def test_key_is_hidden_in_every_form(self, text: str) -> None:
        """Plain, encoded, cut short, or another one that merely looks like a key."""
        line = one_line(f"Invalid <{text}>, sorry", [KEY])

        assert line.startswith("Invalid <")
        assert HIDDEN in line
        assert not any(part in line for part in (KEY[:16], "sk-frdy", "oak_prod", "eyJ", text))

    @pytest.mark.parametrize("secret", ["p4ss/w+rd=&", 'quo"ted\\key', "schlüssel-ß"])
    def test_any_secret_is_hidden_however_it_looks(self, secret: str) -> None:
        """Not only keys with a known beginning."""
        for form in (
            secret,
            quote(secret, safe=""),
            json.dumps(secret)[1:-1],
            b64encode(secret.encode()).decode(),
        ):
            assert form.rstrip("=") not in one_line(f"no: {form}!", [secret])

    def test_echo_of_the_prompt_is_hidden_and_the_rest_kept(self) -> None:
        """From sixteen characters on; white space does not matter."""
        echo = PROMPT[5:45].replace(" ", "\n  ")

        assert one_line(f"Input '{echo}' is odd", [PROMPT]) == f"Input '{HIDDEN}' is odd"
        assert one_line("Input 'a long story' is odd", [PROMPT]) == "Input 'a long story' is odd"

    def test_line_is_short_and_single(self) -> None:
        """Whatever the server sends."""
        line = one_line("many\nwords\t" * 1_000)

        assert len(line) <= 160
        assert "\n" not in line

    @settings(deadline=None)
    @given(st.text(min_size=4, max_size=60), st.text(max_size=80), st.text(max_size=80))
    def test_no_secret_survives(self, secret: str, before: str, after: str) -> None:
        """Not whole, unless its pieces were joined by what was hidden between them."""
        line = one_line(before + secret + after, [secret], most=10_000)

        seen = " ".join(secret.encode("utf-8", "replace").decode().split())
        assert len(seen) < 4 or seen not in line or seen in HIDDEN or HIDDEN in seen or "…" in seen

    @settings(deadline=None)
    @given(st.text(min_size=16, max_size=200), st.integers(0, 184), st.integers(16, 60))
    def test_no_long_echo_survives(self, prompt: str, start: int, length: int) -> None:
        """Any piece of sixteen characters or more."""
        echo = " ".join(prompt.encode("utf-8", "replace").decode().split())[start : start + length].strip()

        line = one_line(f"bad input: {echo}", [prompt], most=10_000)

        assert len(echo) < 16 or echo not in line

    def test_texts_of_a_prompt_are_found_at_any_depth(self) -> None:
        """Messages nest; roles and types are no secrets, short as a text may be."""
        parts = [{"type": "input_text", "text": "hush"}, {"type": "input_text", "text": PROMPT}]
        messages = [{"role": "user", "texts": parts}, {"role": "system", "content": PROMPT * 2}]

        assert sorted(texts_of(messages)) == [PROMPT, PROMPT * 2, "hush"]

    def test_a_short_prompt_is_hidden_in_a_submits_error(self) -> None:
        """It is known there, so it need not be long to be recognised."""
        body = json.dumps({"error": {"code": "BAD", "message": "No answer to gold in Bern today"}}).encode()
        seen = wire.read_created(400, body, {}, secrets=texts_of("gold in Bern"))

        assert isinstance(seen, CallFailed)
        assert f"No answer to {HIDDEN} today" in seen.message

    @pytest.mark.parametrize(
        ("said", "shown"),
        [
            ("The prompt gold in Bern was refused", "The prompt…"),
            ("Cannot answer this prompt: gold in Bern", "Cannot answer this prompt…"),
            ("The prompt is too long", "The prompt is too long"),
            ("The model could not finish", "The model could not finish"),
        ],
    )
    def test_a_poll_shows_no_more_than_what_comes_before_an_echo(self, said: str, shown: str) -> None:
        """The prompt is not known there any more."""
        body = json.dumps({"id": "r", "status": "failed", "error": {"message": said}}).encode()
        seen = wire.read_retrieved(200, body, {}, secrets=[])

        assert isinstance(seen, Response)
        assert seen.error_message == shown


class TestAnswers:
    """One text and one result from five shapes."""

    @pytest.mark.parametrize("body", [R1, R2, R3, R4, R5], ids=["R1", "R2", "R3", "R4", "R5"])
    def test_text_is_found_in_every_shape(self, body: dict[str, Any]) -> None:
        """Wherever it is kept."""
        assert wire.output_text(body) == TEXT

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ({}, ""),
            ({"output": []}, ""),
            ({"output": None, "response": "Hi"}, "Hi"),
            ({"output": "Hi"}, "Hi"),
            (
                {"output": [{"type": "reasoning", "summary": "hm"}, {"type": "message", "content": "Hi"}]},
                "Hi",
            ),
            ({"output": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, ""),
            ({"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]}, ""),
            ({"output": [{"type": "message", "role": "user", "content": "asked"}]}, ""),
            ({"output": [{"content": "a"}, {"content": [{"text": "b"}, {"text": "c"}]}]}, "a\nbc"),
            ({"output": [{"type": ["odd"], "content": 5}, 7, None, "Hi"]}, "Hi"),
            (
                {
                    "response": [
                        {"type": "text", "text": "a"},
                        {"type": "tool_use"},
                        {"type": "text", "text": "b"},
                    ]
                },
                "ab",
            ),
            ({"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}, "a"),
            ({"choices": [{"message": None}]}, ""),
            ({"data": [{"isResponse": True, "response": {"odd": 1}}]}, ""),
        ],
    )
    def test_odd_answers_give_what_text_they_hold(self, body: dict[str, Any], text: str) -> None:
        """Several messages, no messages, refusals, tool calls, other people's words."""
        assert wire.output_text(body) == text

    def test_background_answer_becomes_the_result_as_it_is(self) -> None:
        """The API's own object, with two facts added; what is unknown to us stays."""
        result = wire.terminal_result(response("GET", R1 | {"model": "gpt-4.1"}), polls=4)

        assert result == R1 | {"model": "gpt-4.1", "output_text": TEXT, "polls": 4}

    @pytest.mark.parametrize("body", [R2, R3, R4, R5, EVENTS], ids=["R2", "R3", "R4", "R5", "list"])
    def test_other_answers_become_results_of_the_same_form(self, body: object) -> None:
        """A consumer of results needs to know one shape only."""
        result = wire.terminal_result(response("POST", body), polls=0)

        typed = ResponseResult.from_result(result)
        assert {"id", "status", "created_at", "completed_at", "output", "usage"} <= result.keys()
        assert (typed.status, typed.output_text, typed.polls) == (Status.COMPLETED, TEXT, 0)
        assert wire.output_text({"output": result["output"]}) == TEXT
        assert json.loads(json.dumps(result, allow_nan=False)) == result

    def test_empty_answer_is_a_result_without_output(self) -> None:
        """Completed with nothing in it happens."""
        result = wire.terminal_result(response("GET", {"id": "r", "status": "completed"}), polls=1)

        assert (result["output"], result["output_text"], result["usage"]) == (None, "", None)


class TestTotality:
    """Reading raises nothing, whatever arrives."""

    @settings(deadline=None)
    @given(st.sampled_from(sorted(READERS)), st.integers(100, 599), st.binary(max_size=200))
    def test_bytes_never_raise(self, call: str, status: int, raw: bytes) -> None:
        """Any bytes are a response or a failure."""
        assert isinstance(read(call, raw, status), Response | CallFailed)

    @settings(deadline=None)
    @given(
        st.sampled_from(sorted(READERS)),
        st.sampled_from([200, 202, 204, 302, 400, 401, 404, 409, 422, 429, 500]),
        bodies,
    )
    def test_json_never_raises_and_messages_stay_short(self, call: str, status: int, body: object) -> None:
        """Any JSON; and every result of it is JSON again."""
        seen = read(call, body, status, **{"X-Request-Id": "x" * 500})

        if isinstance(seen, CallFailed):
            assert len(seen.message) <= 340
            assert "\n" not in seen.message
        else:
            json.dumps(wire.terminal_result(seen, 1), allow_nan=False)
