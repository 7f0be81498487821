"""Where the ledger is kept: every spelling of a Redis address that Celery and redis-py know."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr

from freddy_tasks.connections import StateServer, connect, state_server
from freddy_tasks.errors import ConfigurationError
from freddy_tasks.settings import Settings

SECRET = "s3cr:t/@"
QUOTED = "s3cr%3At%2F%40"


def settings(url: str | None = None) -> Settings:
    """Settings of which only the address of the state server counts."""
    return Settings(api_key=SecretStr("key"), state_url=SecretStr(url) if url else None)


def parameters(url: str, **options: Any) -> dict[str, Any]:
    """What redis-py would connect with."""
    pool = connect(StateServer(url, "FREDDY_STATE_URL", options)).connection_pool
    return {**pool.connection_kwargs, "kind": pool.connection_class.__name__}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"kind": "Connection"}),
        ("redis://cache:6380/3", {"host": "cache", "port": 6380, "db": 3}),
        ("redis://cache/", {"host": "cache"}),
        ("redis://[::1]:6380/1", {"host": "::1", "port": 6380, "db": 1}),
        (f"redis://:{QUOTED}@cache/0", {"host": "cache", "password": SECRET}),
        (f"redis://ann:{QUOTED}@cache/0", {"username": "ann", "password": SECRET}),
        ("valkey://cache:6380/3", {"host": "cache", "port": 6380, "db": 3, "kind": "Connection"}),
        ("rediss://cache/2", {"host": "cache", "db": 2, "kind": "SSLConnection"}),
        ("valkeys://cache/2", {"host": "cache", "db": 2, "kind": "SSLConnection"}),
        ("rediss://cache?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": "none"}),
        ("rediss://cache?ssl_cert_reqs=CERT_REQUIRED", {"ssl_cert_reqs": "required"}),
        ("rediss://cache?ssl_cert_reqs=CERT_OPTIONAL", {"ssl_cert_reqs": "optional"}),
        ("rediss://cache?ssl_cert_reqs=none", {"ssl_cert_reqs": "none"}),
        ("rediss://cache?ssl_ca_certs=%2Fetc%2Fca.pem", {"ssl_ca_certs": "/etc/ca.pem"}),
        ("unix:///run/valkey.sock", {"path": "/run/valkey.sock", "kind": "UnixDomainSocketConnection"}),
        ("unix:///run/valkey.sock?db=4", {"path": "/run/valkey.sock", "db": 4}),
        ("redis+socket:///run/valkey.sock", {"path": "/run/valkey.sock"}),
        ("redis+socket:///run/valkey.sock?virtual_host=4", {"path": "/run/valkey.sock", "db": 4}),
        (f"redis+socket://:{QUOTED}@/run/valkey.sock", {"path": "/run/valkey.sock", "password": SECRET}),
    ],
)
def test_an_address_reaches_the_server_it_names(url: str, expected: dict[str, Any]) -> None:
    """As Celery would read it."""
    found = parameters(url)

    assert {name: found.get(name) for name in expected} == expected
    assert found["decode_responses"] is True
    assert found["socket_timeout"] > 0


@pytest.mark.parametrize(
    ("url", "nodes", "database", "password"),
    [
        ("sentinel://a:26379/0?master_name=prime", [("a", 26379)], 0, None),
        ("sentinel://a/2?master_name=prime", [("a", 26379)], 2, None),
        (
            "sentinel://a:1;sentinel://b:2;sentinel://c:3/5?master_name=prime",
            [("a", 1), ("b", 2), ("c", 3)],
            5,
            None,
        ),
        (f"sentinel://:{QUOTED}@a:1;b:2/1?master_name=prime", [("a", 1), ("b", 2)], 1, SECRET),
    ],
)
def test_a_sentinel_address_names_its_nodes_and_its_master(
    url: str, nodes: list[tuple[str, int]], database: int, password: str | None
) -> None:
    """Celery's list with semicolons; the master's name in the address."""
    pool: Any = connect(StateServer(url, "FREDDY_STATE_URL", {})).connection_pool

    assert pool.service_name == "prime"
    assert [
        (node.connection_pool.connection_kwargs["host"], node.connection_pool.connection_kwargs["port"])
        for node in pool.sentinel_manager.sentinels
    ] == nodes
    assert pool.connection_kwargs["db"] == database
    assert pool.connection_kwargs.get("password") == password


def test_a_sentinel_s_master_may_be_named_in_celery_s_options() -> None:
    """`master_name` of the transport options, and what the sentinels themselves ask for."""
    options = {"master_name": "prime", "sentinel_kwargs": {"password": "guard"}}
    pool: Any = connect(StateServer("sentinel://a:1/0", "the broker", options)).connection_pool

    assert pool.service_name == "prime"
    assert pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs["password"] == "guard"


def test_a_sentinel_without_a_master_says_what_to_add() -> None:
    """The error names the setting, not the address with its password."""
    with pytest.raises(ConfigurationError, match=r"FREDDY_STATE_URL.*master_name") as caught:
        connect(StateServer(f"sentinel://:{QUOTED}@a:1/0", "FREDDY_STATE_URL", {}))

    assert QUOTED not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache:port/0",
        "redis://cache:99999999/0",
        "rediss://cache?ssl_cert_reqs=maybe&max_connections=x",
    ],
)
def test_an_unreadable_address_names_its_setting_and_hides_itself(url: str) -> None:
    """An address may hold a password."""
    with pytest.raises(ConfigurationError, match="FREDDY_STATE_URL") as caught:
        connect(StateServer(url, "FREDDY_STATE_URL", {}))

    assert url not in str(caught.value)


@pytest.mark.parametrize("url", ["amqp://host", "postgresql://host", "localhost:6379", "http://cache"])
def test_only_a_redis_can_keep_the_ledger(url: str) -> None:
    """Anything else in FREDDY_STATE_URL is refused at the start."""
    with pytest.raises(ConfigurationError, match="FREDDY_STATE_URL must begin with"):
        state_server(settings(url), Celery(set_as_current=False))


@pytest.mark.parametrize(
    ("own", "backend", "broker", "url", "origin"),
    [
        ("redis://own", "redis://backend", "redis://broker", "redis://own", "FREDDY_STATE_URL"),
        (None, "redis://backend", "redis://broker", "redis://backend", "the result backend"),
        (None, "db+sqlite:///results", "redis://broker", "redis://broker", "the broker"),
        (None, None, "redis://broker", "redis://broker", "the broker"),
        (None, "rpc://", "rediss://broker", "rediss://broker", "the broker"),
        (None, "redis://backend", "amqp://broker", "redis://backend", "the result backend"),
        (None, None, "sentinel://a:1;sentinel://b:2", "sentinel://a:1;sentinel://b:2", "the broker"),
    ],
)
def test_the_ledger_s_place_is_the_first_redis_of_three(
    own: str | None, backend: str | None, broker: str, url: str, origin: str
) -> None:
    """Its own setting, the result backend, the broker."""
    app = Celery(broker=broker, backend=backend, set_as_current=False)

    found = state_server(settings(own), app)
    assert (found.url, found.origin) == (url, origin)


def test_without_any_redis_the_error_names_the_setting() -> None:
    """RabbitMQ and a database know no ledger."""
    app = Celery(broker="amqp://broker", backend="db+sqlite:///results", set_as_current=False)

    with pytest.raises(ConfigurationError, match="FREDDY_STATE_URL is not set"):
        state_server(settings(), app)


@pytest.mark.parametrize("scheme", ["rediss", "redis"])
@pytest.mark.parametrize(
    ("backend", "setting"), [("{}://backend/0", "redis_backend_use_ssl"), (None, "broker_use_ssl")]
)
def test_certificates_of_celery_s_own_settings_are_used(
    scheme: str, backend: str | None, setting: str
) -> None:
    """They hold for the ledger where it shares the server of the result backend or the broker."""
    app = Celery(
        broker=f"{scheme}://broker/0", backend=backend and backend.format(scheme), set_as_current=False
    )
    app.conf[setting] = {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_ca_certs": "/etc/ca.pem"}

    pool = connect(state_server(settings(), app)).connection_pool
    assert pool.connection_class.__name__ == "SSLConnection"
    assert pool.connection_kwargs["ssl_ca_certs"] == "/etc/ca.pem"
    assert pool.connection_kwargs["ssl_cert_reqs"] == ssl.CERT_NONE


def test_certificates_hold_for_a_master_behind_sentinels() -> None:
    """The master is reached with them as well."""
    tls = {"ssl_ca_certs": "/etc/ca.pem"}
    pool: Any = connect(StateServer("sentinel://a?master_name=prime", "the broker", {}, tls)).connection_pool

    assert pool.connection_class.__name__ == "SentinelManagedSSLConnection"
    assert pool.connection_kwargs["ssl_ca_certs"] == "/etc/ca.pem"
