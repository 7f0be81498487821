"""The compose file is valid, holds no secret, and says nothing that its manual does not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from freddy_tasks.cli import freddy_tasks

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
MANUAL = (
    (ROOT / "docs" / "operations.md").read_text().partition("\n## With compose\n")[2].partition("\n## ")[0]
)
SCHEMA = json.loads((Path(__file__).parent / "compose_spec" / "compose-spec.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[-?])?([^}]*)\}")
SECRETS = {"FREDDY_API_KEY", "FLOWER_BASIC_AUTH"}


def test_file_follows_the_compose_specification() -> None:
    """By the specification's own schema."""
    jsonschema.Draft7Validator(SCHEMA).validate(COMPOSE)


@pytest.mark.parametrize(
    "fault",
    [
        {"restart": 3},
        {"depends_on": {"valkey": {"condition": "healthy"}}},
        {"healthchecks": {}},
        {"command": 1},
    ],
)
def test_schema_finds_what_is_wrong(fault: dict[str, Any]) -> None:
    """So that the test above means something."""
    wrong = {**COMPOSE, "services": {**SERVICES, "worker": {**SERVICES["worker"], **fault}}}

    assert not jsonschema.Draft7Validator(SCHEMA).is_valid(wrong)


def test_every_variable_is_in_the_manual() -> None:
    """With its default, and required where it is."""
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `(\w+)` \| ([^|]+) \|", MANUAL, re.MULTILINE)}
    variables = {match[1]: (match[2], match[3]) for match in VARIABLE.finditer(TEXT)}
    expected = {
        name: "required" if kind == ":?" else f"`{default}`" for name, (kind, default) in variables.items()
    }

    assert {name: rows.get(name, "").strip() for name in variables} == expected


def test_secrets_are_required_and_come_from_outside() -> None:
    """No start without them, no default, and no other value that looks like one."""
    required = {match[1] for match in VARIABLE.finditer(TEXT) if match[2] == ":?"}
    secretive = [
        (name, value)
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if re.search(r"KEY|AUTH|PASS|SECRET|TOKEN", name) and not VARIABLE.fullmatch(value)
    ]

    assert required == SECRETS
    assert secretive == []
    assert not re.search(r"://[^/\s]*:[^/\s]*@|oak_|[A-Za-z0-9+/_-]{40,}", TEXT)


def test_nothing_but_flower_is_reachable_and_that_from_this_machine_only() -> None:
    """Valkey has no password: only the services of the file are on its network."""
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert ports == {"flower": ["127.0.0.1:${FLOWER_PORT:-5555}:5555"]}


def test_ledger_survives_a_restart_and_is_never_evicted() -> None:
    """An append-only file on a volume, and a full server that says so."""
    options = SERVICES["valkey"]["command"]

    assert options[options.index("--appendonly") + 1] == "yes"
    assert options[options.index("--maxmemory-policy") + 1] == "noeviction"
    assert SERVICES["valkey"]["volumes"] == ["valkey:/data"]


@pytest.mark.parametrize("name", SERVICES)
def test_service_heals_itself_and_stops_in_order(name: str) -> None:
    """It restarts, is looked after, and waits for a healthy Valkey."""
    service = SERVICES[name]

    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    assert service["stop_grace_period"]
    assert name == "valkey" or service["depends_on"] == {"valkey": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", ["worker", "flower"])
def test_command_is_one_of_ours_with_options_it_knows(name: str) -> None:
    """The command of the image exists, and lists its options."""
    program, command, *_ = SERVICES[name]["command"]
    shown = CliRunner().invoke(freddy_tasks, [command, "--help"])

    assert program == "freddy-tasks"
    assert shown.exit_code == 0


def test_image_is_built_of_what_is_there() -> None:
    """Every path that is copied exists, so nothing else of the checkout gets into the image."""
    build = SERVICES["worker"]["build"]["dockerfile_inline"]
    copied = [path for line in re.findall(r"^COPY (.+) \S+$", build, re.MULTILINE) for path in line.split()]

    assert "freddy_tasks" in copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
