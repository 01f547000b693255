"""The client of an endpoint, against servers that do everything wrong."""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from itertools import count
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from trustee.errors import EngineError, InputError
from trustee.sft import endpoint as module
from trustee.sft.endpoint import KEY, Endpoint, read_address, read_wait

pytestmark = pytest.mark.anyio
SECRET = 'sk-0123/45"67\\89+abcdef'
GOOD = json.dumps({"choices": [{"message": {"content": "so"}, "finish_reason": "stop"}]}).encode()
Act = Callable[[SocketStream, int], Awaitable[None]]
"""Answers the n-th request on its connection."""


def answer(body: bytes = GOOD, *, status: str = "200 OK", headers: str = "") -> bytes:
    """Write a whole answer."""
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode("latin-1") + body


def say(*answers: bytes) -> Act:
    """Give these answers in order, the last one again and again."""

    async def act(stream: SocketStream, number: int) -> None:
        await stream.send(answers[min(number, len(answers) - 1)])

    return act


class Server:
    """What a server was sent."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.url = ""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The requests' bodies."""
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.requests]


@asynccontextmanager
async def serve(act: Act) -> AsyncIterator[Server]:
    """Serve on a port of this machine."""
    server, numbers = Server(), count()

    async def handle(stream: SocketStream) -> None:
        async with stream:
            request = await read_request(stream)
            server.requests.append(request)
            with anyio.CancelScope():
                try:
                    await act(stream, next(numbers))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        port = listener.extra(SocketAttribute.local_port)
        server.url = f"http://127.0.0.1:{port}/v1"
        tasks.start_soon(listener.serve, handle)
        yield server
        tasks.cancel_scope.cancel()


async def read_request(stream: SocketStream) -> bytes:
    """Read a request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line[:15] == b"Content-Length:"
    )
    while len(body) < length:
        body += await stream.receive()
    return head + b"\r\n\r\n" + body


async def ask(url: str, *, seconds: float = 5.0) -> str:
    """Ask once; return what is said, or why nothing is."""
    async with Endpoint(url, model="big", parallel=1, seconds=seconds, pause=0.001) as endpoint:
        try:
            message = await endpoint.ask({"messages": [], "temperature": 1.0, "max_tokens": 9})
        except EngineError as error:
            return f"{error}{error.__cause__ or ''}"
        return f"said {message.content}"


def count_threads() -> int:
    """Count the threads that are not the loop's own, which look up names and then wait."""
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


async def endless_chunks(stream: SocketStream, number: int) -> None:
    """Send a body without end."""
    await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


async def endless_headers(stream: SocketStream, number: int) -> None:
    """Send a head without end."""
    await stream.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send(b"X-A: " + b"a" * 1000 + b"\r\n")


async def endless_hints(stream: SocketStream, number: int) -> None:
    """Send informational answers without end."""
    while True:
        await stream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await anyio.sleep(0.001)


async def drip(stream: SocketStream, number: int) -> None:
    """Send a byte now and then."""
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await stream.send(b" ")
        await anyio.sleep(0.05)


async def nothing(stream: SocketStream, number: int) -> None:
    """Say nothing."""
    await anyio.sleep_forever()


CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{"
BUSY = answer(b"slow down", status="429 Too Many Requests", headers="Retry-After: 0\r\n")


@pytest.mark.parametrize(
    "first",
    [
        BUSY,
        answer(b"", status="408 Request Timeout"),
        answer(b"", status="409 Conflict"),
        answer(b"", status="500 Internal Server Error"),
        answer(b"", status="503 Service Unavailable", headers="Retry-After: junk\r\n"),
        answer(b"", status="529 Overloaded", headers="Retry-After-Ms: 1\r\n"),
        CUT,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"",
        b"hello\r\n\r\n",
        b"HTTP/9.9 999\r\n\r\n",
        b"\x16\x03\x01\x00\x05",
        b"HTTP/1.1 200 OK\r\nContent-Length: minus\r\n\r\n",
        b"HTTP/1.1 200 " + b"K" * 200_000 + b"\r\n\r\n",
    ],
    ids=lambda data: repr(data[:24]) + str(len(data)),
)
async def test_what_passes_is_tried_again(first: bytes) -> None:
    """Refusals that pass, and connections that end too early or speak nonsense."""
    async with serve(say(first, answer())) as server:
        assert "said so" == await ask(server.url)
    assert 2 == len(server.requests)


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (answer(b"no such model", status="404 Not Found"), "404 Not Found: no such model"),
        (answer(b"bad", status="400 Bad Request"), "400 Bad Request: bad"),
        (answer(b"", status="302 Found", headers="Location: http://127.0.0.1:1/\r\n"), "302 Found"),
        (answer(b"", status="204 No Content"), "204 No Content"),
        (answer(b"x" * 900, status="401 No"), "401 No: " + "x" * 300),
        (answer(b"hello"), "is not a chat completion"),
        (answer(b"[" * 100_000), "is not a chat completion"),
        (answer(b"\xff\xfe"), "is not a chat completion"),
        (answer(gzip.compress(GOOD), headers="Content-Encoding: gzip\r\n"), "compresses"),
        (answer(b" " * (module.MOST_BYTES + 1)), "has more than 4 MiB"),
        (
            answer(b"", status="429 Busy", headers="Retry-After: 86400\r\n"),
            "429 Busy",
        ),
    ],
    ids=lambda value: repr(value[:24]) + str(len(value)) if isinstance(value, bytes) else None,
)
async def test_what_stays_is_said_at_once(first: bytes, why: str) -> None:
    """One request, and the reason."""
    async with serve(say(first, answer())) as server:
        assert why in await ask(server.url)
    assert 1 == len(server.requests)


