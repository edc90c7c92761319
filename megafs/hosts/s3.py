"""A host that speaks S3: ``s3://KEY@ENDPOINT/BUCKET/PREFIX``: AWS, Ceph, SeaweedFS, MinIO, Garage, R2, B2, Google.

Objects are ``PREFIX/name`` in a bucket that exists. Requests are signed by AWS Signature Version 4 with the hash of the
body, so the server refuses a put that was changed on the way. S3 shows an object when all of it has arrived, never a
part. Put-if-absent is not used: some servers ignore it and overwrite.
"""

import hashlib
import hmac
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import httpx
import trio

from megafs.errors import HostFull, HostRefused, ObjectMissing
from megafs.hosts.http import Http, range_header, whole_number
from megafs.hosts.protocol import NAME, NOBODY, Bytes, checked_name, checked_range
from megafs.hosts.url import HostUrl
from megafs.model import Usage

Entries = list[tuple[str, int]]
PAGE = 1000  # entries of a listing; the most that S3 gives at once
PAGE_BYTES = 8 << 20
ERROR_BYTES = 64 << 10
HASH_IN_THREAD_BYTES = 1 << 20  # about a millisecond
EMPTY_HASH = hashlib.sha256(b"").hexdigest()
FULL = re.compile("QuotaExceeded|StorageFull|InsufficientStorage|NoSpaceLeft|DiskFull|CapacityExceeded|CapExceeded")
CODE = re.compile(r"[A-Za-z0-9.]{1,64}")


class S3Host:
    """Objects in a bucket below a prefix."""

    def __init__(
        self, url: HostUrl, secrets: Mapping[str, str], *, label: str, clock: Callable[[], float] = time.time
    ) -> None:
        scheme = "http" if url.options.get("tls") == "off" else "https"
        bucket, *prefix = url.folders
        self._label = label
        self._prefix = "".join(f"{folder}/" for folder in prefix)
        is_in_name = url.options.get("style") == "host"
        self._server = f"{bucket}.{url.server}" if is_in_name else url.server
        self._origin = f"{scheme}://{self._server}"
        self._bucket = "/" if is_in_name else f"/{quote(bucket, safe='-_.~')}/"
        self._signer = Signer(key=url.user, secret=secrets["secret_key"], region=url.options.get("region", "us-east-1"))
        self._clock = clock
        self._http = Http(label=label, ca=url.options.get("ca"))

    async def prepare(self) -> None:
        """Buckets are the owner's to make; this tries the bucket and the credentials."""
        await self._page("", most=1)

    async def put(self, name: str, data: Bytes) -> None:
        whole = bytes(data)
        # Besides the signed hash: SeaweedFS 4 kept an empty object for 4 of 60 puts that were cut off, none with this.
        headers = {"content-md5": await _md5(whole)}
        async with self._asked("PUT", self._path(name), headers=headers, content=whole) as answer:
            await self._check(answer)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        checked_range(start, stop)
        if start == stop:
            await self.head(name)
            return b""
        async with self._asked("GET", self._path(name), headers=range_header(start, stop)) as answer:
            if answer.status_code == 416:
                return b""
            await self._check(answer)
            return await self._http.content(answer, start, stop)

    async def head(self, name: str) -> int:
        async with self._asked("HEAD", self._path(name)) as answer:
            await self._check(answer)
            return self._http.length(answer)

    async def delete(self, name: str) -> None:
        async with self._asked("DELETE", self._path(name)) as answer:
            try:
                await self._check(answer)
            except ObjectMissing:
                return

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        token = ""
        while True:
            entries, following = await self._page(token, most=PAGE)
            for entry in entries:
                yield entry
            if not following:
                break
            if following == token:
                raise HostRefused(f"{self._label}: a listing that turns in a circle")
            token = following

    async def usage(self) -> Usage:
        """S3 does not say; it is asked for an object that nobody has, because no answer at all must be heard."""
        with suppress(ObjectMissing):
            await self.head(NOBODY)
        return Usage(free_bytes=None, used_bytes=None)

    async def aclose(self) -> None:
        await self._http.aclose()

    def _path(self, name: str) -> str:
        return self._bucket + quote(self._prefix + checked_name(name), safe="-_.~/")

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> AsyncIterator[httpx.Response]:
        text = urlencode(sorted((query or {}).items()), quote_via=quote, safe="-_.~")
        digest = EMPTY_HASH if not content else await _digest(content)
        signed = self._signer.headers(method, self._server, path, text, digest, self._clock())
        url = f"{self._origin}{path}{'?' if text else ''}{text}"
        async with self._http.asked(method, url, headers={**signed, **(headers or {})}, content=content) as answer:
            yield answer

    async def _check(self, answer: httpx.Response) -> None:
        """Raises what an answer other than success means; S3 says it in the body of the error."""
        if answer.status_code < 300:
            return
        code = ""
        if answer.request.method != "HEAD":
            text = await self._http.body(answer, most=ERROR_BYTES, is_cut=True)
            found = re.search(rb"<Code>([^<]*)</Code>", text)
            code = found[1].decode("ascii", "replace") if found else ""
        code = code if CODE.fullmatch(code) else ""
        if answer.status_code == 404 and code in {"", "NoSuchKey", "NotFound", "NoSuchVersion"}:
            raise ObjectMissing(f"{self._label}: no such object")
        if FULL.search(code):
            raise HostFull(f"{self._label}: {code}")
        if code == "RequestTimeTooSkewed":
            raise HostRefused(f"{self._label}: the clocks of this machine and of the host differ too much")
        self._http.check(answer, words=code)

    async def _page(self, token: str, *, most: int) -> tuple[Entries, str]:
        """Entries of a listing, and the token of the next page ("" after the last)."""
        query = {"list-type": "2", "prefix": self._prefix, "max-keys": str(most)}
        if token:
            query["continuation-token"] = token
        async with self._asked("GET", self._bucket, query=query) as answer:
            try:
                await self._check(answer)
            except ObjectMissing as error:
                raise HostRefused(f"{self._label}: there is no such bucket") from error
            root = await self._http.xml(answer, most=PAGE_BYTES)
        return page_of(root, self._prefix, self._label)


