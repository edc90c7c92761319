"""Small pieces left alone become one chunk; what is written or has holes meanwhile stays as it is."""

import trio

from megafs.config import CHUNK_BYTES
from megafs.errors import Unavailable
from megafs.files.settle import IDLE_S, MANY, REMEMBERED, Settler
from megafs.model import Ino


class Asked:
    """Stands in for files.content: remembers what it was asked to rewrite."""

    def __init__(self, *, fails: bool = False) -> None:
        self.ranges: list[tuple[int, int, int]] = []
        self.fails = fails

    async def settle(self, ino: Ino, start: int, stop: int) -> bool:
        self.ranges.append((ino, start, stop))
        if self.fails:
            raise Unavailable("offline")
        return True


async def test_only_windows_with_many_small_extents_and_only_when_idle(autojump_clock, nursery):
    asked = Asked()
    settler = Settler(asked.settle)
    nursery.start_soon(settler.run)
    for _ in range(MANY):
        settler.note(Ino(7), CHUNK_BYTES + 5)
    for _ in range(MANY - 1):
        settler.note(Ino(8), 0)
    await trio.sleep(IDLE_S / 2)
    assert asked.ranges == []
    settler.note(Ino(7), CHUNK_BYTES)  # still being written: the wait begins again
    await trio.sleep(IDLE_S * 0.9)
    assert asked.ranges == []
    await trio.sleep(IDLE_S * 2)
    assert asked.ranges == [(7, CHUNK_BYTES, 2 * CHUNK_BYTES)]
    assert settler.settled == 1
    assert settler.due() == []


async def test_what_cannot_be_read_is_left(autojump_clock, nursery):
    asked = Asked(fails=True)
    settler = Settler(asked.settle)
    nursery.start_soon(settler.run)
    for _ in range(MANY):
        settler.note(Ino(7), 0)
    await trio.sleep(3 * IDLE_S)
    assert len(asked.ranges) == 1
    assert settler.settled == 0


async def test_memory_is_bounded(autojump_clock):
    settler = Settler(Asked().settle)
    for ino in range(REMEMBERED + 10):
        for _ in range(MANY):
            settler.note(Ino(ino), 0)
    await trio.sleep(IDLE_S)
    due = settler.due()
    assert len(due) == REMEMBERED
    assert (0, 0) not in due


async def test_what_is_forgotten_or_written_while_others_are_rewritten(autojump_clock, nursery):
    asked = Asked()

    async def settle(ino: Ino, start: int, stop: int) -> bool:
        if not asked.ranges:
            settler.note(Ino(9), 0)
            for number in range(REMEMBERED - 1):
                settler.note(Ino(1000 + number), 0)
        return await asked.settle(ino, start, stop)

    settler = Settler(settle)
    nursery.start_soon(settler.run)
    for ino in (7, 8, 9):
        for _ in range(MANY):
            settler.note(Ino(ino), 0)
    await trio.sleep(IDLE_S * 1.5)
    assert [ino for ino, _, _ in asked.ranges] == [7]  # 8 was forgotten
    await trio.sleep(IDLE_S * 2)
    assert [ino for ino, _, _ in asked.ranges] == [7, 9]