async def test_a_server_that_stays_busy_is_given_up() -> None:
    """After some tries, with what it said."""
    async with serve(say(BUSY)) as server:
        assert "429 Too Many Requests: slow down" in await ask(server.url)
    assert module.TRIES == len(server.requests)


@pytest.mark.parametrize("act", [endless_chunks, endless_headers, endless_hints, drip, nothing])
async def test_what_does_not_end_is_ended(act: Act) -> None:
    """By the deadline or the bound; no thread reads on."""
    threads, started = count_threads(), time.monotonic()
    async with serve(act) as server:
        said = await ask(server.url, seconds=0.5)
    assert "gave no answer in 0.5 s" in said or "refused" in said
    assert time.monotonic() - started < 4
    assert count_threads() <= threads


async def test_a_cancelled_question_leaves_nothing_behind() -> None:
    """The connection is closed at once."""
    async with serve(nothing) as server:
        threads = count_threads()
        with anyio.move_on_after(0.2) as scope:
            await ask(server.url, seconds=60)
        assert scope.cancelled_caught
        assert count_threads() <= threads


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_limits_name_is_the_servers(name: str) -> None:
    """It is found out once."""

    async def act(stream: SocketStream, number: int) -> None:
        sent = server.bodies[-1]
        bad = name in sent
        error = answer(f"Unsupported: '{name}'".encode(), status="400 Bad Request")
        await stream.send(error if bad else answer())

    async with (
        serve(act) as server,
        Endpoint(server.url, model="big", parallel=1, pause=0.001) as endpoint,
    ):
        for _ in range(2):
            await endpoint.ask({"messages": [], "max_tokens": 9})
    (other,) = {"max_completion_tokens", "max_tokens"} - {name}
    assert [9, 9] == [sent[other] for sent in server.bodies[-2:]]
    assert len(server.bodies) == (3 if name == "max_tokens" else 2)


LEAKS: dict[str, Callable[[str], bytes]] = {
    "body": lambda key: answer(f"bad key {key}".encode(), status="401 No"),
    "escaped": lambda key: answer(json.dumps({"a": key}).encode(), status="401 No"),
    "cut": lambda key: answer(("x" * 290 + key).encode(), status="401 No"),
    "cut where reading ends": lambda key: answer(
        ("x" * (module.MOST_ERROR_BYTES - 9) + key).encode(), status="401 No"
    ),
    "reason": lambda key: answer(b"", status=f"401 {key}"),
    "no completion": lambda key: answer(json.dumps({"headers": {"a": key}}).encode()),
    "cut completion": lambda key: answer(("y" * 290 + key).encode()),
    "content": lambda key: spoken({"content": f"my key is {key}"}),
    "base64": lambda key: spoken({"content": base64.b64encode(f"Bearer {key}".encode()).decode()}),
    "parts": lambda key: spoken({"content": [key[:9], key[9:]]}),
    "name": lambda key: spoken({"tool_calls": [{"function": {"name": key}}]}),
    "arguments": lambda key: spoken(
        {"tool_calls": [{"function": {"name": "f", "arguments": json.dumps({"a": [key]})}}]}
    ),
    "broken arguments": lambda key: spoken(
        {"tool_calls": [{"function": {"name": "f", "arguments": f"[{key}"}}]}
    ),
    "part": lambda key: spoken({"content": [{"type": key}]}),
    "header": lambda key: f"HTTP/1.1 200 OK\r\n{key} : {key}\r\n\r\n".encode(),
    "status": lambda key: f"{key}\r\n\r\n".encode(),
    "chunk": lambda key: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + key.encode(),
}


