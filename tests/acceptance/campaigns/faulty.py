"""An API that misbehaves in every way the emulator knows, one way at a time and all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from campaigns.book import UNKNOWN, Verdict, judge
from campaigns.stage import Plan, Stage, api_for
from freddy_tasks.emulator import AfterPolls

ANSWERED = ("completed",)
UNCERTAIN = ("completed", UNKNOWN)
FAULTS: dict[str, tuple[str, ...]] = {
    "delay=0.3": ANSWERED,
    "hang@method=GET@first=1": ANSWERED,
    "hang@method=POST": (UNKNOWN,),
    "hang_after@method=POST": (UNKNOWN,),
    "reset_before@method=POST": (UNKNOWN,),
    "reset_before@method=GET@first=2": ANSWERED,
    "reset_after@method=POST": (UNKNOWN,),
    "reset_after@method=GET@first=2": ANSWERED,
    "cut@method=POST": (UNKNOWN,),
    "cut@method=GET@first=2": ANSWERED,
    "truncated@method=POST": (UNKNOWN,),
    "truncated@method=GET@first=2": ANSWERED,
    "slow_loris=0.2@method=GET@first=1": ANSWERED,
    "huge=20000000@method=GET": ("InvalidRequest",),
    "html@method=GET@first=2": ANSWERED,
    "empty@method=GET@first=2": ANSWERED,
    "text@method=GET@first=2": ANSWERED,
    "status=500@method=GET@first=2": ANSWERED,
    "status=500@method=POST": (UNKNOWN,),
    "E2=400@method=POST": ("InvalidRequest",),
    "E3=422@method=POST": ("InvalidRequest",),
    "E5=401@method=POST": ("AccessDenied",),
    "E6=500@method=GET@first=2": ANSWERED,
    "echo=400@method=POST": ("InvalidRequest",),
    "429=retry-after:1@first=1": ANSWERED,
    "429=http-date:1@first=1": ANSWERED,
    "429=plan:1@first=1": ANSWERED,
    "429=openai:1@first=1": ANSWERED,
    "429=body:1@first=1": ANSWERED,
    "429=details:1@first=1": ANSWERED,
    "429=none@method=GET@first=1": ANSWERED,
    "429=spend@method=POST": ("SpendingLimitReached",),
    "503_long=1@method=GET@first=1": ANSWERED,
    "404@first=2": ANSWERED,
    "404_half": ANSWERED,
    "404": ("ResponseLost",),
    "route_404": ("UnsupportedByServer",),
    "410": ("ResponseExpired",),
    "401@method=GET": ("AccessDenied",),
    "skew=600": ANSWERED,
    "skew=-600": ANSWERED,
    "202": ANSWERED,
    "response_id": ANSWERED,
    "new_id": ANSWERED,
    "unknown_status": ANSWERED,
    "backwards": ANSWERED,
    "uppercase": ANSWERED,
    "canceled": ("ResponseCancelled",),
    "cancelled": ("ResponseCancelled",),
    "incomplete": ("ResponseIncomplete",),
    "expired": ("ResponseExpired",),
    "stuck": ("ResponseTimeout",),
    "stuck=queued": ("ResponseTimeout",),
    "empty_output": ANSWERED,
    "no_output": ANSWERED,
    "failed=object": ("ResponseFailed",),
    "failed=string": ("ResponseFailed",),
    "failed=null": ("ResponseFailed",),
    "failed=absent": ("ResponseFailed",),
}
EACH = 2  # responses of a fault
TEXTLESS = ("empty_output", "no_output")
SHARE = 0.2  # of calls, when all faults are mixed
TIMEOUT = 40.0  # seconds a response has


def run(plan: Plan, faults: Sequence[str] = tuple(FAULTS)) -> tuple[Verdict, dict[str, Counter[str]]]:
    """Two responses under each fault alone; the table of ends."""
    table: dict[str, Counter[str]] = {}
    expected: dict[str, tuple[str, ...]] = {}
    with _stage(plan) as stage:
        stage.open()
        wrong = []
        for fault in faults:
            stage.api.set_faults([fault])
            ids = stage.submit([f"{fault} {number}" for number in range(EACH)], timeout=_timeout(fault))
            expected.update(dict.fromkeys(ids, FAULTS[fault]))
            stage.wait()
            stage.api.set_faults([])
            # A 429 stops all calls for a while; the next fault starts afresh.
            for key in stage.state.scan_iter("*budget*"):
                stage.state.delete(key)
            table[fault] = Counter(stage.book.ends[each].word for each in ids if each in stage.book.ends)
            if not set(table[fault]) <= set(FAULTS[fault]):
                wrong.append(f"{fault}: {dict(table[fault])}")
        verdict = judge(
            "faults",
            stage.book,
            stage.api,
            expected=expected,
            reposts_allowed=True,  # a 429 accepted nothing
            texts=lambda prompt: "" if prompt.startswith(TEXTLESS) else f"About {prompt}",
        )
        verdict.faults += wrong
        verdict.notes.append(f"{len(table)} faults, each alone")
        return verdict, table


def mix(plan: Plan) -> Verdict:
    """All faults of the network and of the service at once, each on a share of the calls."""
    with _stage(plan) as stage:
        stage.open()
        names = [
            "reset_before", "reset_after", "cut", "truncated", "status=500", "html", "empty", "hang_after",
            "503_long=1", "404", "E6=500", "slow_loris=0.2", "unknown_status", "backwards", "uppercase",
        ]  # fmt: skip
        share = 1 - (1 - SHARE) ** (1 / len(names))
        stage.api.set_faults(f"{name}@p={share:.5f}" for name in names)
        ids = stage.submit([f"mixed {number}" for number in range(plan.size)], timeout=3 * TIMEOUT)
        stage.wait()
        verdict = judge("faults mixed", stage.book, stage.api, also=(UNKNOWN,))
        hit = sum(stage.api.counts.faults.values())
        calls = stage.api.counts.posts + stage.api.counts.gets
        verdict.notes += [f"{hit} of {calls} calls hit", f"{verdict.unknown} of {len(ids)} OutcomeUnknown"]
        return verdict


def _timeout(fault: str) -> float:
    return TIMEOUT / 5 if fault.startswith("stuck") else TIMEOUT


def _stage(plan: Plan) -> Stage:
    options = api_for(plan, durations=AfterPolls(3))
    return Stage(
        plan,
        options,
        FREDDY_READ_TIMEOUT="1",
        FREDDY_MISSING_GRACE="4",
        FREDDY_LEASE="4",
        FREDDY_TIERS="inf:0.5",
    )
