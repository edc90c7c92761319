"""HTTP to untrusted servers, for the hosts that speak it: httpx on trio, bounded in every direction.

A cancelled request is a closed connection. Redirects are not followed (they would carry our credentials or our bytes
elsewhere), cookies are not kept, answers are not unpacked, bodies are read up to a bound and no further (opendal, tried
first, took 2.8 GB in three seconds from a server that never ended), XML with a document type is not parsed.
"""

import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from xml.etree import ElementTree

import httpx
import trio

from megafs.errors import HostFailing, HostFull, HostRefused, HostUnreachable, ObjectMissing, Usage
from megafs.hosts import pace
from megafs.hosts.protocol import OBJECT_BYTES

PIECE_BYTES = 256 << 10
CONNECTIONS = 16
CONNECT_S = 15.0
SILENCE_S = 60.0  # between two pieces of an answer; the limit on the whole is the caller's
BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
WORDS = {
    "ConnectError": "no connection",
    "ConnectTimeout": "no connection in time",
    "ReadTimeout": "no answer in time",
    "WriteTimeout": "nothing was taken in time",
    "ReadError": "the connection broke",
    "WriteError": "the connection broke",
    "RemoteProtocolError": "the answer broke off",
}
FULL = {507}
NUMBER = re.compile(r"\d{1,18}", re.ASCII)
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-", re.ASCII)
PASSING = {408, 423, 425, 429}


class Body(httpx.AsyncByteStream):
    """The bytes of a request in pieces. Not an async generator, as httpx has it: one that is cut short by a cancelled
    request is left to the garbage collector, of which trio complains."""

    def __init__(self, data: bytes) -> None:
        self._pieces, self._pace = pace.current().cut(data), pace.current()
        self._rest = memoryview(b"")

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, self._rest)
            if not self._rest:
                raise StopAsyncIteration
            await self._pace.sending(len(self._rest))
        piece, self._rest = self._rest[:PIECE_BYTES], self._rest[PIECE_BYTES:]
        return bytes(piece)

    async def aclose(self) -> None:
        """Nothing to release."""


