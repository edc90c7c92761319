"""What a host can do, tried: writes an object, reads, measures, removes it again. For ``hosts add`` and ``test``."""

import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

import trio

from megafs.errors import HostError, HostRefused, ObjectMissing
from megafs.hosts.protocol import Host
from megafs.model import Usage

PROBE_BYTES = 1 << 20
SMALL_BYTES = 1000
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
ROUNDS = 3
LISTED = 10_000  # entries looked through for the probe; a larger vault is not listed to the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was found. Times are of one request, the best of a few."""

    latency_s: float  # of asking for an object's size
    upload_bytes_s: float
    download_bytes_s: float
    can_delete: bool  # False: append-only credentials
    can_list: bool
    usage: Usage


async def probe(host: Host) -> Probe:
    """Raises the HostError of the first thing that a host must do and does not: store, give back unchanged, give
    ranges, tell what is missing."""
    name = "".join(secrets.choice(ALPHABET) for _ in range(32))
    data = secrets.token_bytes(PROBE_BYTES)
    try:
        upload_s = await _timed(lambda: host.put(name, data))
        download_s = await _checked_reads(host, name, data)
        latency_s = min([await _timed(lambda: host.head(name)) for _ in range(ROUNDS)])
        can_list = await _is_listed(host, name)
        can_delete = await _is_deleted(host, name)
    finally:
        with suppress(HostError):
            await host.delete(name)
    return Probe(
        latency_s=latency_s,
        upload_bytes_s=PROBE_BYTES / upload_s,
        download_bytes_s=PROBE_BYTES / download_s,
        can_delete=can_delete,
        can_list=can_list,
        usage=await host.usage(),
    )


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    started = trio.current_time()
    await work()
    return max(trio.current_time() - started, 1e-6)


async def _checked_reads(host: Host, name: str, data: bytes) -> float:
    """Seconds for the whole object; raises HostRefused if anything comes back changed."""
    if await host.get(name, SMALL_BYTES, 2 * SMALL_BYTES) != data[SMALL_BYTES : 2 * SMALL_BYTES]:
        raise HostRefused("the host gives back another range than was asked for")
    if await host.head(name) != len(data):
        raise HostRefused("the host tells a wrong size")
    started = trio.current_time()
    if await host.get(name) != data:
        raise HostRefused("the host gives back other bytes than it was given")
    took_s = max(trio.current_time() - started, 1e-6)
    try:
        await host.get(name[::-1])
    except ObjectMissing:
        return took_s
    raise HostRefused("the host answers with an object that was never stored")


async def _is_listed(host: Host, name: str) -> bool:
    seen = 0
    try:
        async with aclosing(host.list()) as entries:  # type: ignore[type-var]  # an async generator, always
            async for entry, size in entries:
                seen += 1
                if entry == name:
                    return size == PROBE_BYTES
                if seen == LISTED:
                    return True
    except HostRefused:
        pass
    return False


async def _is_deleted(host: Host, name: str) -> bool:
    try:
        await host.delete(name)
        await host.head(name)
    except ObjectMissing:
        return True
    except HostRefused:
        pass
    return False
