"""One deadline over a whole HTTP exchange: every redirect, and every line of the headers.

A socket's time-out bounds one wait only; a server that sends a header now and then would never meet it.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter


class DeadlineAdapter(HTTPAdapter):
    """An adapter of one thread's session; each request ends at ``deadline``, in the time of ``time.monotonic``."""

    def __init__(self) -> None:
        self.deadline = 0.0
        super().__init__()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one request, be it the first or one that a redirect asks for."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise requests.Timeout("no time is left")
        return super().send(request, *args, **{**kwargs, "timeout": left})

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._bind(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Make the pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        self._bind(manager)
        return manager

    def _bind(self, manager: Any) -> None:
        adapter = self

        class Response(http.client.HTTPResponse):
            def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
                super().__init__(sock, *args, **kwargs)
                self.fp = io.BufferedReader(_Reader(self.fp, sock, adapter.deadline))

        class Connection(urllib3.connection.HTTPConnection):
            response_class = Response

        class SecureConnection(urllib3.connection.HTTPSConnection):
            response_class = Response

        class Pool(urllib3.HTTPConnectionPool):
            ConnectionCls = Connection

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = SecureConnection

        manager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}


class _Reader(io.RawIOBase):
    """Reads a socket's file; each wait ends at the deadline."""

    def __init__(self, file: io.BufferedReader, sock: socket.socket, deadline: float) -> None:
        self._file = file
        self._socket = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        return self._file.raw.readinto(buffer) or 0

    def close(self) -> None:
        self._file.close()
        super().close()
