"""What a deployment can choose: environment variables, checked when a process starts to work."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .errors import ConfigurationError
from .schedules import Tiers, parse_tiers

PREFIX = "FREDDY_"
NO_KEY = SecretStr("none")
WITHIN_LEASE = 0.8  # share of a lease that a reply may take
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PLANS = {"standard": (100, 10_000, 120), "premium": (1_000, 100_000, 1_200), "unlimited": (0, 0, 0)}


class Settings(BaseSettings):
    """Every setting, read from `FREDDY_*` environment variables; seconds unless said otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    api_key: SecretStr = Field(description="Key of the account that is billed.")
    base_url: str = Field(
        "https://api.freddy.aitronos.com", description="Address of the API, with or without `/v1`."
    )
    model: str = Field("gpt-4.1", min_length=1, description="Model for calls that name none.")
    organization_id: str | None = Field(None, description="Sent where the account has several organizations.")
    auth_scheme: Literal["bearer", "x-api-key"] = Field(
        "bearer", description="Header of the key: `Authorization: Bearer` or `X-API-Key`."
    )
    message_shape: Literal["texts", "content"] = Field(
        "texts", description="Shape of an input message: `texts: [{text}]` or `content`."
    )
    connect_timeout: Seconds = Field(5.0, description="Longest wait for a connection.")
    read_timeout: Seconds = Field(
        30.0, description="Longest wait for the whole of a reply; at most 80 % of `FREDDY_LEASE`."
    )
    timeout: Seconds = Field(
        1_860.0, description="Longest wait for an answer: the API's 30 minutes and a margin."
    )
    state_url: SecretStr | None = Field(
        None,
        description="Redis for the ledger; else the result backend's or the broker's, when that is Redis.",
    )
    state_prefix: str = Field(
        "freddy_tasks", min_length=1, description="First part of every key in the state server."
    )
    state_replicas: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Replicas that must have the intent to submit before a prompt is sent; 0: none.",
    )
    line_up: bool = Field(
        False,
        description="Prompts wait on record, where no broker can lose them. For the processes that publish.",
    )
    lease: Annotated[float, Field(ge=1, le=60)] = Field(
        60.0, description="A lost poll is looked at again after this long."
    )
    on_unknown_outcome: Literal["fail", "resubmit"] = Field(
        "fail",
        description="A submit that may or may not have arrived: raise `OutcomeUnknown`, or send it again.",
    )
    cancel_remotely: bool = Field(
        True, description="Send a `DELETE` when a response is cancelled or runs past its deadline."
    )
    missing_grace: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        20.0, description="How long a 404 after the submit is taken for the API's own delay."
    )
    tiers: Annotated[Tiers, NoDecode] = Field(
        Tiers(),
        description="Polling of unknown kinds of prompts: `until:pause,…` by elapsed or expected seconds.",
    )
    lag_per_poll: Seconds | None = Field(
        None, description="Seconds of lag that one poll is worth; default: chosen to match the tiers."
    )
    lag_p95: Seconds | None = Field(
        None, description="Instead: 95 of 100 answers are noticed within this long."
    )
    plan: Literal["standard", "premium", "unlimited"] = Field(
        "standard", description="Preset of the three limits that follow."
    )
    requests_per_minute: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Submits and polls a minute, over all workers; 0: no limit."
    )
    requests_per_day: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Submits and polls in any 24 hours; 0: no limit."
    )
    burst: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Most requests in any one minute after a quiet time."
    )

    @field_validator("api_key")
    @classmethod
    def _is_given(cls, key: SecretStr) -> SecretStr:
        if not key.get_secret_value().strip():
            raise ValueError("is empty")
        return key

    @field_validator("tiers", mode="before")
    @classmethod
    def _read_tiers(cls, value: object) -> object:
        return parse_tiers(value) if isinstance(value, str) else value

    @property
    def reply_timeout(self) -> float:
        """Seconds for the whole of a reply: over before the lease, so that no second hop acts meanwhile."""
        return min(self.read_timeout, WITHIN_LEASE * self.lease)

    @property
    def limits(self) -> tuple[int, int, int]:
        """Requests a minute, a day, and at most in one minute; 0 stands for no limit."""
        minute, day, burst = PLANS[self.plan]
        minute = minute if self.requests_per_minute is None else self.requests_per_minute
        day = day if self.requests_per_day is None else self.requests_per_day
        if self.burst is not None:
            return minute, day, self.burst
        return minute, day, burst if self.requests_per_minute is None else minute


def load_settings(*, needs_key: bool = True) -> Settings:
    """Read the environment; a `ConfigurationError` names each variable that is missing or wrong.

    With `needs_key=False` the key may be missing: for processes that make no requests.
    """
    given = {} if needs_key or os.environ.get("FREDDY_API_KEY") else {"api_key": NO_KEY}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # the rest is filled from the environment
    except ValidationError as error:
        lines = "; ".join(f"{variable} {problem}" for variable, problem in problems_of(error).items())
        raise ConfigurationError(
            f"Settings are missing or wrong: {lines}. See the settings table in the README."
        ) from None


def problems_of(error: ValidationError) -> dict[str, str]:
    """What is wrong with each variable, by its name; no value is shown."""
    problems = {}
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        name = PREFIX + str(item["loc"][0]).upper()
        problem = "is not set" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
        problems[name] = problem
    return problems
