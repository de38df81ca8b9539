"""A web server on 127.0.0.1 that serves files, and fails on demand in the ways that real ones do."""

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
    """Answers a path with its file, after the faults that are queued for it, one a request.

    Faults: a status ("503"), with what the host asks to wait ("429 120"); "truncated", "reset" and "silent" after
    half of what is asked for, or after so many bytes ("truncated 1000"); "wrong" and "long" content; "paired", which
    waits for another such request and then a moment longer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.ranges = True  # whether it takes Range
        self.validator = "etag"  # what it says of a file's version: "etag", "weak", "date" or ""
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []  # of each request
        self.sent = 0  # bytes of files
        self.connections = 0  # ever
        self.paired = self.most_paired = 0  # requests that wait for one another
        self.counting = threading.Lock()
        self.pairs = threading.Barrier(2, timeout=60)
        self.closing = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *arguments: object) -> None:
        pass  # a client that goes away in the middle


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and content in one packet

    def setup(self) -> None:
        super().setup()
        with self.server.counting:
            self.server.connections += 1

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        self.server.headers.append(dict(self.headers))
        queue = self.server.faults[path]
        fault, _, detail = (queue.pop(0) if queue else "").partition(" ")
        data = self.server.files.get(path)
        if fault.isdigit() or data is None:
            return self._status(int(fault or 404), {"Retry-After": detail} if detail else {})
        if fault == "paired":
            self._wait_for_another()
        if fault == "wrong":
            data = bytes(len(data))
        if fault == "long":
            data += b"more"
        versions = self._versions(data)
        start = 0
        asked = self.headers.get("Range")
        if asked and self.server.ranges and self.headers.get("If-Range") in (None, *versions.values()):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
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

    def _wait_for_another(self) -> None:
        with self.server.counting:
            self.server.paired += 1
            self.server.most_paired = max(self.server.most_paired, self.server.paired)
        self.server.pairs.wait()
        self.server.closing.wait(0.5)
        with self.server.counting:
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
    """A server that answers until the block ends."""
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
