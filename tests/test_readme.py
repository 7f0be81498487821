"""The README is true: its tables are those of the code, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from freddy_tasks import errors
from freddy_tasks.cli import COMMANDS
from freddy_tasks.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if default is PydanticUndefined:
            shown = "required"
        elif default is None or isinstance(default, SecretStr):
            shown = ""
        else:
            shown = f"`{_spelled(default)}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def _spelled(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float) and default.is_integer():
        return str(int(default))
    return str(default)


def errors_table() -> str:
    rows = ["| error | meaning |", "| --- | --- |"]

    def visit(kind: type[errors.FreddyError], depth: int) -> None:
        first = (kind.__doc__ or "").strip().splitlines()[0]
        rows.append(f"| {'&emsp;' * depth}`{kind.__name__}` | {first} |")
        for child in kind.__subclasses__():
            visit(child, depth + 1)

    visit(errors.FreddyError, 0)
    return "\n".join(rows)


def section(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", README, re.DOTALL)
    assert found
    return found[1]


def test_settings_table_is_that_of_the_code() -> None:
    """Every variable, its default and its meaning."""
    assert section("settings") == settings_table()


def test_errors_table_is_that_of_the_code() -> None:
    """Every class, in the order of the tree."""
    assert section("errors") == errors_table()


def test_every_command_is_told_and_exists() -> None:
    """No command is missing from the table, and none in it is made up."""
    told = re.findall(r"^\| `freddy-tasks (\w+)", README, re.MULTILINE)

    assert sorted(told) == sorted(COMMANDS)


def test_every_page_it_names_is_there() -> None:
    """Links to the documentation lead somewhere."""
    pages = re.findall(r"\]\((docs/[^)]+)\)", README)

    assert sorted(pages) == sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md"))
