"""The shipped settings of Flower, run as Flower runs them."""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flower.options import options

import freddy_tasks
from freddy_tasks.continuation import HIDDEN

CONFIGURATION = Path(freddy_tasks.__file__).with_name("flowerconfig.py")


@pytest.fixture(autouse=True)
def _options(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flower's options are one for the process, and its result backend is taken from the environment."""
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://results")
    before = options.basic_auth, options.auth
    yield
    options.basic_auth, options.auth = before


def load(*credentials: str, auth: str = "") -> dict[str, Any]:
    """The names in the file, after Flower has read these credentials."""
    options.basic_auth, options.auth = list(credentials), auth
    return runpy.run_path(str(CONFIGURATION))


@pytest.mark.parametrize(
    "credentials", [(), ("",), ("word",), (":word",), ("user:",), ("user:word", ""), ("a b:c",), ("user:ü",)]
)
def test_credentials_that_let_anybody_or_nobody_in_end_the_start(credentials: tuple[str, ...]) -> None:
    """The message names the variable, and never a password."""
    with pytest.raises(SystemExit) as ended:
        load(*credentials)

    assert "FLOWER_BASIC_AUTH is " in str(ended.value)
    assert "word" not in str(ended.value).replace("user:password", "")


@pytest.mark.parametrize(
    ("credentials", "auth"), [(("a:b",), ""), (("a:b:c", "d:e"), ""), ((), r".*@example\.com")]
)
def test_somebody_who_can_log_in_is_enough(credentials: tuple[str, ...], auth: str) -> None:
    """One user, several, or an OAuth provider."""
    loaded = load(*credentials, auth=auth)

    assert loaded["address"] == "127.0.0.1"
    assert loaded["tasks_columns"] == "name,uuid,state,result,received,runtime,worker,retries,eta,args"


def test_flower_gets_no_result_backend() -> None:
    """It could hand out answers with one."""
    load("a:b")

    assert os.environ["CELERY_RESULT_BACKEND"] == "disabled://"


def test_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower alone would have it the other way round."""
    monkeypatch.setenv("FLOWER_TASKS_COLUMNS", "name,state")
    monkeypatch.setenv("FLOWER_ADDRESS", "0.0.0.0")
    loaded = load("a:b")

    assert (loaded["tasks_columns"], loaded["address"]) == ("name,state", "0.0.0.0")


@pytest.mark.parametrize(
    ("state", "result", "exception", "shown"),
    [
        ("RECEIVED", None, None, None),
        ("POLLING", "in_progress, poll 3, next in 5 s", None, "in_progress, poll 3, next in 5 s"),
        ("CANCELLED", "cancelled", None, "cancelled"),
        ("SUCCESS", "{'output_text': 'secret'}", None, HIDDEN),
        ("RETRY", "secret", "Retry(…)", HIDDEN),
        ("FAILURE", "in_progress, poll 3, next in 5 s", "ResponseFailed('…')", "ResponseFailed"),
        ("FAILURE", None, None, ""),
    ],
)
def test_result_column_shows_the_wait_and_the_error_only(
    state: str, result: str | None, exception: str | None, shown: str | None
) -> None:
    """Whatever the state, an answer is hidden."""
    task = SimpleNamespace(args="secret", kwargs="secret", state=state, result=result, exception=exception)
    formatted = load("a:b")["format_task"](task)

    assert formatted.result == shown
    assert formatted.args == formatted.kwargs == HIDDEN
