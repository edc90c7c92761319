"""Commits as hosts have them, and which of them make one history where hosts have different ones under one number.

Objects in, checked commits out, or the hashes of those that count: a commit names the one before it by its hash, so the
newest one says which all the others are. Called by sync.recover. Applies nothing and changes nothing on a host.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from megafs.crypto.keys import ident_commit
from megafs.errors import Corrupt, MegaFSError, ObjectMissing, RolledBack, Unavailable
from megafs.model import Kind
from megafs.sync.objects import Objects
from megafs.sync.statements import CommitHeader, Step, Trust, parse_commit, step_hash

WINDOW = 8  # objects fetched at a time, so that latency is not paid for each commit
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit object as fetched: checked, not yet applied."""

    header: CommitHeader
    step: Step
    changeset: bytes


async def together(items: Sequence[Item], fetch: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """What ``fetch`` gives for each item, in their order; all under way at once. The first error ends all."""
    results: dict[int, Result] = {}

    async def one(number: int, item: Item) -> None:
        results[number] = await fetch(item)

    try:
        async with trio.open_nursery() as nursery:
            for number, item in enumerate(items):
                nursery.start_soon(one, number, item)
    except* MegaFSError as group:
        raise group.exceptions[0] from None
    return [results[number] for number in range(len(items))]


async def read_commit(objects: Objects, trust: Trust, device: int, seq: int, named: bytes | None = None) -> Commit:
    """A commit object, checked for itself; the one with the hash ``named``, if that is known. Raises ObjectMissing or
    Unavailable."""
    ident = ident_commit(device, seq)

    def understand(sealed: bytes) -> Commit:
        header, changeset = parse_commit(objects.keyring.open(Kind.COMMIT, [ident], sealed), trust)
        if (header.device, header.seq) != (device, seq):
            raise Corrupt("commit: speaks of another place")
        step = Step(device=device, seq=seq, hash=step_hash(sealed))
        if named not in (None, step.hash):
            raise Corrupt(f"commit {seq} of device {device}: of another history than the newest commit")
        return Commit(header=header, step=step, changeset=changeset)

    return await objects.read(Kind.COMMIT, ident, understand)


async def chain(
    objects: Objects, trust: Trust, steps: Sequence[tuple[int, int]], base: Step, end: Step | None
) -> dict[tuple[int, int], bytes]:
    """The hash of each of these commits, so that each follows the one before it and the first follows ``base``.
    ``end`` is the last one; None: the first that a host shows and that leads back to ``base``. Reads every commit, the
    newest first. Raises RolledBack if hosts show only others, else Unavailable or ObjectMissing."""
    errors: list[MegaFSError] = [Unavailable("no host answers")]
    for host in list(objects.hosts):
        alone = Objects(objects.keyring, {host: objects.hosts[host]})
        try:
            last = await read_commit(alone, trust, *steps[-1])
            if end not in (None, last.step):
                raise RolledBack("the newest head speaks of another history than the commits found")
            return await _back_from(last, objects, trust, steps, base)
        except (RolledBack, ObjectMissing, Unavailable) as error:
            errors.append(error)
    raise next((error for error in errors if isinstance(error, RolledBack)), errors[-1])


async def _back_from(
    last: Commit, objects: Objects, trust: Trust, steps: Sequence[tuple[int, int]], base: Step
) -> dict[tuple[int, int], bytes]:
    asked = Objects(objects.keyring, dict(objects.hosts))  # damage is told of when they are read to be applied
    named = {steps[-1]: last.step.hash}
    follower = last.header
    for stop in range(len(steps) - 1, 0, -WINDOW):
        window = steps[max(0, stop - WINDOW) : stop]
        for commit in reversed(await together(window, lambda step: read_commit(asked, trust, *step))):
            found = commit
            if found.step.hash != follower.previous.hash:
                device, seq = found.step.device, found.step.seq
                try:
                    found = await read_commit(asked, trust, device, seq, follower.previous.hash)
                except (ObjectMissing, Unavailable) as error:
                    raise does_not_follow(follower) from error
            named[found.step.device, found.step.seq] = found.step.hash
            follower = found.header
    if follower.previous != base:
        raise does_not_follow(follower)
    return named


def does_not_follow(header: CommitHeader) -> RolledBack:
    return RolledBack(f"commit {header.seq} of device {header.device} does not follow the one before it")
