"""A small HTTP/1.1 server: one thread a connection, kept alive, replies as odd as a test wants them."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus

from freddy_tasks.emulator.exchange import Delivery, Reply, Request

MAX_HEAD = 65_536
MAX_BODY = 64 * 2**20
_CHUNK = 65_536
_BLANKS = b" " * _CHUNK
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadRequest(Exception):
    """What arrived is not HTTP as this server reads it."""


class Connection:
    """Reads requests from one socket and writes replies to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = bytearray()

    def requests(self) -> Iterator[tuple[Request, bool]]:
        """Yield each request, and whether the client keeps the connection open; ends when the client does."""
        while head := self._read_head():
            request, keep = self._parse(head)
            yield request, keep
            if not keep:
                return

    def _read_head(self) -> bytes:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadRequest("head too long")
            data = self.socket.recv(_CHUNK)
            if not data:
                return b""
            self._buffer += data
        return self._take(end + 4)[:-4]

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _parse(self, head: bytes) -> tuple[Request, bool]:
        line, *rest = head.decode("latin-1").split("\r\n")
        try:
            method, target, version = line.split(" ")
            pairs = (header.split(":", 1) for header in rest)
            headers = {name.lower(): value.strip() for name, value in pairs}
        except ValueError as error:
            raise BadRequest("malformed head") from error
        path, _, query = target.partition("?")
        # A reply to HEAD has no body; nobody needs one, so it ends the connection and its framing with it.
        keep = version == "HTTP/1.1" and method != "HEAD" and headers.get("connection", "").lower() != "close"
        return Request(method, path, query, headers, self._read_body(headers)), keep

    def _read_body(self, headers: dict[str, str]) -> bytes:
        # curl waits a second for this line before it sends a large body.
        if headers.get("expect", "").lower() == "100-continue":
            self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            raise BadRequest("bad content length")
        return self._read(int(length))

    def _chunks(self) -> Iterator[bytes]:
        total = 0
        while size := self._chunk_size():
            total += size
            if total > MAX_BODY:
                raise BadRequest("body too long")
            yield self._read(size)
            self._read(2)
        self._read(2)

    def _chunk_size(self) -> int:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._receive()
        try:
            return int(self._take(end + 2).split(b";")[0], 16)
        except ValueError as error:
            raise BadRequest("malformed chunk") from error

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        return self._take(size)

    def _receive(self) -> None:
        data = self.socket.recv(_CHUNK)
        if not data:
            raise BadRequest("the client closed in mid-request")
        self._buffer += data

    def send(self, reply: Reply, keep: bool, wait: Callable[[float], object]) -> bool:
        """Write the reply the way it wants; return whether the connection goes on."""
        match reply.delivery:
            case Delivery.RESET:
                # Lingering for no time makes the kernel send RST where it would send FIN.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case Delivery.HANG:
                while self.socket.recv(_CHUNK):
                    pass
                return False
            case Delivery.CUT:
                payload = _payload(reply, keep)
                head_size = payload.index(b"\r\n\r\n") + 4
                self.socket.sendall(payload[: (head_size + len(payload)) // 2])
                return False
        if reply.seconds_per_byte:
            self._trickle(_payload(reply, keep), reply.seconds_per_byte, wait)
        else:
            self.socket.sendall(_payload(reply, keep))
        for left in range(reply.padding, 0, -_CHUNK):
            self.socket.sendall(_BLANKS[:left])
        return keep

    def _trickle(self, payload: bytes, seconds: float, wait: Callable[[float], object]) -> None:
        for place in range(len(payload)):
            self.socket.sendall(payload[place : place + 1])
            wait(seconds)


def _payload(reply: Reply, keep: bool) -> bytes:
    body = reply.encoded()
    headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
    head = (
        f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}\r\n"
        f"Content-Type: {reply.content_type}\r\nContent-Length: {len(body) + reply.padding}\r\n"
        f"{headers}Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    return head.encode("latin-1", "replace") + body


class Server:
    """Listens from its creation to :meth:`stop`; ``answer`` is called by many threads at once."""

    def __init__(self, host: str, port: int, answer: Callable[[Request], Reply]) -> None:
        self._answer = answer
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self.errors: list[Exception] = []
        """What ``answer`` raised: defects of the emulator."""
        self._listener = socket.create_server((host, port), backlog=1024)
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, name="freddy-emulator", daemon=True)
        self._acceptor.start()

    def wait(self, seconds: float) -> bool:
        """Sleep; return early, and True, when the server stops."""
        return self._stopping.wait(seconds)

    def stop(self) -> None:
        """Close all connections and end all threads; a second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        # A connection of our own wakes the acceptor on every system; closing the socket does not.
        with suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=5).close()
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            connections = dict(self._connections)
        for sock in connections.values():
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in connections:
            thread.join()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._stopping.is_set():
                sock.close()
                return
            thread = threading.Thread(target=self._serve, args=(sock,), name="freddy-emulator", daemon=True)
            with self._lock:
                self._connections[thread] = sock
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._converse(Connection(sock))
        except OSError:
            pass  # The client went away, as clients do.
        finally:
            with self._lock:
                self._connections.pop(threading.current_thread(), None)

    def _converse(self, connection: Connection) -> None:
        try:
            for request, keep in connection.requests():
                if not connection.send(self._reply(request), keep, self.wait):
                    return
        except BadRequest as error:
            connection.send(Reply(400, {"detail": str(error)}), False, self.wait)

    def _reply(self, request: Request) -> Reply:
        try:
            return self._answer(request)
        except Exception as error:
            self.errors.append(error)
            return Reply(500, {"detail": "The emulator has a defect."})
