"""A web server on 127.0.0.1 that serves files and, on demand, fails in the ways that real servers do."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files` by path. Each request for a path first consumes one of the faults queued for it.

    A fault is one of:
    - an HTTP status, optionally with a Retry-After header: "503", "429 120";
    - "truncated", "reset" or "silent": the connection is closed, reset or stalls after half of the content, or after a
      number of bytes ("truncated 1000");
    - "wrong" or "long": the content has wrong bytes or too many;
    - "paired": the request waits until another such request is being served, and then a moment longer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.ranges = True  # whether Range headers are honoured
        self.validator = "etag"  # the header that identifies a file's version: "etag", "weak" (ETag), "date" or ""
        self.requested: list[str] = []  # the path of each request
        self.headers: list[dict[str, str]] = []  # the headers of each request
        self.sent = 0  # bytes of content
        self.connections = 0  # accepted so far
        self.paired = self.most_paired = 0  # concurrent "paired" requests: now, and at most
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(2, timeout=60)
        self.closing = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *arguments: object) -> None:
        pass  # clients may disconnect during a transfer


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # buffered, so that headers and content are sent together

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requested.append(path)
        self.server.headers.append(dict(self.headers))
        queue = self.server.faults[path]
        fault, _, detail = (queue.pop(0) if queue else "").partition(" ")
        data = self.server.files.get(path)
        if fault.isdigit() or data is None:
            return self._status(int(fault or 404), {"Retry-After": detail} if detail else {})
        if fault == "paired":
            self._wait_for_pair()
        if fault == "wrong":
            data = bytes(len(data))
        if fault == "long":
            data += b"more"
        versions = self._versions(data)
        start = 0
        requested = self.headers.get("Range")
        if requested and self.server.ranges and self.headers.get("If-Range") in (None, *versions.values()):
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return self._status(416, {"Content-Range": f"bytes */{len(data)}"})
        self.send_response(206 if start else 200)
        for name, value in versions.items():
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = fault in ("truncated", "reset", "silent")
        content = data[start:][: int(detail or (len(data) - start) // 2)] if cut else data[start:]
        self.server.sent += len(content)
        self.wfile.write(content)
        self.wfile.flush()
        if fault == "silent":
            self.server.closing.wait(10)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = cut

    def _status(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _wait_for_pair(self) -> None:
        with self.server.lock:
            self.server.paired += 1
            self.server.most_paired = max(self.server.most_paired, self.server.paired)
        self.server.barrier.wait()
        self.server.closing.wait(0.5)
        with self.server.lock:
            self.server.paired -= 1

    def _versions(self, data: bytes) -> dict[str, str]:
        digest = hashlib.md5(data).hexdigest()
        return {
            "etag": {"ETag": f'"{digest}"'},
            "weak": {"ETag": f'W/"{digest}"'},
            "date": {"Last-Modified": f"Thu, 01 Jan 1970 00:00:{int(digest, 16) % 60:02d} GMT"},
            "": {},
        }[self.server.validator]

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs until the block ends."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
