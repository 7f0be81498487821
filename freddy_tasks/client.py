"""The three calls of the API: submit, retrieve, cancel. Each is made once, and none raises."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, Self
from urllib.parse import quote, urlsplit

from pydantic import SecretStr
from requests import PreparedRequest
from requests.auth import AuthBase

from . import wire
from .errors import ConfigurationError
from .hints import read_hints
from .models import CallFailed, FailureKind, Reply, Request, Seen
from .redaction import texts_of
from .settings import Settings
from .transport import LARGEST_REPLY, NoReply, RawReply, Transport

PATH = "/v1/model/response"


class _Reader(Protocol):
    def __call__(
        self, status_code: int, body_bytes: bytes, headers: Mapping[str, str], *, secrets: Sequence[str]
    ) -> Seen: ...


class Client:
    """The API at one address, with one key; for any number of threads, greenlets and forked processes.

    `connect_timeout` and `read_timeout` are seconds: for each attempt to connect, and for the whole
    exchange after it, however slowly it trickles. Replies are read up to `LARGEST_REPLY` bytes.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: SecretStr,
        auth_scheme: str,
        message_shape: wire.MessageShape,
        organization_id: str | None,
        connect_timeout: float,
        read_timeout: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = _root_of(base_url)
        self._api_key = api_key
        self._auth_scheme = auth_scheme
        self._message_shape = message_shape
        self._organization_id = organization_id
        self._read_timeout = read_timeout
        self._clock = clock
        self._transport = Transport(connect_timeout=connect_timeout, read_timeout=read_timeout)

    @classmethod
    def from_settings(cls, settings: Settings, clock: Callable[[], float] = time.time) -> Self:
        """The client that the settings describe."""
        return cls(
            base_url=settings.base_url,
            api_key=settings.api_key,
            auth_scheme=settings.auth_scheme,
            message_shape=settings.message_shape,
            organization_id=settings.organization_id,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.reply_timeout,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"Client({self._root!r})"

    def create(self, request: Request, idempotency_key: str) -> Reply:
        """Submit a request in background mode: one POST, never repeated here.

        It goes over a new connection. An idle one costs a round trip or two less, but may be closed by the
        server just as the request leaves, and a submit must not end as unknown for that.
        """
        body = wire.create_body(request, shape=self._message_shape, organization_id=self._organization_id)
        secrets = texts_of([request.prompt, request.fields.get("instructions")])
        # The API documents no idempotency key here; quoted, so that any task id makes a valid header.
        headers = {"Content-Type": "application/json", "Idempotency-Key": quote(idempotency_key)}
        return self._call("POST", "", wire.read_created, secrets, json.dumps(body).encode(), headers)

    def retrieve(self, response_id: str) -> Reply:
        """Look at a response: one GET."""
        return self._call("GET", response_id, wire.read_retrieved)

    def cancel(self, response_id: str) -> Reply:
        """Ask the API to stop a response: one DELETE. It may yet end otherwise."""
        return self._call("DELETE", response_id, wire.read_cancelled)

    def close(self) -> None:
        """Close idle connections; the client stays usable."""
        self._transport.close()

    def _call(
        self,
        method: str,
        response_id: str,
        read: _Reader,
        texts: Sequence[str] = (),
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        key = self._api_key.get_secret_value().strip()
        if not (key.isascii() and key.isprintable()):
            return _failed(FailureKind.DENIED, "FREDDY_API_KEY holds characters that no header can carry.")
        if method != "POST" and not response_id.strip("."):
            # `..` would be resolved to another route on its way.
            return _failed(FailureKind.NOT_FOUND, "No response has an empty id, or one of dots only.")
        scoped = method != "POST" and self._organization_id is not None
        reply = self._transport.exchange(
            method,
            self._root + PATH + ("/" + _quoted(response_id) if response_id else ""),
            auth=_KeyHeader(self._auth_scheme, key),
            headers={**_common_headers(), **(headers or {})},
            params={"organizationId": self._organization_id or ""} if scoped else None,
            data=data,
            fresh=method == "POST",
        )
        if isinstance(reply, NoReply):
            return self._unanswered(reply)
        return self._answered(method, reply, read, [key, *texts])

    def _unanswered(self, reply: NoReply) -> Reply:
        if not reply.sent:
            message = f"No connection to {self._root}: {reply.why}. Check FREDDY_BASE_URL and the network."
            return _failed(FailureKind.UNSENT, message)
        message = f"The API gave no whole reply within {self._read_timeout:g} s: {reply.why}."
        return _failed(FailureKind.TRANSIENT, message)

    def _answered(self, method: str, reply: RawReply, read: _Reader, secrets: Sequence[str]) -> Reply:
        refused = not 200 <= reply.status_code < 300
        body = wire.parse_json(reply.body) if refused else None
        hints = read_hints(reply.headers, body, self._clock())
        if not refused and not reply.whole:
            return Reply(_too_large(method, reply.status_code), hints)
        return Reply(read(reply.status_code, reply.body, reply.headers, secrets=secrets), hints)


class _KeyHeader(AuthBase):
    def __init__(self, scheme: str, key: str) -> None:
        self._scheme = scheme
        self._key = key

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self._scheme == "bearer":
            request.headers["Authorization"] = f"Bearer {self._key}"
        else:
            request.headers["X-API-Key"] = self._key
        return request


def _common_headers() -> dict[str, str]:
    return {
        "Accept": "application/json",
        # A bound on what is read is none on what it expands to.
        "Accept-Encoding": "identity",
        "User-Agent": f"freddy-tasks/{_version()}",
    }


@cache
def _version() -> str:
    try:
        return version("freddy-tasks")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0"


def _root_of(base_url: str) -> str:
    """The address without `/v1` and slash; `ConfigurationError` for what is no address of a server."""
    parts = urlsplit(base_url.strip())
    try:
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(
            "FREDDY_BASE_URL is no address such as https://api.example.com: give scheme and host, and no"
            " user, password, query or fragment."
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix('/v1').rstrip('/')}"


def _quoted(response_id: str) -> str:
    return quote(response_id.encode("utf-8", "replace"), safe="")


def _failed(kind: FailureKind, message: str) -> Reply:
    return Reply(CallFailed(kind, message))


def _too_large(method: str, status_code: int) -> CallFailed:
    """A reply beyond the bound: a poll would meet it again, and a submit was accepted, with its id unread."""
    kind = FailureKind.TRANSIENT if method == "POST" else FailureKind.REFUSED
    size = LARGEST_REPLY // 2**20
    return CallFailed(
        kind,
        f"The reply is larger than {size} MB, the most that is read. Ask for less.",
        http_status=status_code,
    )
