"""A host that speaks WebDAV: ``webdav://user@server/folder`` (http) and ``webdavs://`` (https, own CA by ``?ca=FILE``).

Objects are ``FOLDER/z/name``, ``z`` the last character of
the name; these 32 collections are made one after the other by ``prepare`` (some servers refuse concurrent MKCOL), never
later. A put goes to a name of its own and is moved: servers that write straight to the name would show a part of a put
that was cut off. The marker tells a missing object from a folder that vanished.
"""

import secrets as tokens
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import httpx
import trio

from megafs.errors import HostError, HostFailing, HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts.http import Http, range_header, whole_number
from megafs.hosts.protocol import NAME, Bytes, checked_name, checked_range
from megafs.hosts.url import HostUrl
from megafs.model import Usage

FOLDERS = "abcdefghijklmnopqrstuvwxyz234567"
MARKER = "megafs-host"  # no leading dot: some servers hide or refuse such names
MARKER_TEXT = b"This folder holds sealed objects of a MegaFS vault. Do not change anything in it.\n"
MARKER_SEEN_S = 10.0  # how long a marker that was seen counts as seen
LISTING_BYTES, QUOTA_BYTES = 32 << 20, 64 << 10  # 60,000 objects in a folder; one answer about free space
DAV = "{DAV:}"
ENTRIES = b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><getcontentlength/><resourcetype/></prop></propfind>'
QUOTA = (
    b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><quota-available-bytes/><quota-used-bytes/></prop></propfind>'
)
Listing = list[tuple[str, ElementTree.Element]]  # decoded paths and their properties
NO_MOVE = {403, 405, 501}


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
        auth = httpx.BasicAuth(url.user, secrets.get("password", "")) if url.user else None
        self._http = Http(label=label, auth=auth, ca=url.options.get("ca"))

    async def prepare(self) -> None:
        parts = self._path.split("/")[1:]
        server = self._base.removesuffix(self._path)
        made = [server + "".join(f"/{part}" for part in parts[: depth + 1]) for depth in range(len(parts))]
        made += [f"{self._base}/{folder}" for folder in FOLDERS]
        for collection in made:
            async with self._http.asked("PROPFIND", f"{collection}/", content=QUOTA, headers={"depth": "0"}) as answer:
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
        async with self._http.asked("GET", self._url(name), headers=range_header(start, stop)) as answer:
            if answer.status_code == 416:
                return b""
            if answer.status_code != 404:
                self._http.check(answer)
                return await self._http.content(answer, start, stop)
        raise await self._missing(name)

    async def head(self, name: str) -> int:
        async with self._http.asked("HEAD", self._url(name)) as answer:
            if answer.status_code != 404:
                self._http.check(answer)
                return self._http.length(answer)
        raise await self._missing(name)

    async def delete(self, name: str) -> None:
        async with self._http.asked("DELETE", self._url(name)) as answer:
            if answer.status_code != 404:
                self._http.check(answer)
                return
        await self._seen()

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        for folder in FOLDERS:
            for path, properties in await self._propfind(f"{self._base}/{folder}/", ENTRIES, LISTING_BYTES, depth=1):
                name = path.rpartition("/")[2]
                size = whole_number(properties.findtext(f"{DAV}getcontentlength") or "")
                if NAME.fullmatch(name) and name[-1] == folder and size is not None:
                    yield name, size

    async def usage(self) -> Usage:
        found: dict[str, int | None] = {"available": None, "used": None}
        for _, properties in await self._propfind(f"{self._base}/", QUOTA, QUOTA_BYTES, depth=0):
            for which in found:
                found[which] = whole_number(properties.findtext(f"{DAV}quota-{which}-bytes") or "")
        return Usage(free_bytes=found["available"], used_bytes=found["used"])

    async def aclose(self) -> None:
        await self._http.aclose()

    def _url(self, name: str) -> str:
        return f"{self._base}/{checked_name(name)[-1]}/{name}"

    async def _put_plain(self, url: str, data: bytes) -> None:
        async with self._http.asked("PUT", url, content=data) as answer:
            if answer.status_code in {404, 409}:
                raise HostUnreachable(f"{self._label}: the folder is not there")
            if answer.status_code == 405:  # but it took the marker: rclone says so when its disk is full
                raise HostFailing(f"{self._label}: PUT answered with 405")
            self._http.check(answer)

    async def _moved(self, source: str, target: str) -> bool:
        """Give an object its name; False if the host does not move at all."""
        async with self._http.asked("MOVE", source, headers={"destination": target, "overwrite": "T"}) as answer:
            if answer.status_code in NO_MOVE:
                return False
            self._http.check(answer)
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
        async with self._http.asked(method, url, content=content) as answer:
            if answer.status_code not in also:
                self._http.check(answer)

    async def _missing(self, name: str) -> ObjectMissing:
        await self._seen()
        return ObjectMissing(f"{self._label}: no object {name}")

    async def _seen(self) -> None:
        """Raises HostUnreachable unless the marker was there within the last seconds."""
        if trio.current_time() - self._marker_seen < MARKER_SEEN_S:
            return
        async with self._http.asked("HEAD", f"{self._base}/{MARKER}") as answer:
            if answer.status_code == 404:
                raise HostUnreachable(f"{self._label}: the folder lacks the file {MARKER}")
            self._http.check(answer)
        self._marker_seen = trio.current_time()

    async def _propfind(self, url: str, wanted: bytes, most: int, *, depth: int) -> Listing:
        headers = {"depth": str(depth), "content-type": "application/xml"}
        async with self._http.asked("PROPFIND", url, headers=headers, content=wanted) as answer:
            if answer.status_code == 404:
                raise HostUnreachable(f"{self._label}: the folder is not there")
            if answer.status_code != 207:
                self._http.check(answer)
                raise HostRefused(f"{self._label}: is no WebDAV server")
            return listing_of(await self._http.xml(answer, most=most))


def listing_of(root: ElementTree.Element) -> Listing:
    """What an answer to PROPFIND says; what has no path that can be read is left out. Pure.

    Only what lies where RFC 4918 has it is looked at. Looking for it anywhere below took 4 s of the whole daemon for an
    answer of 170 KB in which responses stood within responses, and four times that for twice as much.
    """
    found: Listing = []
    for response in root.findall(f"{DAV}response"):
        try:
            path = unquote(urlsplit(response.findtext(f"{DAV}href") or "").path)
        except ValueError:  # of urlsplit, for brackets that do not close
            continue
        for status in response.findall(f"{DAV}propstat"):
            properties = status.find(f"{DAV}prop")
            if " 200 " in (status.findtext(f"{DAV}status") or "") + " " and properties is not None:
                found.append((path, properties))
    return found
