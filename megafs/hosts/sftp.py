"""A host reached by SFTP: ``sftp://user@server:port/folder`` (``/~/folder``: below the home), by asyncssh.

asyncssh lives in an asyncio thread of this host; requests are handed over and cancelled there. One connection carries
all of them; it is made when first needed and again after it broke. The server's key must be in known_hosts; the
client's key comes from ``?key=FILE``, the agent or ~/.ssh, or a password is given. Objects are ``FOLDER/z/name``, ``z``
the last character of the name; ``prepare`` makes the 32 folders, nobody else does. A put is a partial file, fsync where
the server has it, rename. SFTP version 3 has one status for most failures, so "full" is found by asking for the free
space.
"""

import asyncio
import os
import secrets as tokens
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import asyncssh
import trio

from megafs.errors import HostError, HostFull, HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts import pace
from megafs.hosts.aside import Aside
from megafs.hosts.protocol import NAME, OBJECT_BYTES, Bytes, checked_name, checked_range
from megafs.hosts.url import HostUrl
from megafs.model import Usage

Result = TypeVar("Result")
Entries = list[tuple[str, int]]
Turn = Callable[[int], Awaitable[None]]
Work = Callable[[asyncssh.SFTPClient], Awaitable[Result]]

FOLDERS = "abcdefghijklmnopqrstuvwxyz234567"
MARKER = ".megafs-host"
MARKER_TEXT = b"This folder holds sealed objects of a MegaFS vault. Do not change anything in it.\n"
BLOCK_BYTES = 128 << 10  # asyncssh drops the connection with 256 KiB
CONNECT_S = 15.0
LOGIN_S = 30.0
ALIVE_S = 15.0  # a connection that is silent twice this long is given up
REFUSED = (
    asyncssh.HostKeyNotVerifiable,
    asyncssh.PermissionDenied,
    asyncssh.KeyExchangeFailed,
    asyncssh.ProtocolNotSupported,
    asyncssh.KeyImportError,
    asyncssh.KeyEncryptionError,
    asyncssh.SFTPPermissionDenied,
    asyncssh.SFTPWriteProtect,
)


