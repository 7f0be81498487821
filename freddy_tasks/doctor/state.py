"""The state server: is what it is told kept, and does its clock agree? Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .findings import Finding, advice, error, fine, warning
from .versions import numbers

OLDEST = (6, 2)
LITTLE_ROOM = 0.8  # share of its memory in use from which a server is called nearly full
MOST_SKEW = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class StateFacts:
    """A state server that answers. Sizes are bytes; a `capacity` of 0 stands for no limit of its own."""

    origin: str  # which setting named it
    version: str
    role: str  # master or slave
    clustered: bool
    appends: bool  # it writes an append-only file
    snapshots: bool | None  # it is set to write snapshots; None: it does not tell
    policy: str  # what it does when it is full
    used: int
    capacity: int
    skew: float  # seconds that its clock is ahead of this machine's, beyond what the network explains
    replicas: int  # connected, and up to date but for what is on its way
    guarded: bool  # it refuses writes while too few replicas answer (`min-replicas-to-write`)
    by_sentinel: bool  # clients ask Sentinel for it
    wanted_replicas: int  # FREDDY_STATE_REPLICAS


def judge_state(facts: StateFacts) -> list[Finding]:
    """Every check of a state server that answers."""
    return [
        _server(facts),
        _version(facts),
        _persistence(facts),
        _eviction(facts),
        _memory(facts),
        _clock(facts),
        _replicas(facts),
        _split_brain(facts),
    ]


def unreachable(origin: str, why: str) -> Finding:
    """A state server that does not answer, or not to us."""
    return error(
        "state_server",
        f"The state server, named by {origin}, cannot be used: {why}. Without it nothing is submitted and "
        "nothing that waits goes on.",
        "Start it, and check its address, password and network from this machine.",
    )


def _server(facts: StateFacts) -> Finding:
    if facts.clustered:
        return error(
            "state_server",
            f"The state server, named by {facts.origin}, is a Redis Cluster: each step of a response touches "
            "keys of several slots, which a cluster refuses.",
            "Set FREDDY_STATE_URL to a single server or to Sentinel.",
        )
    if facts.role != "master":
        return error(
            "state_server",
            f"The state server, named by {facts.origin}, is a replica: it refuses every write.",
            "Name its master, or use sentinel://, which follows a failover.",
        )
    return fine("state_server", f"The state server, named by {facts.origin}, answers.")


def _version(facts: StateFacts) -> Finding:
    if numbers(facts.version) < OLDEST:
        return error(
            "state_version",
            f"The state server speaks as Redis {facts.version}; the ledger's scripts need 6.2.",
            "Upgrade it to Redis 6.2 or newer, or to any Valkey.",
        )
    return fine("state_version", f"It speaks as Redis {facts.version}.")


def _persistence(facts: StateFacts) -> Finding:
    name = "state_persistence"
    if facts.appends:
        return fine(name, "It writes an append-only file.")
    if facts.snapshots is None:
        return warning(
            name,
            "It writes no append-only file, and does not tell whether it writes snapshots: a restart may "
            "forget responses under way, paid and never fetched.",
            "Switch on `appendonly yes`, or the persistence that its provider offers.",
        )
    if facts.snapshots:
        return warning(
            name,
            "It only writes snapshots: a restart forgets the responses submitted since the last one, paid "
            "and never fetched.",
            "Set `appendonly yes` and `appendfsync everysec`.",
        )
    return error(
        name,
        "It keeps nothing on disk: a restart forgets every response under way, paid and never fetched.",
        "Set `appendonly yes` and `appendfsync everysec`.",
    )


def _eviction(facts: StateFacts) -> Finding:
    name = "state_eviction"
    if facts.policy == "noeviction":
        return fine(name, "When it is full it refuses writes and drops nothing (noeviction).")
    remedy = "Set `maxmemory-policy noeviction`; a cache belongs on a server of its own."
    if facts.capacity:
        return error(
            name,
            f"When it is full it drops keys ({facts.policy}), and with them responses under way.",
            remedy,
        )
    return warning(
        name,
        f"It has no `maxmemory` yet; with one it would drop keys ({facts.policy}), and responses with them.",
        remedy,
    )


def _memory(facts: StateFacts) -> Finding:
    name = "state_memory"
    if not facts.capacity:
        return fine(name, f"It uses {_size(facts.used)} and has no limit of its own.")
    share = facts.used / facts.capacity
    told = f"It uses {_size(facts.used)} of {_size(facts.capacity)} ({share:.0%})"
    if share >= LITTLE_ROOM:
        return warning(
            name,
            f"{told}: once it is full, nothing is submitted and nothing that waits goes on.",
            "Raise `maxmemory`, shorten `result_expires`, or give the ledger a server of its own.",
        )
    return fine(name, f"{told}.")


def _clock(facts: StateFacts) -> Finding:
    if abs(facts.skew) > MOST_SKEW:
        return warning(
            "state_clock",
            f"Its clock is {abs(facts.skew):.0f} s {'ahead of' if facts.skew > 0 else 'behind'} this "
            "machine's. Responses are not affected, as only its clock counts for them; but `next_poll_at`, "
            "and `eta` and `expires` of your own tasks, are off by as much.",
            "Let NTP set the clocks of both machines.",
        )
    return fine("state_clock", "Its clock agrees with this machine's.")


def _replicas(facts: StateFacts) -> Finding:
    name = "state_replicas"
    has = f"{facts.replicas or 'no'} replica{'' if facts.replicas == 1 else 's'}"
    if facts.wanted_replicas > facts.replicas:
        return error(
            name,
            f"FREDDY_STATE_REPLICAS is {facts.wanted_replicas}, and it has {has}: no prompt is submitted "
            "while it has fewer.",
            "Connect as many, or lower FREDDY_STATE_REPLICAS.",
        )
    if facts.wanted_replicas:
        return fine(name, f"It has {has}; a prompt is sent when {facts.wanted_replicas} of them know of it.")
    if _may_be_replaced(facts):
        return advice(
            name,
            f"It has {has}, and FREDDY_STATE_REPLICAS is 0: after a failover prompts may be forgotten that "
            "were sent in the moment before it, and billed.",
            "Set FREDDY_STATE_REPLICAS=1, which costs a round trip for each submit.",
        )
    return fine(name, "It has no replica to take its place.")


def _split_brain(facts: StateFacts) -> Finding:
    name = "state_split_brain"
    if facts.guarded or not _may_be_replaced(facts):
        return fine(name, "It takes no writes that another master would make it drop.")
    return advice(
        name,
        "While it is cut off from its replicas it goes on taking writes, and drops them when one of those "
        "has become master: messages, cancels, and what was heard of responses.",
        "Set `min-replicas-to-write 1` and `min-replicas-max-lag 10` on it and on its replicas; it then "
        "refuses writes while none of them answers.",
    )


def _may_be_replaced(facts: StateFacts) -> bool:
    return facts.by_sentinel or facts.replicas > 0


def _size(count: int) -> str:
    for unit, size in (("GB", 2**30), ("MB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**10:.0f} kB"
