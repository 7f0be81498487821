"""Every pool, every address: twenty responses, one chord, and no connection too many."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery, chord, group
from celery.result import AsyncResult
from nodes import DEADLINE, Sentinel, StartWorker, Valkey, client_of
from redis import Redis

from freddy_tasks import process_ai_response
from freddy_tasks.embedded import EmbeddedServer
from freddy_tasks.emulator import Emulator


def batch(desk: Celery, name: str, count: int = 10) -> AsyncResult:
    """A chord of so many responses."""
    header = [process_ai_response.s(f"{name} {number}") for number in range(count)]
    return chord(header)(desk.tasks["press.collect"].s())


def abouts(name: str, count: int = 10) -> list[str]:
    """Its answers, in order."""
    return [f"About {name} {number}" for number in range(count)]


def connections(server: Redis) -> int:
    """How many clients are connected."""
    return len(server.client_list())


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_pool_answers_without_new_connections(
    pool: str, start_worker: StartWorker, desk: Celery, server: Valkey, api: Emulator
) -> None:
    """Two chords; the second one, of twenty, opens no more than eight at once need for ledger and results."""
    start_worker(pool=pool, concurrency=2 if pool == "prefork" else 8)
    with Redis.from_url(server.url) as probe:
        first = batch(desk, "whales").get(timeout=DEADLINE)
        before = connections(probe)
        second = batch(desk, "otters", 20).get(timeout=DEADLINE)
        after = connections(probe)
        collected = int(probe.get("press.collected") or 0)

    assert first == abouts("whales")
    assert second == abouts("otters", 20)
    assert collected == 2
    assert api.counts.posts == 30
    assert after <= before + 2 * 8


def test_the_processes_of_a_pool_share_no_connection(
    start_worker: StartWorker, desk: Celery, api: Emulator
) -> None:
    """Neither to the API nor to the state server, which is a server of its own here."""
    with EmbeddedServer() as ledger:
        worker = start_worker(pool="prefork", concurrency=2, env={"FREDDY_STATE_URL": ledger.url})
        results = group(process_ai_response.s(f"{number} [emulate: polls=1]") for number in range(20))()
        results.get(timeout=DEADLINE)
        with Redis.from_url(desk.conf.result_backend) as probe:
            hops = {int(pid): int(count) for pid, count in probe.hgetall("press.pids").items()}
        port = int(api.url.rpartition(":")[2])
        sockets = [open_connections(pid, port) for pid in [worker.pid, *worker.children()]]

    assert len(hops) == 2
    assert api.counts.posts + api.counts.gets == 60
    assert sum(map(len, sockets)) == len(set().union(*sockets))
    assert sockets[0] == set()


def open_connections(pid: int, port: int) -> set[str]:
    """Inodes of a process' TCP connections to a port of this machine."""
    wanted = f":{port:04X}"
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    inodes = {fields[9] for fields in lines if fields[2].endswith(wanted)}
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            held.add(target[8:-1])
    return inodes & held


def test_a_unix_socket_serves_as_broker_backend_and_ledger(
    start_worker: StartWorker, valkey: EmbeddedServer
) -> None:
    """Celery's spelling of it, with a database."""
    url = f"{valkey.url}?virtual_host=2"
    desk = client_of(url, url)
    start_worker(env={"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url})

    assert batch(desk, "whales", 3).get(timeout=DEADLINE) == abouts("whales", 3)
    desk.backend.result_consumer.subscribed_to.clear()


def test_a_master_behind_sentinels_serves_as_all_three(
    start_worker: StartWorker, server: Valkey, tmp_path: Path
) -> None:
    """Found through a Sentinel, by its name in Celery's transport options."""
    sentinel = Sentinel(tmp_path, server)
    try:
        sentinel.ready()
        named = {"master_name": Sentinel.master}
        desk = client_of(
            sentinel.url,
            sentinel.url,
            broker_transport_options=named,
            result_backend_transport_options=named,
        )
        worker = start_worker(
            env={
                "CELERY_BROKER_URL": sentinel.url,
                "CELERY_RESULT_BACKEND": sentinel.url,
                "PRESS_MASTER": Sentinel.master,
            }
        )
        answers = batch(desk, "whales", 3).get(timeout=DEADLINE)
        worker.teardown()
        desk.backend.result_consumer.subscribed_to.clear()

        assert answers == abouts("whales", 3)
    finally:
        sentinel.teardown()


def test_a_broker_that_is_no_redis_leaves_the_ledger_to_its_setting(
    start_worker: StartWorker, server: Valkey, tmp_path: Path, environment: dict[str, str]
) -> None:
    """A broker of plain files here; the ledger is where FREDDY_STATE_URL says."""
    folder = tmp_path / "queue"
    folder.mkdir()
    options = {"data_folder_in": str(folder), "data_folder_out": str(folder), "control_folder": str(folder)}
    desk = client_of("filesystem://", server.url, broker_transport_options=options)
    worker = start_worker(
        options=("--without-heartbeat",),
        env={
            "CELERY_BROKER_URL": "filesystem://",
            "PRESS_BROKER_FOLDER": str(folder),
            "FREDDY_STATE_URL": server.url,
        },
    )

    assert batch(desk, "whales", 3).get(timeout=DEADLINE) == abouts("whales", 3)
    assert worker.status == "running"


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        ({"FREDDY_API_KEY": None}, "FREDDY_API_KEY is not set"),
        ({"FREDDY_API_KEY": "  "}, "FREDDY_API_KEY is empty"),
        ({"FREDDY_LEASE": "900"}, "FREDDY_LEASE"),
        ({"FREDDY_STATE_URL": "amqp://elsewhere"}, "FREDDY_STATE_URL must begin with"),
    ],
)
def test_a_worker_without_good_settings_ends_and_says_which(
    start_worker: StartWorker, env: dict[str, str | None], complaint: str
) -> None:
    """At its start, with an exit status; not at the first prompt."""
    worker = start_worker(env=env, wait=False)

    assert worker.wait() != 0
    assert complaint in worker.logs()
    assert "Traceback" not in worker.logs()