class Http:
    """The connections to one server, and what its answers mean."""

    def __init__(self, *, label: str, auth: httpx.Auth | None = None, ca: str | None = None) -> None:
        self.label = label
        self._client = httpx.AsyncClient(
            auth=auth,
            verify=_trusted(ca),
            headers={"accept-encoding": "identity", "user-agent": "megafs"},
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            follow_redirects=False,
        )
        # No host puts words into later requests, or knows a device again by them.
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    async def aclose(self) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def asked(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request; the answer's body is unread and the answer is closed after the block."""
        with self._told_as_host_errors():
            try:
                answer = await self._sent(method, url, headers, content)
            except BROKEN:
                # A server may close a kept connection just when it is used again (cheroot: 5 of 640 requests). All
                # requests but MOVE can be repeated; a second break is told.
                if method == "MOVE":
                    raise
                answer = await self._sent(method, url, headers, content)
            try:
                yield answer
            finally:
                await answer.aclose()

    async def _sent(
        self, method: str, url: str, headers: Mapping[str, str] | None, content: bytes | None
    ) -> httpx.Response:
        request = self._client.build_request(method, url, headers=headers)
        if content is not None:
            request.headers["content-length"] = str(len(content))
            request.stream = Body(content)
        return await self._client.send(request, stream=True)

    @contextmanager
    def _told_as_host_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            untrusted = _untrusted(error)
            if untrusted is not None:
                raise HostRefused(f"{self.label}: its certificate is not trusted ({untrusted})") from error
            raise HostUnreachable(f"{self.label}: {_reason(error)}") from error

    def check(self, answer: httpx.Response, *, words: str = "") -> None:
        """Raises what a status means, except success."""
        status = answer.status_code
        if 200 <= status < 300 and status != 207:
            return
        reason = f"{self.label}: {answer.request.method} answered with {status} {words}".rstrip()
        if status in FULL:
            raise HostFull(reason)
        if status == 500:
            raise HostFailing(reason)
        if (status > 500 and status != 501) or status in PASSING:
            raise HostUnreachable(reason)
        raise HostRefused(reason)

    def length(self, answer: httpx.Response) -> int:
        """The size of an object from the answer to HEAD."""
        size = whole_number(answer.headers.get("content-length", ""))
        if size is None:
            raise HostRefused(f"{self.label}: does not say how long an object is")
        if size > OBJECT_BYTES:
            raise ObjectMissing(f"{self.label}: an answer longer than any object")
        return size

    async def content(self, answer: httpx.Response, start: int, stop: int | None) -> bytes:
        """The range that was asked for, also if the server ignored it and sends all. The status does not tell: rclone
        sends a range with 200."""
        told = CONTENT_RANGE.match(answer.headers.get("content-range", ""))
        begins = int(told[1]) if told else start if answer.status_code == 206 else 0
        if begins > start:
            raise HostRefused(f"{self.label}: does not honour ranges")
        skip = start - begins
        most = OBJECT_BYTES if stop is None else stop - start
        return await self.body(answer, skip=skip, most=most, is_cut=stop is not None)

    async def body(self, answer: httpx.Response, *, skip: int = 0, most: int, is_cut: bool = False) -> bytes:
        """At most ``most`` bytes after ``skip``; what is longer is cut (a range was asked for) or not believed."""
        body, now = bytearray(), pace.current()
        async with aclosing(answer.aiter_raw(min(PIECE_BYTES, now.piece_bytes))) as pieces:  # type: ignore[type-var]  # a generator, always
            async for piece in pieces:
                body += piece
                await now.received(len(piece))
                if len(body) > skip + most:
                    await answer.aclose()  # and with it the connection: the rest is not read
                    with suppress(httpx.HTTPError, httpx.StreamError):
                        await anext(
                            pieces, b""
                        )  # meets the closed connection, which ends httpx's own generators in order
                    break
        if len(body) > skip + most and not is_cut:
            raise ObjectMissing(f"{self.label}: an answer longer than any object")
        return bytes(memoryview(body)[skip : skip + most])

    async def xml(self, answer: httpx.Response, *, most: int) -> ElementTree.Element:
        """The body as XML; parsed in a thread, a long listing takes a second."""
        return await trio.to_thread.run_sync(parsed_xml, await self.body(answer, most=most), self.label)


def parsed_xml(text: bytes, label: str) -> ElementTree.Element:
    """An answer of the host called ``label``. Raises HostError."""
    # Declared in another encoding the words would not be found: the encodings that servers send contain ASCII as it is.
    if b"\0" in text or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise HostRefused(f"{label}: XML with a document type, or in an encoding that could hide one")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise HostUnreachable(f"{label}: XML that cannot be read") from error


def _untrusted(error: BaseException | None) -> str | None:
    """What is wrong with the server's certificate, if that is what this error comes from. On trio the reason stands
    three causes deep, and nowhere in a text."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error.verify_message if error is not None else None


def whole_number(text: str) -> int | None:
    """A size as servers tell it; None for anything else. Longer ones than any size are not even looked at."""
    return int(text) if NUMBER.fullmatch(text) else None


def range_header(start: int, stop: int | None) -> dict[str, str]:
    """The header for a range that is not empty; none for the whole."""
    if start == 0 and stop is None:
        return {}
    return {"range": f"bytes={start}-{'' if stop is None else stop - 1}"}


def _reason(error: Exception) -> str:
    """The class only: the words of httpx have addresses in them, or what the host said."""
    kind = type(error).__name__
    return f"{WORDS[kind]} ({kind})" if kind in WORDS else kind


def _trusted(ca: str | None) -> ssl.SSLContext:
    """The system's certificate authorities, or only the given one."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise Usage(f"the file of certificate authorities {ca} cannot be read") from error
