"""Hosts that opendal speaks to: S3 and everything that speaks S3, Google Cloud Storage, Azure Blob, Backblaze B2.

Its blocking interface in threads; retries are ours (its own never ended on bodies that were cut off). Objects lie under
``PREFIX/name``. Measured with 0.47: a range that ends past the object is an error and not a shorter answer, so the
size is asked for and the range cut; ``open().read(n)`` gives 512 bytes now and then, so it is not used; a cancelled
request goes on in its thread until opendal's own timeout, so the number of threads is bounded and an abandoned put may
land later.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TypeVar

import opendal
import trio
from opendal import exceptions

from megafs import errors
from megafs.errors import HostError, HostFull, HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts.protocol import NAME, OBJECT_BYTES, Bytes, checked_name, checked_range
from megafs.hosts.url import HostUrl
from megafs.model import Usage

Result = TypeVar("Result")
Entries = list[tuple[str, int]]

THREADS = 32  # more than connections: a thread that hangs on a dead connection is gone until CONTROL_S or TRANSFER_S
CONTROL_S = 30.0
TRANSFER_S = 300.0  # 16 MiB at half a Mbit/s
PAGE = 1000  # entries of a listing fetched at once
STATUS = re.compile(r"status: (\d{3})")
FULL = re.compile(r"QuotaExceeded|InsufficientStorage|StorageFull|NoSpace|DiskFull|CapacityExceeded|cap exceeded", re.I)
PASSING = {408, 425, 429}
CUT_OFF = "too little data"  # in opendal's words
PERMANENT = (exceptions.PermissionDenied, exceptions.ConfigInvalid, exceptions.Unsupported)
ERRORS = (*PERMANENT, exceptions.Error, exceptions.Unexpected, exceptions.NotFound, exceptions.RateLimited)
OTHERS = (exceptions.RangeNotSatisfied, exceptions.ConditionNotMatch, exceptions.Conflict, exceptions.AlreadyExists)


class ObjectStoreHost:
    """Objects in a bucket or container, through one opendal operator."""

    def __init__(self, operator: opendal.Operator, *, label: str) -> None:
        self._operator = operator.layer(opendal.layers.TimeoutLayer(timeout=CONTROL_S, io_timeout=TRANSFER_S))
        self._has_pages = bool(operator.capability().list_with_start_after)
        self._label = label
        self._limiter = trio.CapacityLimiter(THREADS)

    async def prepare(self) -> None:
        """Nothing to make (buckets are the owner's to make), but credentials and bucket are tried by listing."""
        await self._run(lambda: list(islice(self._operator.list("/", limit=1), 1)))

    async def put(self, name: str, data: Bytes) -> None:
        checked_name(name)
        whole = bytes(data)  # the thread may outlive a cancelled caller, who may then change its buffer
        await self._run(lambda: self._operator.write(name, whole))

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        checked_name(name)
        checked_range(start, stop)
        return await self._run(lambda: self._get(name, start, stop))

    async def head(self, name: str) -> int:
        checked_name(name)
        return await self._run(lambda: self._size(name))

    async def delete(self, name: str) -> None:
        checked_name(name)
        await self._run(lambda: self._operator.delete(name))

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        after: str | None = None
        while True:
            page = await self._run(partial(self._page, after))
            for path, size in page:
                if NAME.fullmatch(path):
                    yield path, size
            if len(page) < PAGE or not self._has_pages:
                break
            after = page[-1][0]

    async def usage(self) -> Usage:
        """Object stores do not say."""
        await trio.lowlevel.checkpoint()
        return Usage(free_bytes=None, used_bytes=None)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _run(self, work: Callable[[], Result]) -> Result:
        with self._told_as_host_errors():
            return await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)

    def _page(self, after: str | None) -> Entries:
        """The next entries; all of them where a listing cannot be begun in the middle (Azure)."""
        if not self._has_pages:
            return [(entry.path, entry.metadata.content_length) for entry in self._operator.list("/")]
        # A lister may not leave its thread, so each page is a listing of its own.
        entries = islice(self._operator.list("/", start_after=after, limit=PAGE), PAGE)
        return [(entry.path, entry.metadata.content_length) for entry in entries]

    def _size(self, name: str) -> int:
        size = self._operator.stat(name).content_length
        if size > OBJECT_BYTES:
            raise ObjectMissing(f"{self._label}: what lies under {name} is no object")
        return size

    def _get(self, name: str, start: int, stop: int | None) -> bytes:
        if stop is not None:
            if start == stop:
                self._size(name)  # opendal answers an empty range without asking whether there is such an object
                return b""
            try:
                return self._exactly(name, start, stop)
            except exceptions.RangeNotSatisfied:
                pass
            except exceptions.Unexpected as error:
                if CUT_OFF not in str(error) and _status(error) != 416:
                    raise
        size = self._size(name)
        if start >= size:
            return b""
        if stop is not None and stop <= size:
            raise HostUnreachable(f"{self._label}: the answer was cut off")
        return self._exactly(name, start, size)

    def _exactly(self, name: str, start: int, stop: int) -> bytes:
        data = self._operator.read(name, offset=start, size=stop - start)
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
        return ObjectStoreHost(opendal.Operator(scheme, **options), label=label)
    except exceptions.ConfigInvalid as error:  # its text may quote what is wrong, so it is not shown
        raise errors.Usage(
            f"{label}: the secret, or an option of the URL, has not the form that it should have"
        ) from error


def s3_host(url: HostUrl, secrets: Mapping[str, str], label: str) -> ObjectStoreHost:
    """``s3://KEY@ENDPOINT/BUCKET/PREFIX``; nothing is taken from the environment or ~/.aws."""
    options = {"enable_virtual_host_style": "true"} if url.options.get("style") == "host" else {}
    return _opened(
        label,
        "s3",
        endpoint=f"{_scheme(url)}://{url.server}",
        bucket=url.folders[0],
        root=_root(url.folders[1:]),
        region=url.options.get("region", "us-east-1"),
        access_key_id=url.user,
        secret_access_key=secrets["secret_key"],
        disable_config_load="true",
        disable_ec2_metadata="true",
        **options,
    )


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
    """``azblob://ACCOUNT@ENDPOINT/CONTAINER/PREFIX``."""
    return _opened(
        label,
        "azblob",
        endpoint=f"{_scheme(url)}://{url.server}",
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
