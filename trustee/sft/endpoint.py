"""The client of an endpoint, such as a teacher's: one request at a time, whatever the server does.

Every failure is an `AnswerError`, which spoils one episode. What passes, such as a busy server, is
tried again under one deadline. No text that leaves this module holds the key, nor what stands in
the address for a password.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import anyio
import httpx2
import msgspec

from trustee.errors import AnswerError, InputError
from trustee.sft.chat_format import SHOWN_ANSWER, as_message, read_completion
from trustee.sft.secrets import LEFT_OUT, Secrets
from trustee.types import Message

SECONDS = 240.0
"""Time for one answer, with all tries."""
CONNECT_SECONDS = 20.0
"""Time for one connection."""
TRIES = 6
"""Maximum number of requests for one answer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Seconds before the second try and at most; each pause is twice the last."""
MOST_BYTES = 4 << 20
"""Size of the largest answer."""
MOST_ERROR_BYTES = 1 << 16
"""Bytes that are read of a refusal."""
PASSING = {408, 409, 425, 429}
"""Statuses after which the same request may succeed, besides all from 500."""
LIMITS = ("max_tokens", "max_completion_tokens", "")
"""Names of the limit of tokens: the usual one, that of reasoning models, none."""
REPEATED = "the endpoint's answer repeats the key, so it is not kept"


KEY = "TRUSTEE_TEACHER_KEY"
"""Environment variable with the key of a teacher's endpoint; if it is unset, no key is sent."""


class Settings(NamedTuple):
    """Where a user says which endpoint it is, as errors name it."""

    address: str = "--teacher-url"
    model: str = "--teacher-model"
    key: str = KEY
    """Environment variable with its key."""


TEACHER = Settings()


class Address(NamedTuple):
    """Where an endpoint is."""

    url: str
    """Address of its chat completions, without user and password."""
    shown: str
    """The address as it may be printed and written: without user, password and query."""
    user: str
    password: str
    secrets: tuple[str, ...]
    """What stands in the address and may not be shown."""


