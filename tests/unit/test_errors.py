"""One tree of errors: drawn as it is, rebuilt from JSON, told in one line."""

from __future__ import annotations

import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import freddy_tasks
from freddy_tasks import errors
from freddy_tasks.errors import FreddyError, ResponseFailed, error_class, from_result

TREE = {
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FreddyError)
}
FACTS = {
    "response_id": "resp_1",
    "status": "failed",
    "code": "model_error",
    "http_status": 200,
    "request_id": "req_1",
    "resumable": True,
    "usage": {"input_tokens": 3},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def test_the_tree_is_the_drawn_one() -> None:
    """Every class once, below the parent that the drawing gives it."""
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = [(-1, "FreddyError")]
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^([ │├└─]+)([A-Z]\w+)", line):
            depth = len(found[1])
            while path[-1][0] >= depth:
                path.pop()
            drawn[found[2]] = path[-1][1]
            path.append((depth, found[2]))

    actual = {error.__name__: error.__bases__[0].__name__ for error in TREE - {FreddyError}}
    assert drawn == actual


def test_every_error_is_public() -> None:
    """Whoever is told of one can catch it."""
    assert {error.__name__ for error in TREE} <= set(freddy_tasks.__all__)


@pytest.mark.parametrize("error", sorted(TREE, key=lambda each: each.__name__))
def test_an_error_is_rebuilt_from_its_json(error: type[FreddyError]) -> None:
    """As a result backend does: the class by name, the arguments by position."""
    original = error("What happened.", FACTS)
    args = json.loads(json.dumps(original.args))
    rebuilt = error_class(error.__name__)(*args)

    assert type(rebuilt) is error
    assert rebuilt.args == original.args
    for name, fact in FACTS.items():
        assert rebuilt.info[name] == fact
    assert (rebuilt.response_id, rebuilt.status, rebuilt.code) == ("resp_1", "failed", "model_error")
    assert (rebuilt.http_status, rebuilt.request_id, rebuilt.resumable) == (200, "req_1", True)
    assert pickle.loads(pickle.dumps(original)).args == original.args  # noqa: S301  # prefork's own way


@pytest.mark.parametrize("error", sorted(TREE, key=lambda each: each.__name__))
def test_an_error_is_rebuilt_from_a_result(error: type[FreddyError]) -> None:
    """`return_exceptions=True` loses nothing."""
    original = error("What happened.", FACTS)
    value = json.loads(json.dumps(original.to_result()))
    rebuilt = from_result(value)

    assert type(rebuilt) is error
    assert (rebuilt.message, rebuilt.info) == (original.message, original.info)
    assert (value["id"], value["status"]) == ("resp_1", "failed")


def test_an_answer_is_no_error() -> None:
    """The API's own `error: null` and its error objects are not ours."""
    for result in ({}, {"error": None}, {"error": "text"}, {"error": {"message": "m", "code": "c"}}):
        assert from_result(result) is None


@given(st.dictionaries(st.text(max_size=8) | st.just("error"), JSON, max_size=4), JSON)
def test_reading_a_result_never_raises(result: dict[str, object], error: object) -> None:
    """Whatever the result holds, it is an error of ours or none."""
    assert isinstance(from_result({**result, "error": error}), FreddyError | None)
    told = {"type": error, "message": error, **result}
    assert isinstance(from_result({"error": told}), FreddyError)


def test_an_error_of_another_version_is_the_root() -> None:
    """Unknown here, and still caught by `except FreddyError`."""
    assert error_class("Unheard") is FreddyError
    assert error_class("") is FreddyError
    assert error_class("ValueError") is FreddyError


def test_the_text_names_the_response_once() -> None:
    """In the message, or after it."""
    assert str(ResponseFailed("It failed.", {"response_id": "resp_1"})) == "It failed. [resp_1]"
    assert str(ResponseFailed("resp_1 failed.", {"response_id": "resp_1"})) == "resp_1 failed."
    assert str(ResponseFailed("It failed.")) == "It failed."
    assert str(FreddyError()) == ""


def test_facts_that_are_unknown_are_absent() -> None:
    """None is no fact."""
    error = ResponseFailed.because("It failed.", code=None, status="failed")

    assert error.info == {"status": "failed"}
    assert error.code is None
    assert not error.resumable
