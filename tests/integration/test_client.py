"""The client on real sockets, against servers that behave and servers that do not."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pydantic import SecretStr

from freddy_tasks.client import Client
from freddy_tasks.emulator import AfterPolls, Constant, Emulator, Options
from freddy_tasks.emulator.catalogue import KINDS
from freddy_tasks.errors import ConfigurationError
from freddy_tasks.models import CallFailed, FailureKind, Reply, Request, Response, Status
from freddy_tasks.settings import Settings
from freddy_tasks.transport import LARGEST_REPLY

KEY = "oak_live_0123456789abcdef"
PROMPT = "Tell me a long story about the river and its seven bridges."
QUEUED = {"id": "resp_1", "status": "queued", "created_at": 1_741_476_542}


def reply(body: object = QUEUED, status: int = 200, *headers: str) -> bytes:
    """A whole HTTP reply; a body of bytes goes as it is."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + raw


class Peer:
    """One accepted connection: what it sent, and ways to answer."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number

    def request(self) -> bytes:
        """The next whole request; empty when the client has closed."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := self.sock.recv(65_536)):
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            ),
            0,
        )
        while len(body) < length and (more := self.sock.recv(65_536)):
            body += more
        return head + b"\r\n\r\n" + body

    def reset(self) -> None:
        """Close with a reset instead of an orderly end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def dribble(self, data: bytes, pause: Callable[[], bool]) -> None:
        """Send byte by byte until all is sent, the client is gone, or the test is over."""
        for byte in data:
            if pause():
                return
            try:
                self.sock.sendall(bytes([byte]))
            except OSError:
                return


def then(raw: bytes) -> Callable[[Peer], None]:
    """An ending of a connection: these bytes, and it is closed."""
    return lambda peer: peer.sock.sendall(raw)


class Server:
    """Accepts connections on the loopback and plays one script on each; remembers every request."""

    def __init__(self, script: Callable[[Server, Peer], object]) -> None:
        self.requests: list[tuple[int, bytes]] = []
        self.over = threading.Event()
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._peers: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self, peer: Peer, answer: Callable[[bytes], bytes]) -> None:
        """Answer requests on one connection until the client closes it."""
        while data := peer.request():
            self.requests.append((peer.number, data))
            peer.sock.sendall(answer(data))

    def close(self) -> None:
        """End every script and every connection."""
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for peer in self._peers:
            peer.close()
        self._threads[0].join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(10)
            self._peers.append(sock)
            thread = threading.Thread(target=self._play, args=(Peer(sock, len(self._peers)),))
            self._threads.append(thread)
            thread.start()

    def _play(self, peer: Peer) -> None:
        try:
            self._script(self, peer)
        except OSError:
            pass  # the client has gone, as several tests want it to
        finally:
            peer.sock.close()


Serve = Callable[[Callable[[Server, Peer], object]], Server]
Answering = Callable[..., Server]
Connect = Callable[..., Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start scripted servers; all end with the test."""
    servers: list[Server] = []

    def start(script: Callable[[Server, Peer], object]) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def answering(serve: Serve) -> Answering:
    """Start a server that gives every request the same answer."""

    def start(raw: bytes | None = None) -> Server:
        return serve(lambda server, peer: server.serve(peer, lambda _: raw or reply()))

    return start


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Make clients, free of the machine's own proxies."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    clients: list[Client] = []

    def make(url: str, **changes: object) -> Client:
        options: dict[str, object] = {
            "api_key": SecretStr(KEY),
            "auth_scheme": "bearer",
            "message_shape": "texts",
            "organization_id": None,
            "connect_timeout": 5.0,
            "read_timeout": 5.0,
            "clock": lambda: 1_000.0,
        }
        clients.append(Client(base_url=url, **(options | changes)))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def failure(seen: object) -> CallFailed:
    """The failure that was expected, with its text free of secrets."""
    assert isinstance(seen, CallFailed), seen
    assert KEY not in seen.message
    assert "seven bridges" not in seen.message
    return seen