def read_address(url: str, *, named: Settings = TEACHER) -> Address:
    """Split the address that the user gave.

    Raises:
        InputError: if it is not an address; it is shown without what may be secret.
    """
    try:
        parts = urlsplit(url.strip())
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    place = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
    usable = parts.scheme in ("http", "https") and host and "@" not in parts.path
    usable = usable and not any(letter.isspace() for letter in place)
    query = f"?{parts.query}" if parts.query else ""
    try:
        httpx2.URL(f"{place}/chat/completions{query}")
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise InputError(
            f"{named.address} cannot be used: give an address such as https://host/v1; what is "
            "special in a user's name or password is written as %40 for @ or %2F for /"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    values = [value for _, value in parse_qsl(parts.query) if not value[:4].isdigit()]
    return Address(
        url=f"{place}/chat/completions{query}",
        shown=place,
        user=user,
        password=password,
        secrets=tuple(filter(None, (user, password, f"{user}:{password}", *values))),
    )


def read_key(variable: str) -> str:
    """Return the endpoint's key, without the line feed that a file or a shell leaves behind it.

    Raises:
        InputError: if it cannot stand in a header; the message does not hold it.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise InputError(
            f"{variable} holds a space, a line feed or a letter outside ASCII, so it is not a key; "
            "set it to the key alone"
        )
    return key


class Refusal(AnswerError):
    """The endpoint gave no answer this time."""

    def __init__(self, message: str, *, passes: bool, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(message)
        self.passes = passes
        """Whether the same request may succeed later."""
        self.status = status
        self.wait = wait
        """Seconds that the server asks to wait."""


@dataclass(slots=True)
class Dialect:
    """What a server was found to take."""

    limit: str = LIMITS[0]
    temperature: bool = True

    def write(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request as this server takes it."""
        written = dict(body)
        most = written.pop("max_tokens", None)
        if self.limit and most is not None:
            written[self.limit] = most
        if not self.temperature:
            written.pop("temperature", None)
        return written

    def learn(self, sent: Mapping[str, Any], refusal: Refusal) -> bool:
        """Change to what the server asks for; return whether the request should be sent again."""
        said = str(refusal)
        if refusal.status not in (400, 422):
            return False
        for name, following in pairwise(LIMITS):
            if name in sent and (name in said or (following and following in said)):
                self.limit = following if self.limit == name else self.limit
                return True
        if "temperature" in sent and "temperature" in said:
            self.temperature = False
            return True
        return False


class Endpoint:
    """Client of one endpoint; `async with` opens its connections."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        parallel: int,
        seconds: float = SECONDS,
        pause: float = FIRST_PAUSE,
        named: Settings = TEACHER,
    ) -> None:
        if not model:
            raise InputError(f"{named.address} needs {named.model}: give the name of a model there")
        address = read_address(url, named=named)
        key = read_key(named.key)
        if key and (address.user or address.password):
            raise InputError(
                f"{named.address} holds a user, and {named.key} a key; one of them alone can "
                "be sent"
            )
        self.shown = address.shown
        self._model = model
        self._seconds = seconds
        self._pause = pause
        self._limiter = anyio.CapacityLimiter(parallel)
        self._dialect = Dialect()
        self._secrets = Secrets((*address.secrets, key))
        self._client = httpx2.AsyncClient(
            auth=(address.user, address.password) if address.user or address.password else None,
            headers={"Accept-Encoding": "identity", "Accept": "application/json"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=parallel),
        )
        self._url = address.url

    async def __aenter__(self) -> Self:
        """Open the client; its library would log addresses with their queries."""
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._client.__aexit__(kind, error, trace)

    async def ask(self, body: Mapping[str, Any]) -> Message:
        """Return one message from the endpoint.

        Raises:
            AnswerError: if there is no usable answer; its text holds no secret.
        """
        async with self._limiter:
            last = ""
            with anyio.move_on_after(self._seconds) as deadline:
                for attempt in range(TRIES):
                    try:
                        return await self._ask_once(body)
                    except Refusal as refusal:
                        last = str(refusal)
                        wait = self._pause_before(attempt + 1, refusal)
                        left = deadline.deadline - anyio.current_time()
                        if not refusal.passes or attempt + 1 == TRIES or wait >= left:
                            raise self._clean(f"{self.shown} refused: {refusal}") from None
                        await anyio.sleep(wait)
                    except AnswerError as error:
                        raise self._clean(str(error)) from None
            raise self._clean(
                f"{self.shown} gave no answer in {self._seconds:g} s"
                + (f"; before that it refused: {last}" if last else "")
            )

    def _clean(self, message: str) -> AnswerError:
        return AnswerError(self._secrets.redact(message))

    def _pause_before(self, attempt: int, refusal: Refusal) -> float:
        """Return the seconds before a try, which differ so that not all come back at once."""
        pause = min(LONGEST_PAUSE, self._pause * 2.0 ** (attempt - 1))
        return refusal.wait + pause * random.uniform(0.5, 1.0)

    async def _ask_once(self, body: Mapping[str, Any]) -> Message:
        """Ask, in another dialect where the server refuses what was sent."""
        while True:
            sent = {"model": self._model, "stream": False, **self._dialect.write(body)}
            try:
                data = await self._post(json.dumps(sent).encode())
            except Refusal as refusal:
                if not self._dialect.learn(sent, refusal):
                    raise
            else:
                break
        if self._secrets.holds(data.decode(errors="replace")):
            raise AnswerError(REPEATED)
        message = as_message(read_completion(data))
        # Parts that were joined may hold what none of them holds.
        if self._secrets.holds(json.dumps(msgspec.to_builtins(message), ensure_ascii=False)):
            raise AnswerError(REPEATED)
        return message

    async def _post(self, data: bytes) -> bytes:
        """Send one request and return the body of its answer.

        Raises:
            Refusal: for any failure and any status but 200.
        """
        headers = {"Content-Type": "application/json"}
        try:
            async with self._client.stream(
                "POST", self._url, content=data, headers=headers
            ) as response:
                if response.status_code == httpx2.codes.OK:
                    return await read_body(response, MOST_BYTES)
                raise await self._read_refusal(response)
        except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError) as error:
            text = str(error) or type(error).__name__
            passes = isinstance(error, httpx2.TransportError) and "CERTIFICATE" not in text
            fixed = isinstance(error, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol)
            raise Refusal(self._secrets.redact(text), passes=passes and not fixed) from None

    async def _read_refusal(self, response: httpx2.Response) -> Refusal:
        """Return what a server says instead of an answer."""
        code = response.status_code
        try:
            body = await read_body(response, MOST_ERROR_BYTES, cut=True)
        except (httpx2.HTTPError, OSError):
            body = b""
        said = self._secrets.redact(body.decode(errors="replace"))
        if said != LEFT_OUT:
            said = said[:SHOWN_ANSWER]
        reason = self._secrets.redact(response.reason_phrase)[:SHOWN_ANSWER]
        return Refusal(
            f"{code} {reason}: {said}",
            passes=code in PASSING or code >= 500,
            status=code,
            wait=read_wait(response.headers),
        )


async def read_body(response: httpx2.Response, most: int, *, cut: bool = False) -> bytes:
    """Read a body of at most `most` bytes; a longer one is cut or refused.

    Raises:
        Refusal: if it is longer, or compressed although it was not asked to be.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().casefold()
    if encoding not in ("", "identity"):
        raise Refusal("it compresses its answers unasked", passes=False)
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > most:
            if cut:
                return bytes(data[:most])
            raise Refusal(f"its answer has more than {most >> 20} MiB", passes=False)
    return bytes(data)


def read_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait: a number, or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if text.replace(".", "", 1).isascii() and text.replace(".", "", 1).isdigit():
            return float(text[:12]) * unit
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return 0.0
