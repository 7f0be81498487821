"""How long responses take: constant, drawn, replayed, by label, or counted in polls."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from statistics import NormalDist

FORMS = "20, polls:2, lognormal:MEDIAN,SIGMA, list:1,2,3, trace:FILE or labels:NAME=20;*=lognormal:90,0.5"


@dataclass(frozen=True, slots=True)
class Constant:
    """Every response takes this many seconds from creation to completion."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AfterPolls:
    """The first ``polls`` retrieves find the response running, the next finds it completed, at any time.

    The first of two or more running retrieves says `queued`, the others `in_progress`.
    """

    polls: int


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Seconds from a log-normal distribution with this median; ``sigma`` is its width on the log scale."""

    median: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Seconds taken from a list by the response's ordinal, starting over at its end."""

    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ByLabel:
    """Durations chosen by `metadata.label` of the request; other labels, and none, take ``default``."""

    labels: Mapping[str, Durations]
    default: Durations


Durations = Constant | AfterPolls | LogNormal | Trace | ByLabel


def chance(*parts: object) -> float:
    """Return a number in (0, 1) that depends on nothing but ``parts``: the emulator's only randomness."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    # 53 bits and a half: the most a float holds apart, so that neither 0 nor 1 comes out.
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52


def draw(durations: Durations, ordinal: int, luck: float, label: str | None = None) -> float | AfterPolls:
    """Return the seconds one response takes, or the polls.

    ``luck`` in (0, 1) is the quantile used by a distribution; ``ordinal`` counts responses from 1.
    """
    match durations:
        case Constant(seconds):
            return seconds
        case AfterPolls():
            return durations
        case LogNormal(median, sigma):
            return math.exp(math.log(median) + sigma * NormalDist().inv_cdf(luck))
        case Trace(seconds):
            return seconds[(ordinal - 1) % len(seconds)]
        case ByLabel(labels, default):
            return draw(labels.get(label or "", default), ordinal, luck)


def parse_durations(text: str) -> Durations:
    """Read ``20``, ``polls:2``, ``lognormal:90,0.5``, ``list:1,2``, ``trace:FILE`` or ``labels:fast=2;*=60``.

    A trace file is JSON lines with a ``duration`` each, the emulator's own log for one. ValueError names the
    bad text.
    """
    kind, colon, rest = text.partition(":")
    try:
        return _parse(kind, rest) if colon else Constant(_seconds(text))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"no durations in {text!r}: use {FORMS}") from error


def _parse(kind: str, rest: str) -> Durations:
    match kind:
        case "polls":
            return AfterPolls(int(_seconds(rest)))
        case "lognormal":
            median, sigma = (_seconds(part) for part in rest.split(","))
            math.log(median)
            return LogNormal(median, sigma)
        case "list":
            return Trace(tuple(_seconds(part) for part in rest.split(",")))
        case "trace":
            return Trace(_read_trace(Path(rest)))
        case "labels":
            return _parse_labels(rest)
    raise ValueError(kind)


def _parse_labels(rest: str) -> ByLabel:
    pairs = (pair.partition("=") for pair in rest.split(";"))
    labels = {name.strip(): parse_durations(text) for name, _, text in pairs}
    return ByLabel(labels, labels.pop("*"))


def _read_trace(path: Path) -> tuple[float, ...]:
    lines = path.read_text(encoding="utf-8").splitlines()
    durations = (json.loads(line)["duration"] for line in lines if line.strip())
    seconds = tuple(_seconds(each) for each in durations if each is not None)
    if not seconds:
        raise ValueError(f"{path} holds no line with a duration")
    return seconds


def _seconds(text: str | float) -> float:
    seconds = float(text)
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(text)
    return seconds
