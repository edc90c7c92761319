"""A host that speaks WebDAV: ``webdav://user@server/folder`` (http) and ``webdavs://`` (https, own CA by ``?ca=FILE``).

httpx on trio, so a cancelled request is a closed connection. Objects are ``FOLDER/z/name``, ``z`` the last character of
the name; these 32 collections are made one after the other by ``prepare`` (some servers refuse concurrent MKCOL), never
later. A put goes to a name of its own and is moved: servers that write straight to the name would show a part of a put
that was cut off. The marker tells a missing object from a folder that vanished. Answers are untrusted: lengths are
bounded, redirects are not followed, listings with a document type are not parsed.
"""

import secrets as tokens
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import httpx
import trio

from megafs.errors import HostError, HostFull, HostRefused, HostUnreachable, ObjectMissing, Usage
from megafs.hosts.protocol import NAME, OBJECT_BYTES, Bytes, checked_name, checked_range
from megafs.hosts.url import HostUrl
from megafs.model import Usage as HostUsage

FOLDERS = "abcdefghijklmnopqrstuvwxyz234567"
MARKER = "megafs-host"  # no leading dot: some servers hide or refuse such names
MARKER_TEXT = b"This folder holds sealed objects of a MegaFS vault. Do not change anything in it.\n"
MARKER_SEEN_S = 10.0  # how long a marker that was seen counts as seen
PIECE_BYTES = 256 << 10
LISTING_BYTES = 256 << 20
CONNECTIONS = 16
CONNECT_S = 15.0
SILENCE_S = 60.0  # between two pieces of an answer; the limit on the whole is the caller's
DAV = "{DAV:}"
ENTRIES = b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><getcontentlength/><resourcetype/></prop></propfind>'
QUOTA = (
    b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><quota-available-bytes/><quota-used-bytes/></prop></propfind>'
)
Listing = list[tuple[str, ElementTree.Element]]  # decoded paths and their properties
FULL = {507}
PASSING = {408, 423, 425, 429}
NO_MOVE = {403, 405, 501}


