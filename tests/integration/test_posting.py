"""One POST, whatever the other side does."""

from __future__ import annotations

import base64
import queue
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusternode import posting
from clusternode.posting import Answered, Posting
from protocol.limits import NOTICE_ANSWER_BYTES
from receiver import Receiver, receiver
from support import PATIENCE, free_port

#: Long: what ends before it was ended by something else.
LONG = 60.0
SHORT = 0.3


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


def post(url: str, timeout: float = LONG, headers: dict[str, str] | None = None) -> Answered:
    """Ended when its time is over, as by the notifier."""
    answers: queue.Queue[Answered] = queue.Queue()
    one = Posting(url, headers or {}, b"body", timeout)
    timer = threading.Timer(timeout, one.abort)
    timer.start()
    one.start(answers.put)
    answered = answers.get(timeout=PATIENCE)
    timer.cancel()
    timer.join()
    return answered


def test_what_arrives_is_what_was_sent(there: Receiver) -> None:
    assert post(f"{there.url}/a%20b/ü?q=ä&r=%41", headers={"X-One": "1"}) == Answered(200, "")
    (came,) = there.came
    assert came.path == "/a%20b/%C3%BC?q=%C3%A4&r=%41"
    assert came.body == b"body"
    assert came.headers["x-one"] == "1"
    assert came.headers["host"] == f"127.0.0.1:{there.port}"
    assert came.headers["content-length"] == "4"
    assert "authorization" not in came.headers


def test_an_address_without_a_path_and_with_a_name_and_a_password(there: Receiver) -> None:
    assert post(f"http://me:s%3Acret@localhost:{there.port}") == Answered(200, "")
    (came,) = there.came
    assert came.path == "/"
    assert base64.b64decode(came.headers["authorization"].removeprefix("Basic ")) == b"me:s:cret"


@pytest.mark.parametrize("status", [204, 301, 307, 404, 410, 500])
def test_the_status_is_told_and_a_redirect_is_not_followed(there: Receiver, status: int) -> None:
    there.answers = [status]
    why = "" if status == 204 else f"it answered with status {status}"
    assert post(there.url) == Answered(status, why)
    assert len(there.came) == 1


def test_a_receiver_that_hangs_is_left_at_the_deadline(there: Receiver) -> None:
    there.answers = [there.hang]
    assert post(there.url, SHORT) == Answered(None, "no answer in time")


@pytest.mark.parametrize("drop", [b"X-Drip: drop\r\n", b"x"])
def test_one_that_drips_is_left_at_the_deadline(there: Receiver, drop: bytes) -> None:
    """Each byte comes in time, and all of them do not."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not there.over.wait(SHORT / 20):
            connection.sendall(drop)

    there.answers = [drip]
    assert post(there.url, SHORT) == Answered(None, "no answer in time")


def test_an_endless_answer_is_read_so_far_and_no_further(there: Receiver) -> None:
    sent = []

    def pour(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while not there.over.is_set():
                sent.append(connection.send(bytes(NOTICE_ANSWER_BYTES)))
        except OSError:
            return

    there.answers = [pour]
    assert post(there.url) == Answered(200, "")


@pytest.mark.parametrize(
    "said", [b"", b"hello\r\n\r\n", b"HTTP/1.1 ok\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200]
)
def test_what_is_no_http_is_no_answer(there: Receiver, said: bytes) -> None:
    there.answers = [lambda connection: connection.sendall(said)]
    status, why = post(there.url)
    assert status is None
    assert why.startswith(("it does not answer as HTTP does", "Connection reset", "Remote end closed"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_where_nobody_listens(scheme: str) -> None:
    assert post(f"{scheme}://127.0.0.1:{free_port()}/") == Answered(None, "Connection refused")


def test_a_name_that_nobody_has() -> None:
    status, why = post("http://nobody.invalid/")
    assert status is None
    assert why


def test_https_at_a_port_without_it(there: Receiver) -> None:
    status, why = post(f"https://127.0.0.1:{there.port}/")
    assert status is None
    assert "SSL" in why


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made by openssl")
def test_https_with_a_certificate_that_is_known_and_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    how = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    made = ["openssl", *how.split(), "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with receiver(tls=context) as there:
        status, why = post(there.url)
        assert status is None
        assert "certificate verify failed" in why
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        posting._tls.cache_clear()
        assert post(there.url) == Answered(200, "")
        assert [came.body for came in there.came] == [b"body"]
    posting._tls.cache_clear()


def test_a_handshake_that_never_ends_is_left_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert post(f"https://127.0.0.1:{port}/", SHORT) == Answered(None, "no answer in time")


def test_what_was_given_up_before_it_had_a_connection_makes_none(there: Receiver) -> None:
    one = Posting(there.url, {}, b"", LONG)
    one.abort()
    answers: queue.Queue[Answered] = queue.Queue()
    one.start(answers.put)
    assert answers.get(timeout=PATIENCE) == Answered(None, "no answer in time")
    assert there.came == []


def test_no_thread_outlives_it(there: Receiver) -> None:
    there.answers = [200, there.hang]
    post(there.url)
    post(there.url, SHORT)
    end = time.monotonic() + PATIENCE
    while any(thread.name == "posting" for thread in threading.enumerate()):
        assert time.monotonic() < end