def head_and_body(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """First line, headers in lower case, body of a recorded request."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in lines}, body


class TestRequests:
    """What leaves this machine."""

    def test_submit_is_the_documented_post(self, answering: Answering, connect: Connect) -> None:
        """Path, headers and body as the API documents them, and our idempotency key."""
        server = answering()

        seen = connect(server.url).create(Request(PROMPT, "gpt-4.1", {"temperature": 0}), "task-1").seen

        first, headers, body = head_and_body(server.requests[0][1])
        assert isinstance(seen, Response)
        assert (seen.id, seen.status) == ("resp_1", Status.QUEUED)
        assert first == "POST /v1/model/response HTTP/1.1"
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["idempotency-key"] == "task-1"
        assert headers["content-type"] == "application/json"
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("freddy-tasks/")
        assert "cookie" not in headers
        assert json.loads(body) == {
            "model": "gpt-4.1",
            "background": True,
            "temperature": 0,
            "inputs": [{"role": "user", "texts": [{"text": PROMPT}]}],
        }

    def test_other_dialect_is_only_settings(self, answering: Answering, connect: Connect) -> None:
        """Key header, message shape and organization follow the settings, in every call."""
        server = answering()
        client = connect(
            server.url, auth_scheme="x-api-key", message_shape="content", organization_id="org 1"
        )

        client.create(Request("Hi", "m"), "k")
        client.retrieve("resp_1")
        client.cancel("resp_1")

        posted, got, deleted = (head_and_body(data) for _, data in server.requests)
        assert posted[1]["x-api-key"] == KEY
        assert "authorization" not in posted[1]
        assert json.loads(posted[2])["inputs"] == [{"role": "user", "content": "Hi"}]
        assert json.loads(posted[2])["organization_id"] == "org 1"
        assert got[0] == "GET /v1/model/response/resp_1?organizationId=org+1 HTTP/1.1"
        assert deleted[0] == "DELETE /v1/model/response/resp_1?organizationId=org+1 HTTP/1.1"

    @pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
    def test_address_may_end_in_version_or_slash(
        self, answering: Answering, connect: Connect, suffix: str
    ) -> None:
        """The route is the same with and without `/v1` and slash."""
        server = answering()

        connect(server.url + suffix).retrieve("resp_1")

        assert server.requests[0][1].startswith(b"GET /v1/model/response/resp_1 HTTP/1.1")

    @pytest.mark.parametrize(
        "url",
        ["", "api.example.com", "ftp://x", "https://", "https://a:b@c", "https://c?x=1", "http://c:99999"],
    )
    def test_unusable_address_is_named_at_once(self, connect: Connect, url: str) -> None:
        """A wrong FREDDY_BASE_URL fails at start, not in a task."""
        with pytest.raises(ConfigurationError, match="FREDDY_BASE_URL"):
            connect(url)

    @pytest.mark.parametrize("response_id", ["a/b?c=d#e", "../secrets", "\udcff", "ü %2e", "x" * 500])
    def test_id_stays_one_segment_of_the_path(
        self, answering: Answering, connect: Connect, response_id: str
    ) -> None:
        """Whatever the server once called an id, it cannot lead to another route."""
        server = answering()

        connect(server.url).retrieve(response_id)

        path = server.requests[0][1].split(b" ")[1]
        assert path.startswith(b"/v1/model/response/")
        assert path.count(b"/") == 4
        assert b"?" not in path

    @pytest.mark.parametrize("response_id", ["", ".", ".."])
    def test_id_that_is_no_segment_is_not_sent(
        self, answering: Answering, connect: Connect, response_id: str
    ) -> None:
        """Dot segments would be resolved on their way: there is no such response."""
        server = answering()

        seen = failure(connect(server.url).retrieve(response_id).seen)

        assert seen.kind is FailureKind.NOT_FOUND
        assert server.requests == []

    def test_netrc_does_not_replace_the_key(
        self, answering: Answering, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A `.netrc` entry for the host must not send another account's credentials."""
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login someone password else\n")
        monkeypatch.setenv("NETRC", str(netrc))
        server = answering()

        connect(server.url).retrieve("resp_1")
        connect(server.url, auth_scheme="x-api-key").retrieve("resp_1")

        bearer, own = (head_and_body(data)[1] for _, data in server.requests)
        assert bearer["authorization"] == f"Bearer {KEY}"
        assert "authorization" not in own

    @pytest.mark.parametrize("key", ["oak\nX-Evil: 1", "oak_ü"])
    def test_key_that_no_header_can_carry_is_not_sent(
        self, answering: Answering, connect: Connect, key: str
    ) -> None:
        """A key with a line break or a letter beyond ASCII fails by name, without being shown."""
        server = answering()

        seen = failure(connect(server.url, api_key=SecretStr(key)).retrieve("resp_1").seen)

        assert seen.kind is FailureKind.DENIED
        assert "FREDDY_API_KEY" in seen.message
        assert key not in seen.message
        assert server.requests == []

    def test_key_may_end_in_a_line_break(self, answering: Answering, connect: Connect) -> None:
        """Files of secrets usually do."""
        server = answering()

        connect(server.url, api_key=SecretStr(KEY + "\n")).retrieve("resp_1")

        assert head_and_body(server.requests[0][1])[1]["authorization"] == f"Bearer {KEY}"

    def test_repr_shows_no_key(self, connect: Connect) -> None:
        """Nor does anything else that prints a client."""
        client = connect("http://127.0.0.1:9")

        assert KEY not in repr(client)
        assert "127.0.0.1" in repr(client)

    def test_settings_describe_a_client(self, answering: Answering, connect: Connect) -> None:
        """Every setting of the client reaches the wire."""
        server = answering()
        settings = Settings(
            api_key=SecretStr(KEY), base_url=server.url, auth_scheme="x-api-key", organization_id="org_1"
        )

        client = Client.from_settings(settings)
        client.retrieve("resp_1")
        client.close()

        assert head_and_body(server.requests[0][1])[1]["x-api-key"] == KEY
        assert b"organizationId=org_1" in server.requests[0][1]


class TestConnections:
    """Which calls share a connection."""

    def test_polls_reuse_a_connection_and_submits_do_not(
        self, answering: Answering, connect: Connect
    ) -> None:
        """A submit must not meet an idle connection that the server is just closing."""
        server = answering()
        client = connect(server.url)

        client.retrieve("a")
        client.retrieve("b")
        client.create(Request("Hi", "m"), "k")
        client.retrieve("c")

        assert [number for number, _ in server.requests] == [1, 1, 2, 2]

    def test_threads_never_share_a_connection_at_once(self, serve: Serve, connect: Connect) -> None:
        """Eight calls that wait for each other need eight connections; later ones reuse them."""
        together = threading.Barrier(8, timeout=10)

        def script(server: Server, peer: Peer) -> None:
            def answer(data: bytes) -> bytes:
                together.wait()
                return reply({"id": data.split(b" ")[1].decode().rsplit("/", 1)[1], "status": "queued"})

            server.serve(peer, answer)

        server = serve(script)
        client = connect(server.url)
        with ThreadPoolExecutor(8) as pool:
            rounds = [list(pool.map(client.retrieve, [f"r{n}" for n in range(8)])) for _ in range(3)]

        assert [[seen.seen.id for seen in row if isinstance(seen.seen, Response)] for row in rounds] == [
            [f"r{n}" for n in range(8)]
        ] * 3
        assert {number for number, _ in server.requests} == set(range(1, 9))

    # Python 3.12 and later warn of what is tested here.
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_forked_child_uses_its_own_connection(self, answering: Answering, connect: Connect) -> None:
        """Parent and child would otherwise read each other's replies."""
        server = answering()
        client = connect(server.url)
        client.retrieve("parent")

        child = os.fork()
        if child == 0:
            seen = client.retrieve("child").seen
            os._exit(0 if isinstance(seen, Response) else 1)
        _, status = os.waitpid(child, 0)
        client.retrieve("parent-again")

        numbers = {data.split(b" ")[1].rsplit(b"/", 1)[1]: number for number, data in server.requests}
        assert status == 0
        assert numbers[b"child"] != numbers[b"parent"]
        assert numbers[b"parent-again"] == numbers[b"parent"]

    def test_connection_closed_by_the_server_is_replaced(self, serve: Serve, connect: Connect) -> None:
        """`Connection: close` ends one connection, not the polling."""
        last = reply(QUEUED, 200, "Connection: close")

        def script(server: Server, peer: Peer) -> None:
            server.requests.append((peer.number, peer.request()))
            peer.sock.sendall(last)

        server = serve(script)
        client = connect(server.url)

        seen = [client.retrieve("a").seen, client.retrieve("b").seen]

        assert all(isinstance(each, Response) for each in seen)
        assert [number for number, _ in server.requests] == [1, 2]


class TestFailures:
    """What a failed exchange is called, and that it always ends."""

    @pytest.mark.parametrize("call", ["create", "retrieve"])
    def test_refused_connection_sent_nothing(self, connect: Connect, call: str) -> None:
        """A closed port: repeating is safe, even a submit."""
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        client = connect(url)

        seen = (
            client.create(Request(PROMPT, "m"), "k").seen if call == "create" else client.retrieve("r").seen
        )

        assert failure(seen).kind is FailureKind.UNSENT
        assert "FREDDY_BASE_URL" in failure(seen).message

    def test_failed_tls_handshake_sent_nothing(self, serve: Serve, connect: Connect) -> None:
        """A server without TLS: the request never left."""
        server = serve(lambda _, peer: peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))

        seen = failure(connect(server.url.replace("http:", "https:")).create(Request(PROMPT, "m"), "k").seen)

        assert seen.kind is FailureKind.UNSENT

    def test_silent_tls_handshake_ends_at_the_connect_timeout(self, serve: Serve, connect: Connect) -> None:
        """A server that accepts and says nothing."""
        server = serve(lambda server, _: server.over.wait(10))

        client = connect(server.url.replace("http:", "https:"), connect_timeout=0.1)

        assert failure(client.create(Request(PROMPT, "m"), "k").seen).kind is FailureKind.UNSENT

    def test_proxy_that_refuses_sent_nothing(
        self, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tunnel was not granted, so the API saw nothing; the proxy's password stays hidden."""

        def script(server: Server, peer: Peer) -> None:
            server.requests.append((peer.number, peer.request()))
            peer.sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

        proxy = serve(script)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:hidden-password@"))

        seen = failure(connect("https://api.example.com").create(Request(PROMPT, "m"), "k").seen)

        assert proxy.requests[0][1].startswith(b"CONNECT api.example.com:443")
        assert seen.kind is FailureKind.UNSENT
        assert "hidden-password" not in seen.message

    def test_missing_certificate_bundle_sent_nothing(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A fault of this machine is not an unknown outcome."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")

        seen = failure(connect("https://127.0.0.1:9").create(Request(PROMPT, "m"), "k").seen)

        assert seen.kind is FailureKind.UNSENT

    @pytest.mark.parametrize(
        "ending",
        [
            Peer.reset,
            then(b""),
            then(b"garbage\r\n\r\n"),
            then(b"HTTP/1.1 200 OK\r\nContent-Le"),
            then(reply()[:-5]),
            then(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            then(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nabcdef"),
            then(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200),
            then(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000),
        ],
        ids=[
            "reset",
            "closed",
            "garbage",
            "cut-head",
            "cut-body",
            "bad-chunk",
            "two-lengths",
            "many",
            "long",
        ],
    )
    @pytest.mark.parametrize("call", ["create", "retrieve", "cancel"])
    def test_reply_that_breaks_off_is_transient(
        self, serve: Serve, connect: Connect, ending: Callable[[Peer], None], call: str
    ) -> None:
        """The request had left: a poll repeats, a submit has an unknown outcome, and nothing raises."""
        client = connect(serve(lambda _, peer: peer.request() and ending(peer)).url)

        seen = client.create(Request(PROMPT, "m"), "k") if call == "create" else getattr(client, call)("r")

        assert failure(seen.seen).kind is FailureKind.TRANSIENT

    def test_submit_is_never_repeated(self, serve: Serve, connect: Connect) -> None:
        """One POST for one call, however it ends."""

        def script(server: Server, peer: Peer) -> None:
            server.requests.append((peer.number, peer.request()))
            peer.reset()

        server = serve(script)
        connect(server.url).create(Request(PROMPT, "m"), "k")

        assert len(server.requests) == 1

    def test_silence_ends_at_the_read_timeout(self, serve: Serve, connect: Connect) -> None:
        """A server that reads and never answers."""
        server = serve(lambda server, peer: peer.request() and server.over.wait(10))

        seen = failure(connect(server.url, read_timeout=0.1).retrieve("r").seen)

        assert seen.kind is FailureKind.TRANSIENT
        assert "0.1 s" in seen.message

    @pytest.mark.parametrize(
        "raw",
        [
            reply(b" " * 100_000),
            b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"y" * 60_000,
            b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
        ],
        ids=["body", "header", "continue", "chunks"],
    )
    def test_trickling_reply_ends_at_the_read_timeout(
        self, serve: Serve, connect: Connect, raw: bytes
    ) -> None:
        """Each byte comes in time, all of them never would: head or body, the whole has one allowance."""
        server = serve(
            lambda server, peer: peer.request() and peer.dribble(raw, lambda: server.over.wait(0.02))
        )
        started = monotonic()

        seen = failure(connect(server.url, read_timeout=0.3).retrieve("r").seen)

        # Sent whole, the shortest of them would take over 20 minutes.
        assert monotonic() - started < 60
        assert seen.kind is FailureKind.TRANSIENT

    def test_server_that_does_not_read_ends_at_the_read_timeout(self, serve: Serve, connect: Connect) -> None:
        """A submit larger than the buffers between: the outcome is unknown, as some of it was sent."""
        server = serve(lambda server, _: server.over.wait(10))
        request = Request("long " * 4_000_000, "m")

        seen = failure(connect(server.url, read_timeout=0.3).create(request, "k").seen)

        assert seen.kind is FailureKind.TRANSIENT

    @pytest.mark.parametrize(
        ("call", "kind"), [("create", FailureKind.TRANSIENT), ("retrieve", FailureKind.REFUSED)]
    )
    def test_giant_reply_is_not_read_to_its_end(
        self, serve: Serve, connect: Connect, call: str, kind: FailureKind
    ) -> None:
        """Fifty megabytes: a poll would meet them again, so it fails for good, and memory stays bounded."""
        block = b" " * 2**20

        def script(_: Server, peer: Peer) -> None:
            peer.request()
            peer.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (50 * 2**20))
            for _ in range(50):
                peer.sock.sendall(block)

        client = connect(serve(script).url, read_timeout=60.0)
        tracemalloc.start()
        seen = client.create(Request("Hi", "m"), "k").seen if call == "create" else client.retrieve("r").seen
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert failure(seen).kind is kind
        assert "16 MB" in failure(seen).message
        assert peak < 1.5 * LARGEST_REPLY

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirect_is_not_followed(
        self, serve: Serve, answering: Answering, connect: Connect, status: int
    ) -> None:
        """The key goes to no other host, and an endless redirect body is not read."""
        elsewhere = answering()

        def script(_: Server, peer: Peer) -> None:
            peer.request()
            head = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}/\r\n\r\n"
            peer.sock.sendall(head.encode())
            while True:
                peer.sock.sendall(b"x" * 65_536)

        seen = failure(connect(serve(script).url, read_timeout=60.0).create(Request(PROMPT, "m"), "k").seen)

        assert seen.kind is FailureKind.UNSUPPORTED
        assert "FREDDY_BASE_URL" in seen.message
        assert elsewhere.requests == []

    def test_error_with_a_broken_body_keeps_its_status(self, serve: Serve, connect: Connect) -> None:
        """A 401 is a 401, even when the connection breaks in the middle of its explanation."""
        raw = reply({"error": {"code": "INVALID_API_KEY", "message": "no"}}, 401)
        server = serve(lambda _, peer: peer.request() and then(raw[:-10])(peer))

        assert failure(connect(server.url).retrieve("r").seen).kind is FailureKind.DENIED

    def test_errors_that_echo_show_neither_key_nor_prompt(self, serve: Serve, connect: Connect) -> None:
        """The service is known to repeat the key; the message that leaves here does not."""

        def answer(data: bytes) -> bytes:
            _, headers, body = head_and_body(data)
            text = json.loads(body)["inputs"][0]["texts"][0]["text"]
            return reply({"title": "Bad", "message": f"Key {headers['authorization'][7:]}: {text}"}, 400)

        server = serve(lambda server, peer: server.serve(peer, answer))

        seen = failure(connect(server.url).create(Request(PROMPT, "m"), "k").seen)

        assert seen.message.startswith("The API answered HTTP 400: Key […]: […]")

    def test_hints_come_with_every_reply(self, answering: Answering, connect: Connect) -> None:
        """Headers and error fields, by the client's clock."""
        error = {"error": {"code": "RATE_LIMIT_EXCEEDED", "message": "Too many", "retry_after": 7}}
        limited = connect(answering(reply(error, 429, "X-RateLimit-Limit: 100")).url).retrieve("r")
        well = connect(answering(reply(QUEUED, 200, "X-RateLimit-Remaining: 5")).url).retrieve("r")

        assert failure(limited.seen).kind is FailureKind.RATE_LIMITED
        assert (limited.hints.limit, limited.hints.retry_at) == (100, 1_007.0)
        assert (well.hints.remaining, well.hints.retry_at) == (5, None)


class TestAgainstTheEmulator:
    """The same client, and a service that keeps its word or is told not to."""

    @pytest.mark.parametrize(
        ("profile", "changes"),
        [("bg", {}), ("get-status", {"organization_id": "org_" + "0" * 32})],
        ids=["bg", "get-status"],
    )
    def test_response_is_followed_to_its_end(
        self, connect: Connect, profile: Any, changes: dict[str, Any]
    ) -> None:
        """Submitted, seen queued, running and completed, in both dialects."""
        with Emulator(Options(profile=profile, durations=AfterPolls(2), time_scale=0)) as api:
            client = connect(api.url, api_key=SecretStr(api.key), **changes)
            submitted = client.create(Request(PROMPT, "gpt-4.1"), "task-1")
            seen = [retrieved(client, submitted) for _ in range(3)]

        assert [each.status for each in seen] == [
            *([Status.QUEUED] if profile == "bg" else [Status.IN_PROGRESS]),
            Status.IN_PROGRESS,
            Status.COMPLETED,
        ]
        assert seen[-1].output_text
        assert seen[-1].completed_at is not None
        assert submitted.hints.limit == 100

    def test_server_that_ignores_background_is_noticed(self, connect: Connect) -> None:
        """The answer is there at once, and there is no id to poll in vain."""
        with Emulator(Options(profile="current", durations=Constant(0.0))) as api:
            client = connect(
                api.url, api_key=SecretStr(api.key), auth_scheme="x-api-key", message_shape="content"
            )
            seen = client.create(Request(PROMPT, "gpt-4.1"), "task-1").seen

        assert isinstance(seen, Response)
        assert seen.background_ignored
        assert seen.output_text

    @pytest.mark.parametrize(
        ("profile", "changes", "words"),
        [
            ("current", {"auth_scheme": "x-api-key"}, "FREDDY_MESSAGE_SHAPE=content"),
            ("current", {"message_shape": "content"}, "FREDDY_AUTH_SCHEME"),
            ("strict", {}, "no background mode"),
            ("bg", {"message_shape": "content"}, "FREDDY_MESSAGE_SHAPE=texts"),
        ],
    )
    def test_wrong_setting_is_named(
        self, connect: Connect, profile: Any, changes: dict[str, Any], words: str
    ) -> None:
        """Each mismatch of settings and server says which setting to change."""
        with Emulator(Options(profile=profile)) as api:
            client = connect(api.url, api_key=SecretStr(api.key), **changes)
            seen = client.create(Request(PROMPT, "gpt-4.1"), "task-1").seen

        assert words in failure(seen).message

    def test_cancel_is_granted_and_seen(self, connect: Connect) -> None:
        """A DELETE, and the next look says so."""
        with Emulator(Options(durations=AfterPolls(5), time_scale=0)) as api:
            client = connect(api.url, api_key=SecretStr(api.key))
            submitted = client.create(Request(PROMPT, "gpt-4.1"), "task-1")
            assert isinstance(submitted.seen, Response)
            retrieved(client, submitted)
            cancelled = client.cancel(str(submitted.seen.id)).seen
            after = retrieved(client, submitted)

        assert isinstance(cancelled, Response)
        assert (cancelled.status, after.status) == (Status.CANCELLED, Status.CANCELLED)

    @pytest.mark.parametrize("name", sorted(KINDS))
    def test_no_fault_raises_or_leaks(self, connect: Connect, name: str) -> None:
        """Whatever goes wrong on any of the calls: a value comes back, without prompt and key."""
        value = {"redirect": "=http://127.0.0.1:9", "ends": "=failed", "failed": "=echo"}.get(name, "")
        with Emulator(Options(durations=AfterPolls(1), time_scale=0)) as api:
            client = connect(api.url, api_key=SecretStr(api.key), read_timeout=0.25)
            submitted = client.create(Request(PROMPT, "gpt-4.1"), "task-1").seen
            api.set_faults([f"{name}{value}"])
            known = str(submitted.id) if isinstance(submitted, Response) else ""
            again = client.create(Request(PROMPT, "gpt-4.1"), "task-2").seen
            born = str(again.id) if isinstance(again, Response) else known
            seen = [
                again,
                *(client.retrieve(one).seen for one in (known, born, born)),
                client.cancel(known).seen,
            ]
            posts = api.counts.posts

        texts = [one.message if isinstance(one, CallFailed) else str(one.error_message) for one in seen]
        assert posts <= 2
        assert not any("seven bridges" in text or api.key in text for text in texts)


def retrieved(client: Client, submitted: Reply) -> Response:
    """One look at a submitted response, which must succeed."""
    assert isinstance(submitted.seen, Response), submitted.seen
    seen = client.retrieve(str(submitted.seen.id)).seen
    assert isinstance(seen, Response), seen
    return seen