class Body(httpx.AsyncByteStream):
    """The bytes of a request in pieces. Not an async generator, as httpx has it: one that is cut short by a cancelled
    request is left to the garbage collector, of which trio complains."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        piece, self._rest = self._rest[:PIECE_BYTES], self._rest[PIECE_BYTES:]
        if not piece:
            raise StopAsyncIteration
        return bytes(piece)

    async def aclose(self) -> None:
        """Nothing to release."""


class WebdavHost:
    """Objects in a collection; owns its connections."""

    def __init__(self, url: HostUrl, secrets: Mapping[str, str], *, label: str) -> None:
        scheme = "https" if url.kind == "webdavs" else "http"
        self._label = label
        self._path = "".join(f"/{quote(folder, safe='')}" for folder in url.folders)
        self._base = f"{scheme}://{url.server}{self._path}"
        self._depth = len(url.folders)
        self._can_move = True
        self._marker_seen = float("-inf")
        self._leftovers: list[str] = []
        self._client = httpx.AsyncClient(
            auth=httpx.BasicAuth(url.user, secrets.get("password", "")) if url.user else None,
            verify=_trusted(url.options.get("ca")),
            headers={"accept-encoding": "identity", "user-agent": "megafs"},
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            follow_redirects=False,
        )

    async def prepare(self) -> None:
        parts = self._path.split("/")[1:]
        server = self._base.removesuffix(self._path)
        made = [server + "".join(f"/{part}" for part in parts[: depth + 1]) for depth in range(len(parts))]
        made += [f"{self._base}/{folder}" for folder in FOLDERS]
        for collection in made:
            async with self._asked("PROPFIND", f"{collection}/", content=QUOTA, headers={"depth": "0"}) as answer:
                if answer.status_code == 404:
                    await self._done("MKCOL", f"{collection}/", also=(405,))  # 405: somebody else made it
        await self._done("PUT", f"{self._base}/{MARKER}", content=MARKER_TEXT)

    async def put(self, name: str, data: Bytes) -> None:
        target, whole = self._url(name), bytes(data)
        if not self._can_move:
            await self._put_plain(target, whole)
            return
        unfinished = f"{target}.partial-{tokens.token_hex(4)}"
        has_its_name = False
        try:
            await self._put_plain(unfinished, whole)
            has_its_name = await self._moved(unfinished, target)
        finally:
            if not has_its_name:
                self._leftovers.append(unfinished)
        if not has_its_name:
            self._can_move = False  # append-only credentials, or a server with PUT alone
            await self._put_plain(target, whole)
        await self._tidied()

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        checked_range(start, stop)
        if start == stop:
            await self.head(name)
            return b""
        headers = {"range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        async with self._asked("GET", self._url(name), headers=headers) as answer:
            if answer.status_code == 416:
                return b""
            if answer.status_code != 404:
                self._check(answer)
                skip = 0 if answer.status_code == 206 else start  # 200: the range was ignored, all of it comes
                most = OBJECT_BYTES if stop is None else stop - start
                return await self._body(answer, skip=skip, most=most, is_cut=stop is not None)
        raise await self._missing(name)

    async def head(self, name: str) -> int:
        async with self._asked("HEAD", self._url(name)) as answer:
            if answer.status_code != 404:
                self._check(answer)
                return self._length(answer)
        raise await self._missing(name)

    async def delete(self, name: str) -> None:
        async with self._asked("DELETE", self._url(name)) as answer:
            if answer.status_code != 404:
                self._check(answer)
                return
        await self._seen()

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        for folder in FOLDERS:
            for path, properties in await self._propfind(f"{self._base}/{folder}/", ENTRIES, depth=1):
                name = path.rpartition("/")[2]
                size = properties.findtext(f"{DAV}getcontentlength") or ""
                if NAME.fullmatch(name) and name[-1] == folder and size.isascii() and size.isdigit():
                    yield name, int(size)

    async def usage(self) -> HostUsage:
        found: dict[str, int | None] = {"available": None, "used": None}
        for _, properties in await self._propfind(f"{self._base}/", QUOTA, depth=0):
            for which in found:
                text = properties.findtext(f"{DAV}quota-{which}-bytes") or ""
                found[which] = int(text) if text.isascii() and text.isdigit() else None
        return HostUsage(free_bytes=found["available"], used_bytes=found["used"])

    async def aclose(self) -> None:
        await self._client.aclose()

    def _url(self, name: str) -> str:
        return f"{self._base}/{checked_name(name)[-1]}/{name}"

    async def _put_plain(self, url: str, data: bytes) -> None:
        async with self._asked("PUT", url, content=data) as answer:
            if answer.status_code in {404, 409}:
                raise HostUnreachable(f"{self._label}: the folder is not there")
            self._check(answer)

    async def _moved(self, source: str, target: str) -> bool:
        """Give an object its name; False if the host does not move at all."""
        async with self._asked("MOVE", source, headers={"destination": target, "overwrite": "T"}) as answer:
            if answer.status_code in NO_MOVE:
                return False
            self._check(answer)
            return True

    async def _tidied(self) -> None:
        """Delete what earlier puts left behind; never an error of the put at hand."""
        while self._leftovers:
            url = self._leftovers.pop()
            try:
                await self._done("DELETE", url, also=(404, 403, 405, 501))
            except HostError:
                self._leftovers.append(url)
                break

    async def _done(self, method: str, url: str, *, also: tuple[int, ...] = (), content: bytes | None = None) -> None:
        async with self._asked(method, url, content=content) as answer:
            if answer.status_code not in also:
                self._check(answer)

    @asynccontextmanager
    async def _asked(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        with self._told_as_host_errors():
            request = self._client.build_request(method, url, headers=headers)
            if content is not None:
                request.headers["content-length"] = str(len(content))
                request.stream = Body(content)
            answer = await self._client.send(request, stream=True)
            try:
                yield answer
            finally:
                await answer.aclose()

    @contextmanager
    def _told_as_host_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
                raise HostRefused(f"{self._label}: its certificate cannot be verified") from error
            raise HostUnreachable(f"{self._label}: {type(error).__name__}") from error

    def _check(self, answer: httpx.Response) -> None:
        """Raises what a status means, except success."""
        status = answer.status_code
        if 200 <= status < 300 and status != 207:
            return
        reason = f"{self._label}: {answer.request.method} answered with {status}"
        if status in FULL:
            raise HostFull(reason)
        if (status >= 500 and status != 501) or status in PASSING:
            raise HostUnreachable(reason)
        raise HostRefused(reason)

    def _length(self, answer: httpx.Response) -> int:
        text = answer.headers.get("content-length", "")
        if not (text.isascii() and text.isdigit()):
            raise HostRefused(f"{self._label}: does not say how long an object is")
        if int(text) > OBJECT_BYTES:
            raise ObjectMissing(f"{self._label}: an answer longer than any object")
        return int(text)

    async def _body(self, answer: httpx.Response, *, skip: int, most: int, is_cut: bool) -> bytes:
        """At most ``most`` bytes after ``skip``; what is longer is cut (a range was asked for) or not believed."""
        body = bytearray()
        async with aclosing(answer.aiter_raw(PIECE_BYTES)) as pieces:  # type: ignore[type-var]  # a generator, always
            async for piece in pieces:
                body += piece
                if len(body) > skip + most:
                    break  # leaves the rest unread and the connection closed
        if len(body) > skip + most and not is_cut:
            raise ObjectMissing(f"{self._label}: an answer longer than any object")
        return bytes(memoryview(body)[skip : skip + most])

    async def _missing(self, name: str) -> ObjectMissing:
        await self._seen()
        return ObjectMissing(f"{self._label}: no object {name}")

    async def _seen(self) -> None:
        """Raises HostUnreachable unless the marker was there within the last seconds."""
        if trio.current_time() - self._marker_seen < MARKER_SEEN_S:
            return
        async with self._asked("HEAD", f"{self._base}/{MARKER}") as answer:
            if answer.status_code == 404:
                raise HostUnreachable(f"{self._label}: the folder lacks the file {MARKER}")
            self._check(answer)
        self._marker_seen = trio.current_time()

    async def _propfind(self, url: str, wanted: bytes, *, depth: int) -> Listing:
        headers = {"depth": str(depth), "content-type": "application/xml"}
        async with self._asked("PROPFIND", url, headers=headers, content=wanted) as answer:
            if answer.status_code == 404:
                raise HostUnreachable(f"{self._label}: the folder is not there")
            if answer.status_code != 207:
                self._check(answer)
                raise HostRefused(f"{self._label}: is no WebDAV server")
            text = await self._body(answer, skip=0, most=LISTING_BYTES, is_cut=False)
        return await trio.to_thread.run_sync(self._parsed, text)

    def _parsed(self, text: bytes) -> Listing:
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise HostRefused(f"{self._label}: a listing with a document type")
        try:
            root = ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as error:
            raise HostUnreachable(f"{self._label}: a listing that cannot be read") from error
        found: Listing = []
        for response in root.iter(f"{DAV}response"):
            path = unquote(urlsplit(response.findtext(f"{DAV}href") or "").path)
            for status in response.iter(f"{DAV}propstat"):
                properties = status.find(f"{DAV}prop")
                if " 200 " in (status.findtext(f"{DAV}status") or "") + " " and properties is not None:
                    found.append((path, properties))
        return found


def _trusted(ca: str | None) -> ssl.SSLContext:
    """The system's certificate authorities, or only the given one."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise Usage(f"the file of certificate authorities {ca} cannot be read") from error
