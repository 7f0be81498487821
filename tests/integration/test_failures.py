"""Errors arrive as themselves: in other processes, past bad errbacks, and before anything is sent."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from celery import chain, chord
from celery.backends.redis import RedisBackend
from shop import Shop, answer_of, wait_for

import freddy_tasks
from freddy_tasks import FreddyError, InvalidRequest, ResponseFailed, process_ai_response
from freddy_tasks.records import Phase

FAILING = "Fail [emulate: status=failed code=model_error message=No_luck]"
INFO = {"response_id": "resp_1", "status": "failed", "code": "model_error", "http_status": 200}
ERRORS = sorted(
    name
    for name, item in vars(freddy_tasks).items()
    if isinstance(item, type) and issubclass(item, FreddyError)
)


@pytest.fixture(scope="module")
def stored(_shop: Shop) -> dict[str, str]:
    """One error of each class, stored by Celery as a worker stores them: ids by class."""
    ids = {name: f"error-{name}" for name in ERRORS}
    for name, task_id in ids.items():
        error = getattr(freddy_tasks, name)("What happened, and what to do.", INFO)
        _shop.app.backend.mark_as_failure(task_id, error)
    return ids


def read_elsewhere(shop: Shop, ids: dict[str, str], imports: str) -> dict[str, Any]:
    """What another Python process makes of the stored errors."""
    script = f"""
        import json
        {imports}
        from celery import Celery
        app = Celery("reader", backend={shop.app.conf.result_backend!r})
        seen = {{}}
        for name, task_id in {ids!r}.items():
            result = app.AsyncResult(task_id)
            try:
                result.get(timeout=5)
            except Exception as error:
                seen[name] = dict(
                    type=type(error).__name__,
                    module=type(error).__module__,
                    args=error.args,
                    text=str(error),
                    **{{key: getattr(error, key, None) for key in {sorted(INFO)!r}}},
                )
        print(json.dumps(seen))
    """
    reader = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    seen: dict[str, Any] = json.loads(subprocess.run(reader, capture_output=True, check=True).stdout)
    return seen


def test_every_error_keeps_class_and_facts_in_a_process_that_knows_the_package(
    shop: Shop, stored: dict[str, str]
) -> None:
    """Through the JSON backend, by `AsyncResult.get()`."""
    seen = read_elsewhere(shop, stored, "import freddy_tasks")

    assert seen.keys() == set(ERRORS)
    for name in ERRORS:
        assert seen[name]["type"] == name
        assert seen[name]["module"].startswith("freddy_tasks")
        assert {key: seen[name][key] for key in INFO} == INFO
        assert seen[name]["text"].startswith("What happened, and what to do.")


def test_every_error_keeps_name_and_args_in_a_process_that_does_not(
    shop: Shop, stored: dict[str, str]
) -> None:
    """Celery makes a class of that name; message and facts are its args."""
    seen = read_elsewhere(shop, stored, "")

    assert seen.keys() == set(ERRORS)
    for name in ERRORS:
        assert seen[name]["type"] == name
        assert seen[name]["args"] == ["What happened, and what to do.", INFO]


def test_a_failed_response_says_which_and_why(shop: Shop) -> None:
    """The facts a caller acts on."""
    result = process_ai_response.delay(FAILING)

    with pytest.raises(ResponseFailed, match="No luck") as caught:
        answer_of(result)
    assert caught.value.response_id == shop.api.jobs()[0].id
    assert caught.value.status == "failed"
    assert caught.value.code == "model_error"


@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")  # Celery's word on it
@pytest.mark.parametrize("errback", ["on_error_late", "on_error_bound", "on_error_raising"])
def test_a_bad_errback_does_not_hide_the_error(shop: Shop, errback: str) -> None:
    """Wrong number of arguments, bound, raising: the task ends with its own error, and the ledger is done."""
    result = process_ai_response.apply_async((FAILING,), link_error=getattr(shop, errback).s())
    ledger = shop.runtime.ledger
    wait_for(lambda: (record := ledger.record(result.id)) and record.phase is Phase.CLOSED)

    meta = shop.app.backend.get_task_meta(result.id)
    assert meta["status"] == "FAILURE"
    assert type(meta["result"]) is ResponseFailed
    assert meta["result"].code == "model_error"
    assert ledger.redis.zscore(f"{ledger.prefix}:due", result.id) is None
    assert shop.api.counts.posts == 1


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        (("",), {}),
        (("  ",), {}),
        (([],), {}),
        ((17,), {}),
        (("whales",), {"stream": True}),
        (("whales",), {"background": False}),
        (("whales",), {"expected": "ages"}),
        (("whales",), {"expected": -1}),
        (("whales",), {"timeout": 0}),
        (("whales",), {"timeout": "soon"}),
        (("whales",), {"lane": "fast"}),
        (("whales",), {"model": ""}),
        (("whales",), {"return_exceptions": "yes"}),
        (("whales",), {"metadata": {1, 2}}),
    ],
)
def test_a_bad_call_raises_in_the_caller(shop: Shop, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before anything is published."""
    with pytest.raises((InvalidRequest, TypeError)):
        process_ai_response.apply_async(args, kwargs)

    assert shop.witness.requests == []
    assert shop.api.counts.posts == 0


def test_a_bad_prompt_in_a_chain_fails_under_its_own_id(shop: Shop) -> None:
    """Nobody can know it before: the error is the task's, and nothing is spent."""
    result = chain(shop.say.s("user", "hi"), shop.drop.s(), process_ai_response.s()).apply_async(
        link_error=shop.on_error.s()
    )

    with pytest.raises(InvalidRequest):
        answer_of(result)
    assert wait_for(lambda: shop.witness.calls_of("on_error"))[0][0] == result.id
    assert shop.api.counts.posts == 0


def test_a_bad_prompt_fails_its_chord(shop: Shop) -> None:
    """The chord ends; it does not wait for a member that cannot come."""
    header = [process_ai_response.s("whales"), chain(shop.drop.s(1), process_ai_response.s())]
    result = chord(header)(shop.collect.s().on_error(shop.on_error.s()))

    with pytest.raises(InvalidRequest):
        answer_of(result)
    assert len(wait_for(lambda: shop.witness.calls_of("on_error"))) == 1


def test_a_result_backend_that_fails_for_a_while_costs_no_response(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a waiting response shows is not worth a lost one."""
    store = RedisBackend.store_result

    def refuse_progress(self: Any, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        if state in {"QUEUED", "IN_PROGRESS"}:
            raise ConnectionError("the result backend is away")
        return store(self, task_id, result, state, *args, **kwargs)

    monkeypatch.setattr(RedisBackend, "store_result", refuse_progress)
    result = process_ai_response.delay("whales [emulate: polls=1]")

    assert answer_of(result)["output_text"].startswith("About whales")
    assert shop.api.counts.posts == 1
