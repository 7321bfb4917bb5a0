"""A proxy that makes a real S3 server fail: where, how, and how often is said by rules."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["internal_error", "slow_down", "expired", "denied", "hang", "reset", "truncate", "lost"]

_REFUSALS = {
    "internal_error": (500, "InternalError", "We encountered an internal error. Please try again."),
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (403, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class Request:
    """A request that has come.

    Attributes:
        method: ``GET``, ``PUT`` and so on.
        key: The object's; of a listing ``?`` and the prefix, with ``&`` at the end from its second page on.
        fault: What was done to it; None where it went through.
    """

    method: str
    key: str
    fault: Kind | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.key}"


@dataclass(frozen=True)
class Fault:
    """A rule. The first one that applies to a request decides.

    Attributes:
        kind: ``internal_error`` (500), ``slow_down`` (503), ``expired`` and ``denied`` (403): that answer, the server
            is not asked. ``reset``: no answer but a reset connection, the server is not asked. The server carries the
            request out, but: ``lost``: the connection is reset before the answer; ``hang``: no answer; ``truncate``:
            half of the answer's body under its whole length.
        requests: Pattern of those that it applies to, such as ``GET a/.*jpg``; all of it must match.
        times: How often, for each different request; None for ever.
        once_seen: It begins when such a request has been answered.
    """

    kind: Kind
    requests: str = ".*"
    times: int | None = 1
    once_seen: str | None = None


class FaultProxy:
    """Stands in front of a server, on a free port of the loopback interface, while it is entered.

    Args:
        endpoint: URL of the server.

    Attributes:
        url: URL of the proxy.
        before: Called with each request before the server is.
    """

    def __init__(self, endpoint: str) -> None:
        self.before: Callable[[Request], None] = lambda _: None
        self._server_host = urlsplit(endpoint).netloc
        self._faults: tuple[Fault, ...] = ()
        self._done: Counter[tuple[Fault, str]] = Counter()
        self._log: list[Request] = []
        self._changed = threading.Condition()
        self._closed = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(ConnectionError):  # clients hang up here
                    super().handle_one_request()
                    return
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", lambda client: self._serve(client))
        self._listener = _Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._listener.shutdown()
        self._listener.server_close()

    def set(self, *faults: Fault) -> None:
        """Put rules in force, in place of those before; forget the requests so far."""
        with self._changed:
            self._faults = faults
            self._done.clear()
            self._log.clear()

    def seen(self, requests: str = ".*") -> list[Request]:
        """Return the requests so far that match a pattern."""
        with self._changed:
            return [request for request in self._log if re.fullmatch(requests, str(request))]

    def attempts(self, requests: str = ".*") -> Counter[str]:
        """Count the requests so far that match a pattern, each for itself."""
        return Counter(map(str, self.seen(requests)))

    def wait_for(self, kind: Kind, timeout_s: float = 120) -> None:
        """Wait until a fault of a kind has been done."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(r.fault == kind for r in self._log), timeout_s), "no such request"

    def _serve(self, client: BaseHTTPRequestHandler) -> None:
        body = client.rfile.read(int(client.headers.get("Content-Length", 0)))
        request = _parse(client)
        kind = self._choose(request)
        if kind in _REFUSALS:
            self._note(request, kind)
            _send(client, *_refusal(kind))
        elif kind == "reset":
            self._note(request, kind)
            _reset(client)
        else:
            self.before(request)
            status, headers, answer = self._forward(client, body)
            if kind == "truncate" and not answer:
                kind = None
            self._note(request, kind)
            if kind == "hang":
                self._closed.wait()
                client.close_connection = True
            elif kind == "lost":
                _reset(client)
            else:
                _send(client, status, headers, answer, len(answer) // 2 if kind == "truncate" else len(answer))

    def _choose(self, request: Request) -> Kind | None:
        with self._changed:
            for fault in self._faults:
                begun = fault.once_seen is None or any(re.fullmatch(fault.once_seen, str(r)) for r in self._log)
                if not begun or not re.fullmatch(fault.requests, str(request)):
                    continue
                if fault.times is None or self._done[fault, str(request)] < fault.times:
                    self._done[fault, str(request)] += 1
                    return fault.kind
        return None

    def _note(self, request: Request, kind: Kind | None) -> None:
        with self._changed:
            self._log.append(replace(request, fault=kind))
            self._changed.notify_all()

    def _forward(self, client: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Have the server carry a request out, under the client's ``Host``, which its signature covers."""
        server = http.client.HTTPConnection(self._server_host, timeout=60)
        try:
            server.putrequest(client.command, client.path, skip_host=True, skip_accept_encoding=True)
            for name, value in client.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            headers = [pair for pair in answer.getheaders() if pair[0].lower() not in _HOP_BY_HOP]
            return answer.status, headers, answer.read()
        finally:
            server.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        self.close_request(request)  # and nothing more: a shutdown would send an orderly end before a reset


def _parse(client: BaseHTTPRequestHandler) -> Request:
    parts = urlsplit(client.path)
    key = unquote(parts.path).lstrip("/").partition("/")[2]
    query = parse_qs(parts.query, keep_blank_values=True)
    if "list-type" in query:
        key = f"?{query['prefix'][0]}" + ("&" if "continuation-token" in query else "")
    return Request(client.command, key)


def _refusal(kind: str) -> tuple[int, list[tuple[str, str]], bytes]:
    status, code, message = _REFUSALS[kind]
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return status, [("Content-Type", "application/xml")], text.encode()


def _send(
    client: BaseHTTPRequestHandler,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
    length: int | None = None,
) -> None:
    """Answer; with a ``length`` under that of the body, break off there."""
    client.send_response_only(status)
    for name, value in headers:
        client.send_header(name, value)
    if not any(name.lower() == "content-length" for name, _ in headers) and status != 204:
        client.send_header("Content-Length", str(len(body)))
    client.end_headers()
    if client.command != "HEAD":
        client.wfile.write(body[:length])
    client.close_connection = client.close_connection or (length is not None and length < len(body))


def _reset(client: BaseHTTPRequestHandler) -> None:
    client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close_connection = True
