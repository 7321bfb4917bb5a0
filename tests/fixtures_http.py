"""A local HTTP server that misbehaves on demand."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

BODY = bytes(range(256)) * 40


class HttpServer:
    """Serves by path; ``hits`` counts the requests of each, ``last_headers`` are those of the last.

    ``/ok`` (and what is below it) gives :data:`BODY`; ``/status/N`` status N; ``/flaky/N/S`` status S to the first
    N requests and then :data:`BODY`; ``/stall`` never ends its body; ``/trickle`` sends it byte by byte; ``/short``
    cuts it off; ``/reset`` closes the connection without an answer; ``/large`` announces 10 GB; ``/endless``
    announces nothing and does not stop; ``/empty`` has 0 bytes; ``/redirect`` leads to ``/ok``; ``/auth`` wants
    ``user:pass``; ``/headers`` never ends its headers; ``/circle`` redirects to itself, each time a little later;
    ``/phrase`` is a 404 with a reason phrase of its own; ``/malformed`` has a header that is none.
    """

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.last_headers: dict[str, str] = {}
        self.stopped = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up here
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop serving and let hanging answers end."""
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request as its path says."""
        path = urlsplit(request.path).path
        self.hits[path] += 1
        self.last_headers = {name.lower(): value for name, value in request.headers.items()}
        name, *arguments = path.strip("/").split("/")
        try:
            getattr(self, f"_{name}")(request, *arguments)
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
        request.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    def _ok(self, request: BaseHTTPRequestHandler, *_: str) -> None:
        self._send(request, 200, BODY)

    def _empty(self, request: BaseHTTPRequestHandler) -> None:
        self._send(request, 200, b"")

    def _status(self, request: BaseHTTPRequestHandler, status: str) -> None:
        self._send(request, int(status), b"no")

    def _flaky(self, request: BaseHTTPRequestHandler, times: str, status: str) -> None:
        failing = self.hits[urlsplit(request.path).path] <= int(times)
        self._send(request, int(status) if failing else 200, b"no" if failing else BODY)

    def _redirect(self, request: BaseHTTPRequestHandler) -> None:
        self._send(request, 302, b"", Location="/ok")

    def _headers(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        while not self.stopped.wait(0.05):
            request.send_header("X-More", "x")
            request.flush_headers()

    def _circle(self, request: BaseHTTPRequestHandler) -> None:
        self.stopped.wait(0.1)
        self._send(request, 302, b"", Location="/circle")

    def _phrase(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(404, "token hunter2")
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _malformed(self, request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 2\r\n\r\nok")
        request.close_connection = True

    def _auth(self, request: BaseHTTPRequestHandler) -> None:
        allowed = request.headers.get("Authorization") == "Basic dXNlcjpwYXNz"
        self._send(request, 200 if allowed else 401, BODY if allowed else b"")

    def _stall(self, request: BaseHTTPRequestHandler, *_: str) -> None:
        self._send(request, 200, BODY[:100], Content_Length=str(len(BODY)))
        self.stopped.wait()

    def _trickle(self, request: BaseHTTPRequestHandler) -> None:
        self._send(request, 200, b"", Content_Length=str(len(BODY)))
        while not self.stopped.wait(0.02):
            request.wfile.write(b"x")

    def _short(self, request: BaseHTTPRequestHandler) -> None:
        self._send(request, 200, BODY[:100], Content_Length=str(len(BODY)))
        request.close_connection = True

    def _reset(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True

    def _large(self, request: BaseHTTPRequestHandler) -> None:
        self._send(request, 200, b"", Content_Length=str(10**10))
        self.stopped.wait()

    def _endless(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        while not self.stopped.is_set():
            request.wfile.write(BODY)


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    """Serve on a free port of the loopback interface."""
    server = HttpServer()
    yield server
    server.close()