def spoken(message: dict[str, Any]) -> bytes:
    """Write a completion."""
    return answer(json.dumps({"choices": [{"message": message}]}).encode())


@pytest.mark.parametrize("how", LEAKS)
async def test_no_text_holds_the_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Wherever a server repeats it."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv(KEY, f" {SECRET}\r\n")
    async with serve(say(LEAKS[how](SECRET))) as server:
        said = await ask(server.url)
    assert f"Authorization: Bearer {SECRET}".encode() in server.requests[0]
    assert len(said) < 1000
    logged = "\n".join(record.getMessage() for record in caplog.records)
    for part in (SECRET, SECRET[:9], SECRET[-9:]):
        assert part not in said
        assert part not in logged


async def test_no_text_holds_what_the_address_hides(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """User, password and query are sent and never shown."""
    caplog.set_level("DEBUG")
    monkeypatch.delenv(KEY, raising=False)

    async def echo(stream: SocketStream, number: int) -> None:
        await stream.send(answer(server.requests[-1].partition(b"\r\n\r\n")[0], status="403 No"))

    async with serve(echo) as server:
        host = server.url.removeprefix("http://")
        said = await ask(f"http://someone:pass%2Fword9@{host}?api-version=2024-10-21&sig=abcdefgh")
    basic = base64.b64encode(b"someone:pass/word9")
    head = server.requests[0]
    assert b"POST /v1/chat/completions?api-version=2024-10-21&sig=abcdefgh HTTP/1.1" in head
    assert b"Authorization: Basic " + basic in head
    logged = "\n".join(record.getMessage() for record in caplog.records)
    for hidden in ("someone", "word9", "abcdefgh", basic.decode()):
        assert hidden not in said
        assert hidden not in logged
    assert f"http://{host} refused: 403 No" in said


@pytest.mark.parametrize("key", ["sk-a b", "sk-a\nb", "sk-\x00a", "sk-ä"])
def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """It is refused at once, and not repeated; Python quotes it in its own error."""
    monkeypatch.setattr(os, "environ", {KEY: key})
    with pytest.raises(InputError, match=f"{KEY} holds a space") as caught:
        Endpoint("http://a/v1", model="m", parallel=1)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "host/v1",
        "http://",
        "http://[::1/secret",
        "https://user:secret/more@host/v1",
        "https://user:1/secret@host/v1",
        "http://a b/secret",
        "https://secret:99999999@/v1",
        "http://host:secret/v1",
    ],
)
def test_refused_addresses(url: str) -> None:
    """Only http; what may be a password is not repeated."""
    with pytest.raises(InputError, match="give an address such as https://host/v1") as caught:
        Endpoint(url, model="m", parallel=1)
    assert "secret" not in str(caught.value)


def test_other_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is needed, and one kind of credentials."""
    with pytest.raises(InputError, match="--teacher-model"):
        Endpoint("http://a/v1", model="", parallel=1)
    monkeypatch.setenv(KEY, "sk-secret")
    with pytest.raises(InputError, match="one of them alone") as caught:
        Endpoint("http://user:hidden@a/v1", model="m", parallel=1)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown", "sent"),
    [
        ("http://a/v1", "http://a/v1", "http://a/v1/chat/completions"),
        ("https://a:8443/v1/", "https://a:8443/v1", "https://a:8443/v1/chat/completions"),
        ("http://[::1]:80/", "http://[::1]:80", "http://[::1]:80/chat/completions"),
        ("http://u:p@a/v1?k=v#f", "http://a/v1", "http://a/v1/chat/completions?k=v"),
    ],
)
def test_addresses(url: str, shown: str, sent: str) -> None:
    """A query stays behind the path."""
    address = read_address(url)
    assert (shown, sent) == (address.shown, address.url)


def test_waits() -> None:
    """Seconds, thousandths, a date, or nonsense."""
    assert 1.5 == read_wait({"retry-after": "1.5"})
    assert 0.25 == read_wait({"retry-after-ms": "250", "retry-after": "9"})
    assert 50 < read_wait({"retry-after": formatdate(time.time() + 60)}) < 61
    for junk in ("", "soon", "-5", "nan", "1e9", "9" * 400, "Thu, 99 Foo 2026 00:00:00 GMT", "٣"):
        assert 0 <= read_wait({"retry-after": junk}) < 1e13
