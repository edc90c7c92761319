"""Hosts that opendal speaks to: Google Cloud Storage, Azure Blob, Backblaze B2. Objects lie under ``PREFIX/name``.

Its asynchronous operator in an asyncio thread: a cancelled request ends there, and its blocking listing holds the
interpreter's lock while it waits for the network (measured: the whole program stood still for the two seconds of a
timeout). Retries are ours; its own never ended on bodies that were cut off. A range that ends past the object is an
error there and not a shorter answer, so the size is asked for and the range cut. opendal reads an answer that never
ends into memory until the request's time is over: these providers are trusted not to do that, an S3 host is not.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import opendal
from opendal import exceptions

from megafs.errors import HostError, HostFull, HostRefused, HostUnreachable, ObjectMissing
from megafs.errors import Usage as WrongUsage
from megafs.hosts import pace
from megafs.hosts.aside import Aside
from megafs.hosts.protocol import NAME, NOBODY, OBJECT_BYTES, Bytes, checked_name, checked_range
from megafs.hosts.url import HostUrl
from megafs.model import Usage

Result = TypeVar("Result")
Entries = list[tuple[str, int]]

CONTROL_S = 30.0
TRANSFER_S = 300.0  # 16 MiB at half a Mbit/s; the limit that callers feel is theirs
PAGE = 1000  # entries of a listing fetched at once
STATUS = re.compile(r"status: (\d{3})")
FULL = re.compile(r"QuotaExceeded|InsufficientStorage|StorageFull|NoSpace|CapacityExceeded|cap exceeded", re.I)
PASSING = {408, 425, 429}
CUT_OFF = "too little data"  # in opendal's words
PERMANENT = (exceptions.PermissionDenied, exceptions.ConfigInvalid, exceptions.Unsupported)
ERRORS = (*PERMANENT, exceptions.Error, exceptions.Unexpected, exceptions.NotFound, exceptions.RateLimited)
OTHERS = (exceptions.RangeNotSatisfied, exceptions.ConditionNotMatch, exceptions.Conflict, exceptions.AlreadyExists)


class ObjectStoreHost:
    """Objects in a bucket or container, through one opendal operator. Owns its thread."""

    def __init__(self, operator: opendal.AsyncOperator, *, label: str) -> None:
        self._operator = operator.layer(opendal.layers.TimeoutLayer(timeout=CONTROL_S, io_timeout=TRANSFER_S))
        self._has_pages = bool(operator.capability().list_with_start_after)
        self._label = label
        self._aside = Aside(f"opendal {label}")

    async def prepare(self) -> None:
        """Nothing to make (buckets are the owner's to make), but credentials and bucket are tried by listing."""
        await self._run(lambda: self._page("", most=1))

    async def put(self, name: str, data: Bytes) -> None:
        checked_name(name)
        whole = bytes(data)
        await pace.current().sending(len(whole))  # opendal takes a body as one piece
        await self._run(lambda: self._operator.write(name, whole))

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        checked_name(name)
        checked_range(start, stop)
        data = await self._run(lambda: self._get(name, start, stop))
        await pace.current().received(len(data))
        return data

    async def head(self, name: str) -> int:
        checked_name(name)
        return await self._run(lambda: self._size(name))

    async def delete(self, name: str) -> None:
        checked_name(name)
        await self._run(lambda: self._operator.delete(name))

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        after = ""
        while True:
            page = await self._run(partial(self._page, after, most=PAGE if self._has_pages else 0))
            for path, size in page:
                if NAME.fullmatch(path):
                    yield path, size
            if len(page) < PAGE or not self._has_pages:
                break
            after = page[-1][0]

    async def usage(self) -> Usage:
        """Object stores do not say; they are asked for an object that nobody has: no answer at all must be heard."""
        with suppress(ObjectMissing):
            await self.head(NOBODY)
        return Usage(free_bytes=None, used_bytes=None)

    async def aclose(self) -> None:
        await self._aside.aclose()

    async def _run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        with self._told_as_host_errors():
            return await self._aside.run(work)

    async def _page(self, after: str, *, most: int) -> Entries:
        """The next entries; all of them (most 0) where a listing cannot be begun in the middle (Azure)."""
        found: Entries = []
        async for entry in await self._operator.list("/", start_after=after or None, limit=most or None):
            found.append((entry.path, entry.metadata.content_length))
            if len(found) == most:
                break
        return found

    async def _size(self, name: str) -> int:
        size = (await self._operator.stat(name)).content_length
        if size > OBJECT_BYTES:
            raise ObjectMissing(f"{self._label}: what lies under {name} is no object")
        return size

    async def _get(self, name: str, start: int, stop: int | None) -> bytes:
        if start == stop:
            await self._size(name)  # opendal answers an empty range without asking whether there is such an object
            return b""
        if stop is not None:
            try:
                return await self._exactly(name, start, stop)
            except exceptions.RangeNotSatisfied:
                pass
            except exceptions.Unexpected as error:
                if CUT_OFF not in str(error) and _status(error) != 416:
                    raise
        size = await self._size(name)
        if start >= size:
            return b""
        if stop is not None and stop <= size:
            raise HostUnreachable(f"{self._label}: the answer was cut off")
        return await self._exactly(name, start, size)

    async def _exactly(self, name: str, start: int, stop: int) -> bytes:
        data = bytes(await self._operator.read(name, offset=start, size=stop - start))
        if len(data) != stop - start:
            raise HostRefused(f"{self._label}: does not honour ranges")
        return data

    @contextmanager
    def _told_as_host_errors(self) -> Iterator[None]:
        try:
            yield
        except (*ERRORS, *OTHERS, OSError) as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> HostError:
        text = str(error)
        first = text.partition("\n")[0][:200]
        reason = f"{self._label}: " + "".join(letter if letter.isprintable() else "?" for letter in first)
        status = _status(error)
        if isinstance(error, exceptions.NotFound):
            return ObjectMissing(reason)
        if status == 507 or (status is not None and status >= 400 and FULL.search(first)):
            return HostFull(reason)
        if isinstance(error, PERMANENT) or (status is not None and 300 <= status < 500 and status not in PASSING):
            return HostRefused(reason)
        return HostUnreachable(reason)


def _status(error: Exception) -> int | None:
    found = STATUS.search(str(error))
    return int(found[1]) if found else None


def _scheme(url: HostUrl) -> str:
    return "http" if url.options.get("tls") == "off" else "https"


def _root(folders: tuple[str, ...]) -> str:
    return "/" + "/".join(folders)


def _opened(label: str, scheme: str, **options: str) -> ObjectStoreHost:
    try:
        return ObjectStoreHost(opendal.AsyncOperator(scheme, **options), label=label)
    except exceptions.ConfigInvalid as error:  # its text may quote what is wrong, so it is not shown
        raise WrongUsage(
            f"{label}: the secret, or an option of the URL, has not the form that it should have"
        ) from error


def gs_host(url: HostUrl, secrets: Mapping[str, str], label: str) -> ObjectStoreHost:
    """``gs://BUCKET/PREFIX``; the secret is the service account's JSON in base64."""
    options = {"endpoint": url.options["endpoint"]} if "endpoint" in url.options else {}
    return _opened(
        label,
        "gcs",
        bucket=url.place,
        root=_root(url.folders),
        credential=secrets["credential"],
        disable_config_load="true",
        disable_vm_metadata="true",
        **options,
    )


def azblob_host(url: HostUrl, secrets: Mapping[str, str], label: str) -> ObjectStoreHost:
    """``azblob://ACCOUNT@ENDPOINT/CONTAINER/PREFIX``; with ``?style=path`` the account is not in the server's name."""
    account = f"/{url.user}" if url.options.get("style") == "path" else ""
    return _opened(
        label,
        "azblob",
        endpoint=f"{_scheme(url)}://{url.server}{account}",
        account_name=url.user,
        account_key=secrets["account_key"],
        container=url.folders[0],
        root=_root(url.folders[1:]),
    )


def b2_host(url: HostUrl, secrets: Mapping[str, str], label: str) -> ObjectStoreHost:
    """``b2://KEYID@BUCKET/PREFIX?bucket_id=ID``."""
    return _opened(
        label,
        "b2",
        bucket=url.place,
        bucket_id=url.options["bucket_id"],
        root=_root(url.folders),
        application_key_id=url.user,
        application_key=secrets["application_key"],
    )
