"""The `FREDDY_` variables: right, each by itself and together? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .findings import Finding, error, fine, warning


@dataclass(frozen=True, slots=True)
class SettingsFacts:
    """What the environment holds; seconds."""

    problems: Sequence[tuple[str, str]]  # variable, what is wrong with it
    connect_timeout: float
    read_timeout: float
    reply_timeout: float  # what a reply is given, of `read_timeout`
    lease: float
    in_clear: bool  # the key travels unencrypted over a network


def judge_settings(facts: SettingsFacts) -> list[Finding]:
    """Every check of the variables."""
    wrong = [
        error(
            "settings",
            f"{variable} {problem}: no worker starts.",
            f"Set {variable}; the settings table in the README says what it takes.",
        )
        for variable, problem in facts.problems
    ]
    return [
        *(wrong or [fine("settings", "Every FREDDY_ variable is right.")]),
        _lease(facts),
        *_in_clear(facts),
    ]


def _lease(facts: SettingsFacts) -> Finding:
    longest = facts.connect_timeout + facts.reply_timeout
    if longest > facts.lease:
        return warning(
            "lease",
            f"A call may take {longest:g} s, and after FREDDY_LEASE, {facts.lease:g} s, it is taken for "
            "lost: a slow one is made a second time, from the plan's requests.",
            "Lower FREDDY_CONNECT_TIMEOUT and FREDDY_READ_TIMEOUT, or raise FREDDY_LEASE.",
        )
    if facts.reply_timeout < facts.read_timeout:
        return warning(
            "lease",
            f"A reply is given {facts.reply_timeout:g} s and not the {facts.read_timeout:g} s of "
            f"FREDDY_READ_TIMEOUT, to be over before FREDDY_LEASE, {facts.lease:g} s.",
            "Lower FREDDY_READ_TIMEOUT, or raise FREDDY_LEASE (60 at most).",
        )
    return fine("lease", f"A call is over in {longest:g} s, before its lease of {facts.lease:g} s.")


def _in_clear(facts: SettingsFacts) -> list[Finding]:
    if not facts.in_clear:
        return []
    return [
        warning(
            "base_url",
            "FREDDY_BASE_URL begins with http://: key, prompts and answers travel unencrypted.",
            "Use https://.",
        )
    ]
