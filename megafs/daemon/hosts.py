"""The hosts of a vault, opened: URLs in, stacks of wrappers out."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from megafs.config import Settings
from megafs.hosts import Stack, open_host, stacked
from megafs.model import HostId, HostSpec

PATIENCE_S = 5.0  # of one request, for a passing fault; whoever asked tries again later (sync.lanes, sync.packing)


def opened(specs: Sequence[HostSpec], settings: Settings) -> dict[HostId, Stack]:
    """A stack for each host that is not gone. Raises Usage for a URL or secrets that cannot be meant."""
    stacks = {}
    for spec in specs:
        if spec.state != "gone":
            host = open_host(spec.url, secrets={}, label=spec.label)
            stacks[spec.id] = stacked(host, label=spec.label, reply_s=settings.host_reply_s, patience_s=PATIENCE_S)
    return stacks


@asynccontextmanager
async def connected(specs: Sequence[HostSpec], settings: Settings) -> AsyncIterator[Mapping[HostId, Stack]]:
    """The stacks while the body runs; their connections are closed afterwards."""
    stacks = opened(specs, settings)
    try:
        yield stacks
    finally:
        for stack in stacks.values():
            await stack.aclose()
