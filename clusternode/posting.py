"""One HTTP POST in a thread, ended at its deadline whatever the other side does.

The standard library in threads of their own: a name that does not resolve, or a receiver that drips a byte a
second, holds up its own thread alone, and one POST now and then is worth no dependency.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from protocol.limits import NOTICE_ANSWER_BYTES

_LATE = "no answer in time"


class Answered(NamedTuple):
    """The HTTP status, None where there was none; and in words what is wrong with it, if it is not 2xx."""

    status: int | None
    why: str


class Posting:
    """Redirects are not followed, proxies not used; a name and password in the address are sent as Basic."""

    def __init__(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> None:
        """`timeout`: seconds from here on; whoever starts it calls `abort` then.

        To find the host's address may take longer, where the system takes longer.
        """
        self._url = urlsplit(url)
        self._headers = headers
        self._body = body
        self._until = time.monotonic() + timeout
        self._lock = threading.Lock()
        self._is_over = False
        #: The connection once more, as TLS takes the first one for itself.
        self._handle: socket.socket | None = None

    def start(self, done: Callable[[Answered], None]) -> None:
        """`done` is called once, in another thread unless none can be had."""
        # A daemon, as nothing at the program's end may wait for a receiver.
        thread = threading.Thread(target=lambda: done(self._run()), name="posting", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            done(Answered(None, f"it could not be sent: {error}"))

    def abort(self) -> None:
        """From any thread: what it waits for ends now."""
        with self._lock:
            self._is_over = True
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)

    def _run(self) -> Answered:
        try:
            status = self._post()
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answered(None, _LATE if self._is_over else _in_words(error))
        finally:
            with self._lock:
                if self._handle is not None:
                    self._handle.close()
                    self._handle = None
        return Answered(status, "" if 200 <= status < 300 else f"it answered with status {status}")

    def _post(self) -> int:
        url = self._url
        is_secure = url.scheme == "https"
        host = (url.hostname or "").encode("idna").decode()
        port = url.port or (443 if is_secure else 80)
        sock = self._connect(host, port)
        if is_secure:
            with contextlib.closing(sock):  # if that fails
                sock = _tls().wrap_socket(sock, server_hostname=host)
        kind = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
        with contextlib.closing(kind(host, port)) as connection:
            connection.sock = sock
            connection.request("POST", _target(url.path, url.query), self._body, self._all_headers())
            with contextlib.closing(connection.getresponse()) as answer:
                if self._is_over:  # its headers ended only because we ended them
                    raise TimeoutError
                with contextlib.suppress(OSError, http.client.HTTPException):  # its status is there
                    answer.read(NOTICE_ANSWER_BYTES)
                return answer.status

    def _connect(self, host: str, port: int) -> socket.socket:
        """The first that can be reached of all that the host's name stands for, in the time that there is."""
        failure: OSError = TimeoutError()
        for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            left = self._until - time.monotonic()
            if left <= 0 or self._is_over:
                break
            try:
                sock = socket.create_connection((str(address[0]), port), left)
            except OSError as error:
                failure = error
                continue
            with self._lock:
                self._handle = sock.dup()
            if self._is_over:
                self.abort()
            return sock
        raise failure

    def _all_headers(self) -> dict[str, str]:
        headers = {**self._headers, "Connection": "close", "User-Agent": "evenly"}
        if self._url.username is not None:
            who = f"{unquote(self._url.username)}:{unquote(self._url.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(who.encode()).decode()}"
        return headers


def _target(path: str, query: str) -> str:
    """What stands in the request line: characters that may not are written with %."""
    safe = string.punctuation
    return quote(path or "/", safe) + (f"?{quote(query, safe)}" if query else "")


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return _LATE
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"it does not answer as HTTP does ({type(error).__name__})"
