"""One exchange over HTTP, bounded in time and in size, that knows whether anything was sent.

`requests` bounds each read of a socket, not the reply: a server that sends a byte a second is waited for
without end. Its errors do not tell a connection that was never made from one that broke after the request
had gone, and that difference decides whether a submit may be repeated. Both are settled here, in the
connection: it marks the moment the request starts to leave, and gives every send and every read from then
on what is left of one allowance.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from http.client import HTTPException, HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from time import monotonic
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

LARGEST_REPLY = 16 * 1024 * 1024
"""Bytes of a body that are read; an answer of a million tokens has about a quarter of that."""

LARGEST_ERROR = 64 * 1024
"""Bytes of an error's body that are read: only its first words are of use."""

CHUNK = 64 * 1024

MOST_IDLE = 32
"""Sessions kept for the next call, each with one open connection; more calls at once make more."""


@dataclass(frozen=True, slots=True)
class RawReply:
    """A reply as it came; of a body larger than `LARGEST_REPLY` nothing, and `whole` is False."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True


@dataclass(frozen=True, slots=True)
class NoReply:
    """An exchange that brought no reply: why, and whether any of the request may have left this machine."""

    sent: bool
    why: str


class Transport:
    """Exchanges with one server; for any number of threads, greenlets and forked processes.

    `connect_timeout` bounds each attempt to connect, of which there is one for each address of the host;
    `read_timeout` bounds all that follows, from the first byte sent to the last one read. Seconds. Asking a
    name server is bounded by the resolver's own configuration only.
    """

    def __init__(self, *, connect_timeout: float, read_timeout: float) -> None:
        self._timeouts = (connect_timeout, read_timeout)
        self._sessions = _Sessions(partial(_Session, read_timeout))

    def exchange(
        self,
        method: str,
        url: str,
        *,
        auth: AuthBase,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        data: bytes | None = None,
        fresh: bool = False,
    ) -> RawReply | NoReply:
        """Send a request once and read its reply; neither redirects nor repeats.

        `fresh`: over a new connection, since an idle one may have been closed by the server at this moment,
        and then nobody knows whether the request was read.
        """
        with self._sessions.one() as session:
            if fresh:
                session.close()
            session.allowance.reset()
            try:
                # An auth object, even where a header would do: without one, `.netrc` overrides the header.
                with session.request(
                    method,
                    url,
                    auth=auth,
                    headers=headers,
                    params=params,
                    data=data,
                    timeout=self._timeouts,
                    allow_redirects=False,
                    stream=True,
                ) as reply:
                    return _read(reply)
            except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
                return NoReply(session.allowance.started, _why(error))

    def close(self) -> None:
        """Close idle connections; the next call opens new ones."""
        self._sessions.close()


def _read(reply: requests.Response) -> RawReply:
    accepted = 200 <= reply.status_code < 300
    most = LARGEST_REPLY if accepted else LARGEST_ERROR
    chunks: list[bytes] = []
    room = most + 1
    try:
        # As it came: what a compressed body grows to is not bounded by what is read of it.
        while room and (chunk := reply.raw.read(min(CHUNK, room), decode_content=False)):
            chunks.append(chunk)
            room -= len(chunk)
    except (HTTPError, HTTPException, OSError, ValueError):
        if accepted:
            raise
        # Of an error the status says enough.
    if room or not accepted:
        return RawReply(reply.status_code, reply.headers, b"".join(chunks))
    return RawReply(reply.status_code, reply.headers, b"", whole=False)


def _why(error: BaseException) -> str:
    """The innermost reason of an exception; never a URL, which may hold a proxy's password."""
    reasons = list(_chain(error))
    for reason in reversed(reasons):
        if isinstance(reason, ssl.SSLCertVerificationError):
            return f"certificate verification failed: {reason.verify_message}"
        if isinstance(reason, TimeoutError | requests.Timeout):
            return "timed out"
        if isinstance(reason, OSError) and reason.strerror:
            return reason.strerror
    return type(reasons[-1]).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    seen: set[int] = set()
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