class SftpHost:
    """Objects in a folder of an SSH server. Owns one thread and one connection."""

    def __init__(self, url: HostUrl, secrets: Mapping[str, str], *, label: str) -> None:
        self._url = url
        self._secrets = dict(secrets)
        self._label = label
        self._root = "/".join(url.folders[1:] or (".",)) if url.folders[0] == "~" else "/" + "/".join(url.folders)
        self._aside = Aside(f"sftp {label}")
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: asyncssh.SFTPClient | None = None
        self._connecting = asyncio.Lock()

    async def prepare(self) -> None:
        turn = self._turn(pace.current().sending)
        await self._run(lambda sftp: self._prepare(sftp, turn))

    async def put(self, name: str, data: Bytes) -> None:
        path, whole, turn = self._path(name), bytes(data), self._turn(pace.current().sending)
        pieces = [bytes(piece) for piece in pace.current().cut(whole)]
        await self._run(lambda sftp: self._put(sftp, path, pieces, turn))

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        checked_range(start, stop)
        path, turn, most = self._path(name), self._turn(pace.current().received), pace.current().piece_bytes
        return await self._run(lambda sftp: self._get(sftp, path, start, stop, most, turn))

    async def head(self, name: str) -> int:
        path = self._path(name)
        return await self._run(lambda sftp: self._size(sftp, path))

    async def delete(self, name: str) -> None:
        path = self._path(name)
        await self._run(lambda sftp: self._delete(sftp, path))

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        for folder in FOLDERS:
            for entry in await self._run(partial(self._entries, folder)):
                yield entry

    async def usage(self) -> Usage:
        return await self._run(self._usage)

    async def aclose(self) -> None:
        if self._aside.is_running:
            with trio.CancelScope(shield=True), suppress(asyncssh.Error, OSError):  # milliseconds
                await self._aside.run(self._disconnected)
        await self._aside.aclose()

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)[-1]}/{name}"

    async def _run(self, work: Work[Result]) -> Result:
        async def connected_work() -> Result:
            return await work(await self._connected())

        try:
            return await self._aside.run(connected_work)
        except REFUSED as error:
            raise HostRefused(f"{self._label}: {_reason(error)}") from error
        except (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded) as error:
            raise HostFull(f"{self._label}: {_reason(error)}") from error
        except (asyncssh.Error, OSError, EOFError, TimeoutError) as error:
            raise HostUnreachable(f"{self._label}: {_reason(error)}") from error

    async def _connected(self) -> asyncssh.SFTPClient:
        async with self._connecting:
            if self._sftp is None or self._connection is None or self._connection.is_closed():
                await self._disconnected()
                self._connection = await asyncssh.connect(self._url.place, self._url.port or 22, **self._options())
                self._sftp = await self._connection.start_sftp_client()
            return self._sftp

    def _options(self) -> dict[str, object]:
        known_hosts = Path(self._url.options.get("known_hosts", "~/.ssh/known_hosts")).expanduser()
        if not known_hosts.is_file():
            raise HostRefused(f"{self._label}: there is no {known_hosts}, so the server's key cannot be checked")
        options: dict[str, object] = {
            "username": self._url.user,
            "known_hosts": str(known_hosts),
            "config": None,  # ~/.ssh/config could send us elsewhere than the URL says
            "gss_host": None,
            "connect_timeout": CONNECT_S,
            "login_timeout": LOGIN_S,
            "keepalive_interval": ALIVE_S,
            "keepalive_count_max": 2,
            "passphrase": self._secrets.get("passphrase"),
            "password": self._secrets.get("password"),
        }
        if "key" in self._url.options:
            options["client_keys"] = [os.path.expanduser(self._url.options["key"])]
        return options

    async def _disconnected(self) -> None:
        connection, self._connection, self._sftp = self._connection, None, None
        if connection is not None:
            connection.abort()
            await connection.wait_closed()

    async def _prepare(self, sftp: asyncssh.SFTPClient, turn: Turn) -> None:
        await sftp.makedirs(self._root, exist_ok=True)
        for folder in FOLDERS:
            await sftp.makedirs(f"{self._root}/{folder}", exist_ok=True)
        await self._put(sftp, f"{self._root}/{MARKER}", [MARKER_TEXT], turn)

    def _turn(self, wait: Turn) -> Turn:
        """What waits in trio, for the other thread."""
        token = trio.lowlevel.current_trio_token()
        return lambda count: self._aside.in_trio(lambda: wait(count), token)

    async def _put(self, sftp: asyncssh.SFTPClient, path: str, pieces: Sequence[bytes], turn: Turn) -> None:
        unfinished = f"{path}.partial-{tokens.token_hex(4)}"
        try:
            async with sftp.open(unfinished, "xb", block_size=BLOCK_BYTES) as file:
                for piece in pieces:
                    await turn(len(piece))
                    await file.write(piece)
                with suppress(asyncssh.SFTPOpUnsupported):
                    await file.fsync()
            try:
                await sftp.posix_rename(unfinished, path)
            except asyncssh.SFTPOpUnsupported:
                await self._delete(sftp, path)
                await sftp.rename(unfinished, path)
        except asyncssh.SFTPNoSuchFile as error:
            raise HostUnreachable(f"{self._label}: the folder is not there") from error
        except (asyncssh.SFTPError, asyncio.CancelledError) as error:
            with suppress(asyncssh.Error, OSError):
                await asyncio.shield(sftp.remove(unfinished))
            if type(error) is asyncssh.SFTPFailure:
                await self._check_space(sftp, sum(map(len, pieces)), error)
            raise

    async def _check_space(self, sftp: asyncssh.SFTPClient, needed: int, error: Exception) -> None:
        free = (await self._usage(sftp)).free_bytes
        if free is not None and free < needed + BLOCK_BYTES:
            raise HostFull(f"{self._label}: full") from error

    async def _get(
        self, sftp: asyncssh.SFTPClient, path: str, start: int, stop: int | None, most: int, turn: Turn
    ) -> bytes:
        data, left = bytearray(), OBJECT_BYTES + 1 if stop is None else stop - start
        try:
            async with sftp.open(path, "rb", block_size=BLOCK_BYTES) as file:
                while left:
                    wanted = min(left, most)
                    piece = await file.read(wanted, start + len(data))
                    assert isinstance(piece, bytes)  # not str: the file was opened as "rb"
                    if len(piece) > wanted:  # below 0 "left" would ask for everything, without a bound
                        raise HostRefused(f"{self._label}: answers with more than was asked for")
                    await turn(len(piece))
                    data += piece
                    left -= len(piece)
                    if len(piece) < most:
                        break
        except asyncssh.SFTPNoSuchFile as error:
            raise await self._missing(sftp, path) from error
        if len(data) > OBJECT_BYTES:
            raise ObjectMissing(f"{self._label}: an answer longer than any object")
        return bytes(data)

    async def _size(self, sftp: asyncssh.SFTPClient, path: str) -> int:
        try:
            status = await sftp.lstat(path)
        except asyncssh.SFTPNoSuchFile as error:
            raise await self._missing(sftp, path) from error
        if status.size is None or status.type != asyncssh.FILEXFER_TYPE_REGULAR or status.size > OBJECT_BYTES:
            raise ObjectMissing(f"{self._label}: what lies there is no object")
        return status.size

    async def _missing(self, sftp: asyncssh.SFTPClient, path: str) -> HostError:
        """SFTP says "no such file" for a missing folder as well; the marker tells them apart."""
        if await sftp.exists(f"{self._root}/{MARKER}"):
            return ObjectMissing(f"{self._label}: no object {path.rpartition('/')[2]}")
        return HostUnreachable(f"{self._label}: the folder lacks the file {MARKER}")

    async def _delete(self, sftp: asyncssh.SFTPClient, path: str) -> None:
        try:
            await sftp.remove(path)
        except asyncssh.SFTPNoSuchFile as error:
            missing = await self._missing(sftp, path)
            if isinstance(missing, HostUnreachable):
                raise missing from error

    async def _entries(self, folder: str, sftp: asyncssh.SFTPClient) -> Entries:
        found = []
        try:
            async for entry in sftp.scandir(f"{self._root}/{folder}"):
                name, attributes = str(entry.filename), entry.attrs
                is_file = attributes.type == asyncssh.FILEXFER_TYPE_REGULAR
                if is_file and NAME.fullmatch(name) and name[-1] == folder and attributes.size is not None:
                    found.append((name, attributes.size))
        except asyncssh.SFTPNoSuchFile as error:
            raise HostUnreachable(f"{self._label}: the folder is not there") from error
        return found

    async def _usage(self, sftp: asyncssh.SFTPClient) -> Usage:
        try:
            status = await sftp.statvfs(self._root)
        except asyncssh.SFTPError:
            return Usage(free_bytes=None, used_bytes=None)
        return Usage(free_bytes=status.bavail * status.frsize, used_bytes=None)


def _reason(error: Exception) -> str:
    text = str(error).partition("\n")[0][:200] or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text)