def page_of(root: ElementTree.Element, prefix: str, label: str) -> tuple[Entries, str]:
    """What an answer to a listing says. Raises HostRefused. Pure."""
    if _plain(root.tag) != "ListBucketResult":
        raise HostRefused(f"{label}: does not list as S3 does")
    entries: Entries = []
    for child in root:
        if _plain(child.tag) == "Contents":
            fields = {_plain(field.tag): field.text or "" for field in child}
            key, size = fields.get("Key", ""), whole_number(fields.get("Size", ""))
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and NAME.fullmatch(name) and size is not None:
                entries.append((name, size))
    found = {_plain(child.tag): child.text or "" for child in root}
    return entries, found.get("NextContinuationToken", "") if found.get("IsTruncated") == "true" else ""


class Signer:
    """AWS Signature Version 4 for one key. Pure."""

    def __init__(self, *, key: str, secret: str, region: str) -> None:
        self._key = key
        self._secret = secret
        self._region = region

    def headers(self, method: str, server: str, path: str, query: str, digest: str, now_s: float) -> dict[str, str]:
        """What to send with a request; ``path`` and ``query`` are quoted and sorted already."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        signed = {"host": server, "x-amz-content-sha256": digest, "x-amz-date": moment}
        names = ";".join(signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
        scope = f"{moment[:8]}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + self._secret.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        who = f"AWS4-HMAC-SHA256 Credential={self._key}/{scope}, SignedHeaders={names}, Signature={signature}"
        return {**signed, "authorization": who}


async def _digest(data: bytes) -> str:
    if len(data) < HASH_IN_THREAD_BYTES:
        return hashlib.sha256(data).hexdigest()
    return await trio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest(), abandon_on_cancel=True)


async def _md5(data: bytes) -> str:
    def digest() -> str:
        return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()

    if len(data) < HASH_IN_THREAD_BYTES:
        return digest()
    return await trio.to_thread.run_sync(digest, abandon_on_cancel=True)


def _plain(tag: str) -> str:
    """Without the namespace, which some servers leave out."""
    return tag.rpartition("}")[2]
