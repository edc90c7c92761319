"""The hosts of a vault, opened: URLs and secrets in, stacks of wrappers out."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from megafs.config import Settings
from megafs.errors import HostUnreachable, Usage
from megafs.hosts import HostSecrets, Stack, open_host, stacked
from megafs.hosts.pace import TokenBucket
from megafs.hosts.protocol import Bytes, Host
from megafs.model import HostId, HostSpec
from megafs.model import Usage as HostUsage

PATIENCE_S = 5.0  # of one request, for a passing fault; whoever asked tries again later (sync.lanes, sync.packing)
FindSecrets = Callable[[str], HostSecrets]


class Opener:
    """Opens hosts under common limits: the line is one, however many hosts there are."""

    def __init__(self, settings: Settings, secrets: FindSecrets) -> None:
        self._settings, self.secrets = settings, secrets
        self._up, self._down = TokenBucket(settings.upload_bytes_s), TokenBucket(settings.download_bytes_s)

    async def open(self, spec: HostSpec) -> Stack:
        """A host that cannot be opened for want of its secret is one that does not answer, and says why."""
        host: Host
        secrets = await trio.to_thread.run_sync(self.secrets, spec.url)
        try:
            host = open_host(spec.url, secrets=secrets, label=spec.label)
        except Usage as error:
            host = LockedHost(f"{spec.label}: {error}; give it with: megafs hosts NAME secrets URL")
        return self.stack(spec, host)

    def stack(self, spec: HostSpec, host: Host) -> Stack:
        """The usual wrappers around a bare host."""
        return stacked(
            host,
            label=spec.label,
            reply_s=self._settings.host_reply_s,
            patience_s=PATIENCE_S,
            connections=self._settings.connections,
            up=self._up,
            down=self._down,
        )


class LockedHost:
    """A host whose secret is not on this device."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def prepare(self) -> None:
        raise HostUnreachable(self._why)

    async def put(self, name: str, data: Bytes) -> None:
        raise HostUnreachable(self._why)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        raise HostUnreachable(self._why)

    async def head(self, name: str) -> int:
        raise HostUnreachable(self._why)

    async def delete(self, name: str) -> None:
        raise HostUnreachable(self._why)

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        raise HostUnreachable(self._why)
        yield

    async def usage(self) -> HostUsage:
        raise HostUnreachable(self._why)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def connected(specs: Sequence[HostSpec], opener: Opener) -> AsyncIterator[dict[HostId, Stack]]:
    """The stacks while the body runs, one for each host that is not gone; connections are closed afterwards."""
    stacks: dict[HostId, Stack] = {}
    try:
        for spec in specs:
            if spec.state != "gone":
                stacks[spec.id] = await opener.open(spec)
        yield stacks
    finally:
        for stack in stacks.values():
            await stack.aclose()
