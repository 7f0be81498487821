"""The Celery configuration that the package ships, and the tests that its documentation names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import celeryconfig
from freddy_tasks.settings import Settings

CHECKOUT = Path(__file__).parents[2]
RETENTION = 86_400  # seconds for which the API keeps an answer
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (CHECKOUT / "docs" / "celery.md").read_text())


def test_no_result_and_no_chord_expires_before_its_answer() -> None:
    """A chord that outlives `result_chord_expires` never runs its body, and says nothing."""
    longest = RETENTION + Settings.model_fields["timeout"].default

    assert celeryconfig.result_expires > longest
    assert celeryconfig.result_chord_expires > longest


def test_only_json_is_accepted() -> None:
    """A message must not be able to run code."""
    assert celeryconfig.accept_content == celeryconfig.result_accept_content == ["json"]


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_the_documentation_names_tests_that_exist(path: str, name: str) -> None:
    """docs/celery.md says which test shows what."""
    assert f"def {name}(" in (CHECKOUT / path).read_text()


def test_the_documentation_answers_thirty_traps() -> None:
    """Each by a test or by a line that says why it cannot happen."""
    rows = re.findall(r"^\| (\d+) \|", (CHECKOUT / "docs" / "celery.md").read_text(), re.MULTILINE)

    assert [int(row) for row in rows] == list(range(1, 31))
