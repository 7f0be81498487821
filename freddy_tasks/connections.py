"""The state server: which one it is, and a client of it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from celery import Celery
from redis.sentinel import Sentinel

from .errors import ConfigurationError
from .settings import Settings

SOCKET_TIMEOUT = 10.0  # seconds; a dead connection must not hang a worker
CONNECT_TIMEOUT = 5.0
HEALTH_CHECK_INTERVAL = 25
_SCHEMES = {"redis", "rediss", "unix", "redis+socket", "sentinel", "valkey", "valkeys"}
_CERTIFICATES = {
    "CERT_REQUIRED": ssl.CERT_REQUIRED,
    "CERT_OPTIONAL": ssl.CERT_OPTIONAL,
    "CERT_NONE": ssl.CERT_NONE,
}


@dataclass(frozen=True, slots=True)
class StateServer:
    """Address of the Redis that holds the ledger, and which setting named it."""

    url: str = field(repr=False)  # may hold a password: never to be shown
    origin: str
    options: Mapping[str, Any]  # Celery's transport options, for Sentinel's master_name
    tls: Mapping[str, Any] = field(default_factory=dict)  # certificates that Celery's own settings name


def state_server(settings: Settings, app: Celery) -> StateServer:
    """The state server of an app: its own setting, else the result backend or the broker, if Redis.

    Raises `ConfigurationError` when none of the three is.
    """
    if settings.state_url is not None:
        url = settings.state_url.get_secret_value()
        if not is_redis(url):
            raise ConfigurationError(
                "FREDDY_STATE_URL must begin with redis://, rediss://, redis+socket://, unix:// or sentinel://."
            )
        return StateServer(url, "FREDDY_STATE_URL", {})
    backend = app.conf.result_backend or ""
    if isinstance(backend, str) and is_redis(backend):
        return StateServer(
            backend,
            "the result backend",
            app.conf.result_backend_transport_options or {},
            _tls(app.conf.redis_backend_use_ssl),
        )
    broker = app.conf.broker_write_url or app.conf.broker_url or ""
    broker = broker if isinstance(broker, str) else next(iter(broker), "")
    if is_redis(broker):
        return StateServer(
            broker, "the broker", app.conf.broker_transport_options or {}, _tls(app.conf.broker_use_ssl)
        )
    raise ConfigurationError(
        "FREDDY_STATE_URL is not set, and neither the result backend nor the broker is Redis: "
        "set it to the Redis or Valkey that shall keep the ledger."
    )


def connect(server: StateServer) -> redis.Redis:
    """A client of the state server; it connects at its first command.

    Raises `ConfigurationError` for an address that cannot be read.
    """
    common: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
    }
    if server.url.startswith("sentinel://"):
        return _through_sentinel(server, common)
    try:
        return redis.Redis.from_url(
            _for_redis_py(server.url, tls=bool(server.tls)),
            health_check_interval=HEALTH_CHECK_INTERVAL,
            **common,
            **server.tls,
        )
    except (ValueError, TypeError):
        raise ConfigurationError(f"The Redis address in {server.origin} cannot be read.") from None


def is_redis(url: str) -> bool:
    """Whether an address, or the first of several, is that of a Redis or Valkey."""
    return url.partition("://")[0] in _SCHEMES


def reads_from_redis(app: Celery) -> bool:
    """Whether the workers of an app take their messages from Redis."""
    return is_redis(str(app.conf.broker_read_url))


def _tls(chosen: object) -> Mapping[str, Any]:
    return chosen if isinstance(chosen, Mapping) else {}


def _for_redis_py(url: str, *, tls: bool) -> str:
    """Celery's spelling of an address in redis-py's."""
    scheme, _, rest = url.split(";")[0].partition("://")
    if scheme == "redis+socket":
        path, _, query = rest.partition("?")
        return f"unix://{path}" + (f"?{query.replace('virtual_host=', 'db=')}" if query else "")
    scheme = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
    if tls and scheme == "redis":  # Celery takes certificates for the wish, whatever the scheme
        scheme = "rediss"
    for name, value in _CERTIFICATES.items():
        rest = rest.replace(f"ssl_cert_reqs={name}", f"ssl_cert_reqs={value.name[5:].lower()}")
    return f"{scheme}://{rest}"


def _through_sentinel(server: StateServer, common: Mapping[str, Any]) -> redis.Redis:
    """`sentinel://[:password@]host:port/db;sentinel://…`, as Celery spells it, `?master_name=` allowed."""
    parts = [urlsplit(part if "://" in part else f"sentinel://{part}") for part in server.url.split(";")]
    last = parts[-1]
    named = parse_qs(last.query).get("master_name", [server.options.get("master_name")])[0]
    if not named:
        raise ConfigurationError(
            f"The Sentinel address in {server.origin} needs the name of the master: add ?master_name=… "
            "or set master_name in the transport options."
        )
    database = last.path.strip("/")
    password = next((unquote(part.password) for part in parts if part.password), None)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [(part.hostname or "localhost", part.port or 26379) for part in parts],
        sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT, **(server.options.get("sentinel_kwargs") or {})},
        db=int(database) if database.isdigit() else 0,
        password=password,
        **({"ssl": True, **server.tls} if server.tls else {}),
        **common,
    )
    master: redis.Redis = sentinel.master_for(str(named))  # type: ignore[no-untyped-call]
    return master
