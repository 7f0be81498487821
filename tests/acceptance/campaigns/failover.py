"""A master that dies, and the replica that Sentinel puts in its place."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Self

import redis
from nodes import CHECKOUT, Sentinel, Valkey, wait_for
from redis.sentinel import Sentinel as Guide

from campaigns import servers
from campaigns.book import Verdict
from campaigns.servers import Outage
from campaigns.stage import Plan, Stage

ROUNDS = 3
SENTINELS, QUORUM = 3, 2
# A Sentinel connects to a new master within a second, and must not take it for dead meanwhile: a second
# failover, back to a replica that has nothing yet, would follow.
LIMITS = {"down_after_milliseconds": 2500, "failover_timeout": 5000}
MARGIN = 0.1  # seconds before a master's death that a replica on the same machine may lack
LAG = 1.0  # seconds that it is made to lack
ASKED = 3  # lost ones for which the command is run


class Guarded:
    """A master, its replica, and three Sentinels that watch them; `url` names all three."""

    def __init__(self) -> None:
        self._exits = contextlib.ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="failover-")))
            password = uuid.uuid4().hex
            first = self._valkey(opened, folder / "first", password)
            second = self._valkey(
                opened, folder / "second", password, "--replicaof", "127.0.0.1", str(first.port)
            )
            self._nodes = {node.port: node for node in (first, second)}
            self._password = password
            places = [folder / f"sentinel-{number}" for number in range(SENTINELS)]
            for place in places:
                place.mkdir()
            sentinels = [Sentinel(place, first, QUORUM, **LIMITS) for place in places]
            for sentinel in sentinels:
                opened.callback(sentinel.teardown)
                sentinel.ready()
            self.url = ";".join(sentinel.url for sentinel in sentinels)
            self._guide = Guide(
                [("127.0.0.1", sentinel.port) for sentinel in sentinels], password=password, socket_timeout=1
            )
            opened.callback(self._guide.close)
            wait_for(self._is_safe)
            self._exits = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @staticmethod
    def _valkey(opened: contextlib.ExitStack, folder: Path, password: str, *options: str) -> Valkey:
        folder.mkdir()
        node = Valkey(folder, *options, password=password)
        opened.callback(node.teardown)
        node.ready()
        return node

    def detach(self) -> None:
        """Let the replica hear nothing more of its master."""
        with self._client(self._other) as client:
            client.config_set("masterauth", "none of yours")
            client.execute_command("CLIENT", "KILL", "TYPE", "master")

    def fail_over(self) -> tuple[float, float]:
        """Kill the master; when it died, and when the replica was promoted, in Unix seconds.

        The dead one comes back, and becomes its replica.
        """
        replica = self._other
        [master] = [node for node in self._nodes.values() if node is not replica]
        master.kill()
        died = time.time()
        wait_for(lambda: self._promoted(replica))
        promoted = time.time()
        with self._client(replica) as client:
            client.config_set("masterauth", self._password)
        master.start()
        return died, promoted

    def heal(self) -> bool:
        """Wait until another failover is possible."""
        return bool(wait_for(self._is_safe, timeout=60.0))

    @property
    def _other(self) -> Valkey:
        """The one that is no master."""
        _, port = self._guide.discover_master(Sentinel.master)
        [other] = set(self._nodes) - {port}
        return self._nodes[other]

    def _promoted(self, node: Valkey) -> bool:
        """Every Sentinel has it as its master, and has nothing left to do.

        Before that, others would be sent to the old master, which takes writes from its return until a
        Sentinel demotes it, some ten seconds, and then drops them. An address says nothing: a Sentinel tells
        that of the new one while it still watches the old.
        """
        with contextlib.suppress(redis.RedisError):
            listed = [sentinel.sentinel_masters()[Sentinel.master] for sentinel in self._guide.sentinels]
            return all((master["port"], master["flags"]) == (node.port, "master") for master in listed)
        return False

    def _is_safe(self) -> bool:
        """The replica has all that the master has, and every Sentinel knows both and each other."""
        with contextlib.suppress(redis.RedisError):
            for sentinel in self._guide.sentinels:
                sentinel.execute_command("SENTINEL", "CKQUORUM", Sentinel.master)
                if len(sentinel.sentinel_slaves(Sentinel.master)) != 1:
                    return False
            _, port = self._guide.discover_master(Sentinel.master)
            with self._client(self._other) as client:
                info = client.info("replication")
                return info.get("master_link_status") == "up" and info.get("master_port") == port
        return False

    def _client(self, node: Valkey) -> redis.Redis:
        return redis.Redis(port=node.port, password=self._password)


def run(plan: Plan, lag: float = 0.0, rounds: int = ROUNDS, replicas: int = 0) -> Verdict:
    """Kill the master with responses under way, `rounds` times; with a `lag`, its last writes are gone.

    What was first written within that time nobody can have: the verdict says what became of it, and holds
    only what is gone without a trace against the package. With FREDDY_STATE_REPLICAS, which is `replicas`,
    it also holds against it whatever was sent and forgotten, or sent again.
    """
    outages: list[Outage] = []

    def break_it(stage: Stage) -> None:
        for _ in range(rounds):
            stage.server.heal()
            stage.send(plan.size // 4 // rounds)
            time.sleep(stage.random.uniform(0.3, 1.5))
            detached = time.time()
            if lag:
                stage.server.detach()
            stage.send(plan.size // 4 // rounds)
            time.sleep(lag)
            died, promoted = stage.server.fail_over()
            outages.append(Outage(died, promoted, died - detached + MARGIN if lag else MARGIN))
            stage.supervise()

    def check(stage: Stage, verdict: Verdict, swallowed: list[str]) -> None:
        _told_of(stage, verdict, swallowed)
        if replicas:
            _hold_to_replicas(stage, verdict, swallowed)

    name = f"failover, {lag:g} s behind" if lag else "failover"
    verdict = servers.ride(
        f"{name}, replicas asked" if replicas else name,
        plan,
        break_it,
        outages,
        server=Guarded(),
        check=check,
        SURVIVE_MASTER=Sentinel.master,
        FREDDY_STATE_REPLICAS=str(replicas),
    )
    slowest = max(outage.ended - outage.began for outage in outages)
    verdict.notes.append(f"{rounds} failovers, promoted within {slowest:.1f} s")
    return verdict


def _told_of(stage: Stage, verdict: Verdict, swallowed: list[str]) -> None:
    """Ask `freddy-tasks status` for messages that are gone, as whoever misses their answers would."""
    if not swallowed:
        return
    paid = _sent_of(stage, swallowed)
    asked = swallowed[:ASKED]
    silent = [task_id for task_id in asked if not _says_unknown(stage, task_id)]
    verdict.lost += [f"{task_id} is gone, and `status` does not say so" for task_id in silent]
    verdict.notes.append(
        f"{len(swallowed)} gone, message and record, {len(paid)} of them sent to the API; "
        f"`status`, asked for {len(asked)}, says of {len(asked) - len(silent)} that it is not known"
    )


def _hold_to_replicas(stage: Stage, verdict: Verdict, swallowed: list[str]) -> None:
    """Hold against the package what the replicas would have known, had it asked them."""
    verdict.lost += [f"{task_id} was sent, and is forgotten" for task_id in _sent_of(stage, swallowed)]
    times = Counter(job.prompt_sha256 for job in stage.api.jobs())
    verdict.double_submitted += [
        f"{task_id} made {times[stage.book.digest(task_id)]} jobs"
        for task_id in stage.book.sent
        if times[stage.book.digest(task_id)] > 1
    ]
    verdict.notes.append(f"{stage.logs().count('its prompt waits (1 times')} prompts waited for a replica")


def _sent_of(stage: Stage, task_ids: list[str]) -> list[str]:
    sent = {job.prompt_sha256 for job in stage.api.jobs()}
    return [task_id for task_id in task_ids if stage.book.digest(task_id) in sent]


def _says_unknown(stage: Stage, task_id: str) -> bool:
    argv = [sys.executable, "-m", "freddy_tasks", "status", task_id, "--json", "-A", "campaigns.app"]
    told = subprocess.run(argv, env=stage.environment(), cwd=CHECKOUT, capture_output=True, text=True)
    return told.returncode == 1 and json.loads(told.stdout)["phase"] is None
