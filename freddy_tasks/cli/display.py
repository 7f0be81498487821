"""What a person sees on stderr while responses are in flight; stdout is for answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .watch import Sight


class Display(Protocol):
    """Shows where prompts stand."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """Show a remark."""

    def show(self, sights: Sequence[Sight], now: float) -> None:
        """Show where the prompts stand at a moment of the state server's clock."""


def display() -> Display:
    """One that suits stderr."""
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class PlainDisplay:
    """A line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Print a remark."""
        self._console.print(text)

    def show(self, sights: Sequence[Sight], now: float) -> None:
        """Print the lines of those that moved."""
        del now
        for sight in sights:
            line = _line(sight, len(sights))
            if self._shown.get(sight.number) != line:
                self._shown[sight.number] = line
                self._console.print(line)


class LiveDisplay:
    """One line a prompt, kept up to date in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a remark above the lines."""
        self._live.console.print(text)

    def show(self, sights: Sequence[Sight], now: float) -> None:
        """Draw all lines anew."""
        lines = [_line(sight, len(sights), *_countdown(sight, now)) for sight in sights]
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)


def _line(sight: Sight, of: int, *more: str) -> str:
    """State first and id last, as a narrow terminal shows no more than the beginning."""
    place = f"{sight.number:>{len(str(of))}}/{of}  " if of > 1 else ""
    response_id = sight.facts.get("response_id") or (sight.answer or {}).get("id")
    return place + ", ".join([_state(sight), *_facts(sight), *more, *([response_id] if response_id else [])])


def _facts(sight: Sight) -> list[str]:
    polls = (sight.answer or {}).get("polls", sight.facts.get("polls"))
    progress = None if sight.ready else sight.facts.get("progress")
    return [
        *([f"{polls} poll{'' if polls == 1 else 's'}"] if polls is not None else []),
        *([f"{progress:.0%}"] if progress is not None else []),
    ]


def _state(sight: Sight) -> str:
    if sight.error and not sight.cancelled:
        return type(sight.error).__name__
    words = {"PENDING": "sent", "SUCCESS": "answered", "REVOKED": "cancelled"}
    return words.get(sight.state, sight.state.lower().replace("_", " "))


def _countdown(sight: Sight, now: float) -> list[str]:
    due = sight.facts.get("next_poll_at")
    if due is None or sight.ready:
        return []
    return [f"next look in {due - now:.0f} s" if due - now >= 0.5 else "looking"]
