"""What this device has and the vault has not: the paths that were changed in commits which no successor had seen."""

from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TypeVar

import trio

from megafs.control.messages import Message, Unshipped, UnshippedPath
from megafs.daemon.engine import Engine
from megafs.index.changed import changed_paths, own_after
from megafs.sync.claims import Claims, winners

Item = TypeVar("Item")
PAGE_BYTES = 200_000  # of paths in one answer, which spells them in hex


async def unshipped(engine: Engine, page: int) -> AsyncGenerator[Message, None]:
    """Page after page until one is empty. Raises Unavailable if no host says where a successor went on from."""
    claims, stream = engine.shipper.claims, engine.shipper.stream
    last = stream.position.next_seq - 1
    base = await seen_by_successor(claims, engine.device.number) if claims.is_lost else stream.position.told_seq
    base = last if base is None else min(base, last)

    def look() -> tuple[list[UnshippedPath], bool]:
        with engine.database.snapshot() as connection:
            rows = own_after(connection, base)
            missing = set(range(base + 1, last + 1)) - {seq for seq, _ in rows}
            found = changed_paths(connection, [changeset for _, changeset in rows])
            return [UnshippedPath(path=each.path, what=each.what) for each in found], not missing

    paths, is_whole = await trio.to_thread.run_sync(look)
    cut = pages(paths, lambda each: len(each.path))
    chosen = cut[page] if page < len(cut) else []
    yield Unshipped(first_seq=base + 1, last_seq=last, is_whole=is_whole, paths=tuple(chosen))


async def seen_by_successor(claims: Claims, number: int) -> int | None:
    """The newest commit of this device that is in the vault; None if no claim speaks of it (it was not taken over)."""
    answers = await claims.all()
    bases = [found.claim.base for found in winners(each for said in answers.said.values() for each in said)]
    return next((base.seq for base in reversed(bases) if base.device == number), None)


def pages(items: Iterable[Item], size: Callable[[Item], int]) -> list[list[Item]]:
    """In order, each as large as an answer may be. Pure."""
    cut: list[list[Item]] = []
    room = 0
    for item in items:
        if size(item) > room:
            cut.append([])
            room = PAGE_BYTES
        cut[-1].append(item)
        room -= size(item)
    return cut
