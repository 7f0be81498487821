"""Settings: what holds without them, and what is said about a wrong one."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from freddy_tasks.errors import ConfigurationError
from freddy_tasks.schedules import Tiers
from freddy_tasks.settings import PLANS, PREFIX, Settings, load_settings

KEY = "sk-marked-5ecret"
PASSWORD = "marked-passw0rd"

DEFAULTS = {
    "base_url": "https://api.freddy.aitronos.com",
    "organization_id": None,
    "auth_scheme": "bearer",
    "message_shape": "texts",
    "connect_timeout": 5.0,
    "read_timeout": 30.0,
    "timeout": 1_860.0,
    "state_url": None,
    "state_prefix": "freddy_tasks",
    "state_replicas": 0,
    "lease": 60.0,
    "on_unknown_outcome": "fail",
    "cancel_remotely": True,
    "missing_grace": 20.0,
    "plan": "standard",
    "requests_per_minute": None,
    "requests_per_day": None,
    "burst": None,
}

BAD = {
    "API_KEY": ["", "  "],
    "MODEL": [""],
    "AUTH_SCHEME": ["basic", ""],
    "MESSAGE_SHAPE": ["text"],
    "CONNECT_TIMEOUT": ["0", "-1", "soon", "inf", "nan"],
    "READ_TIMEOUT": ["0", "-1", "soon", "inf", "nan"],
    "TIMEOUT": ["0", "-1", "soon", "inf", "nan"],
    "STATE_PREFIX": [""],
    "STATE_REPLICAS": ["-1", "1.5", "all"],
    "LINE_UP": ["maybe"],
    "LEASE": ["0", "61", "long", "nan"],
    "ON_UNKNOWN_OUTCOME": ["retry"],
    "CANCEL_REMOTELY": ["maybe"],
    "MISSING_GRACE": ["-1", "inf"],
    "TIERS": ["soon", "10", "0:0"],
    "LAG_PER_POLL": ["0", "-1", "inf"],
    "LAG_P95": ["0", "inf"],
    "PLAN": ["gold"],
    "REQUESTS_PER_MINUTE": ["-1", "1.5", "many"],
    "REQUESTS_PER_DAY": ["-1", "many"],
    "BURST": ["0", "-1"],
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREDDY_API_KEY", KEY)


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_only_the_key_is_required(name: str, default: object) -> None:
    """Everything else has a default that suits the standard plan."""
    assert getattr(load_settings(), name) == default


def test_every_setting_reads_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of each kind: a text, a number, a choice, a truth, tiers."""
    for name, value in {
        "MODEL": "m",
        "TIMEOUT": "90",
        "AUTH_SCHEME": "x-api-key",
        "CANCEL_REMOTELY": "false",
        "TIERS": str(Tiers()),
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    settings = load_settings()

    assert (settings.model, settings.timeout, settings.auth_scheme) == ("m", 90.0, "x-api-key")
    assert settings.cancel_remotely is False
    assert settings.tiers == Tiers()


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its variable, with where to look further."""
    monkeypatch.delenv("FREDDY_API_KEY")

    with pytest.raises(ConfigurationError, match=r"FREDDY_API_KEY is not set.*README"):
        load_settings()


def test_every_bad_value_has_a_row() -> None:
    """Only texts that may be anything have none."""
    free = {"BASE_URL", "ORGANIZATION_ID", "STATE_URL"}

    assert {name.upper() for name in Settings.model_fields} - free <= set(BAD)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_names_its_variable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, in one error, by the name that the deployment knows."""
    monkeypatch.setenv(PREFIX + name, value)

    with pytest.raises(ConfigurationError, match=rf"wrong: {PREFIX}{name} \S"):
        load_settings()


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one variable a restart."""
    monkeypatch.setenv("FREDDY_LEASE", "0")
    monkeypatch.setenv("FREDDY_PLAN", "gold")

    with pytest.raises(ConfigurationError, match=r"FREDDY_LEASE.*FREDDY_PLAN"):
        load_settings()


def test_secrets_are_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of good settings nor of wrong ones, whatever asks for it."""
    monkeypatch.setenv("FREDDY_STATE_URL", f"redis://:{PASSWORD}@localhost/0")
    settings = load_settings()
    texts = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
    monkeypatch.setenv("FREDDY_PLAN", "gold")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    texts += [repr(caught.value), str(caught.value), repr(caught.value.__cause__), str(caught.value.args)]

    assert settings.api_key.get_secret_value() == KEY
    assert not any(secret in text for secret in (KEY, PASSWORD) for text in texts)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("plan", "limits"), PLANS.items())
def test_a_plan_is_three_limits(plan: str, limits: tuple[int, int, int]) -> None:
    """Requests a minute, a day, and in a minute after a quiet time."""
    assert Settings(api_key=SecretStr(KEY), plan=plan).limits == limits


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({"requests_per_minute": 30}, (30, 10_000, 30)),
        ({"requests_per_minute": 30, "burst": 40}, (30, 10_000, 40)),
        ({"requests_per_day": 500}, (100, 500, 120)),
        ({"requests_per_minute": 0, "requests_per_day": 0}, (0, 0, 0)),
        ({"plan": "unlimited", "requests_per_day": 500}, (0, 500, 0)),
    ],
)
def test_a_limit_of_ones_own_goes_before_the_plans(
    given: dict[str, int], limits: tuple[int, int, int]
) -> None:
    """Each by itself; a burst that nobody named adds nothing to a rate of one's own."""
    assert Settings(api_key=SecretStr(KEY), **given).limits == limits


def test_settings_do_not_change() -> None:
    """They are a value, passed around."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().model = "other"


@pytest.mark.parametrize(
    ("read_timeout", "lease", "expected"), [(30.0, 60.0, 30.0), (120.0, 60.0, 48.0), (30.0, 2.0, 1.6)]
)
def test_a_reply_is_given_up_before_its_lease(read_timeout: float, lease: float, expected: float) -> None:
    """A second hop must not act while the first still waits for an answer that it might get."""
    settings = Settings(api_key=SecretStr("key"), read_timeout=read_timeout, lease=lease)

    assert settings.reply_timeout == pytest.approx(expected)