class _Allowance:
    """Time for one exchange, shared by a session and its connections; one exchange at a time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: float | None = None

    @property
    def started(self) -> bool:
        """True from the moment the request may have begun to leave."""
        return self._deadline is not None

    def reset(self) -> None:
        self._deadline = None

    def start(self) -> None:
        self._deadline = monotonic() + self._seconds

    def grant(self, sock: socket.socket) -> None:
        """Let the next operation on the socket take what is left; TimeoutError when nothing is."""
        if self._deadline is None:
            return
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        sock.settimeout(left)


class _TimedReads(io.RawIOBase):
    def __init__(self, sock: socket.socket, allowance: _Allowance) -> None:
        self._sock = sock
        self._allowance = allowance
        # The socket counts its files and stays open for them: headers such as `Connection: close` rely on it.
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._allowance.grant(self._sock)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _TimedSocket:
    """As much of a socket as `http.client.HTTPResponse` asks for: a file to read from."""

    def __init__(self, sock: socket.socket, allowance: _Allowance) -> None:
        self._sock = sock
        self._allowance = allowance

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReads(self._sock, self._allowance))


def _timed_response(allowance: _Allowance, sock: Any, *args: Any, **kwargs: Any) -> HTTPResponse:
    shown: Any = _TimedSocket(sock, allowance)
    return HTTPResponse(shown, *args, **kwargs)


class _Timed(HTTPConnection):
    """A connection that starts the allowance when it sends, and keeps to it."""

    def __init__(self, *args: Any, allowance: _Allowance, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allowance = allowance
        self.response_class: Any = partial(_timed_response, allowance)

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        self._allowance.start()
        super().request(*args, **kwargs)

    def send(self, data: Any) -> None:
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            # In pieces: sending over TLS has no timeout for the whole, only one for each write.
            if self.sock is not None:
                self._allowance.grant(self.sock)
            super().send(view[start : start + CHUNK])


@cache
def _timed(kind: type[HTTPConnection]) -> type[_Timed]:
    """That kind of connection, plain, TLS or through SOCKS, with an allowance."""
    return type(f"Timed{kind.__name__}", (_Timed, kind), {})


class _Adapter(HTTPAdapter):
    def __init__(self, allowance: _Allowance) -> None:
        self._allowance = allowance
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not isinstance(pool.ConnectionCls, partial):
            pool.ConnectionCls = partial(_timed(pool.ConnectionCls), allowance=self._allowance)
        return pool


class _Session(requests.Session):
    """A session with one server: it keeps no cookies, looks at no redirect, and asks for proxies once.

    Even when told not to follow a redirect, `requests` 2.34 reads its body, whatever its size, to prepare the
    next request. And it goes through the environment, for proxies and certificates, at each request.
    """

    def __init__(self, read_timeout: float) -> None:
        super().__init__()
        self._merged: Any = None
        self.allowance = _Allowance(read_timeout)
        self.headers.clear()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self.allowance))

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        if self._merged is None:
            self._merged = super().merge_environment_settings(*args, **kwargs)
        return self._merged

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        return None


class _Sessions:
    """Sessions lent to one call at a time, so that no two threads, greenlets or processes share one.

    Not one for each thread: where every task is a new greenlet, no connection would be used twice.
    """

    def __init__(self, make: Callable[[], _Session]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._idle: deque[_Session] = deque()

    @contextmanager
    def one(self) -> Iterator[_Session]:
        session = self._take()
        try:
            yield session
        except BaseException:
            # Interrupted in the middle of a reply: the rest of it would be read as the next one's.
            session.close()
            raise
        self._give_back(session)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> _Session:
        if self._pid != os.getpid():
            # The parent's sockets: left alone, as closing TLS here would end it there.
            self._idle, self._pid = deque(), os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()

    def _give_back(self, session: _Session) -> None:
        if len(self._idle) < MOST_IDLE:
            self._idle.append(session)
        else:
            session.close()
