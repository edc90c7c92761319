"""What the CLI may ask about single files of a mounted vault: bring them here, keep them here, say what is kept.

Files are named by inode number: the client asked the mount itself for it, as any program does.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from megafs.control.messages import Done, Message, Pinned, PinReport, Progress, Request
from megafs.control.server import Handler
from megafs.daemon.engine import Engine
from megafs.errors import Usage
from megafs.model import Ino


class PinCalls:
    """The handlers of one mount."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def handlers(self) -> Mapping[str, Handler]:
        return {"pin": self.pin, "unpin": self.unpin, "fetch": self.fetch, "pins": self.pins}

    def _asked(self, request: Request) -> Ino:
        row = self._engine.inodes.get(Ino(request.ino))
        if row is None or not row.nlink:
            raise Usage("this file is not in the vault any more")
        return Ino(request.ino)

    async def pin(self, request: Request) -> AsyncGenerator[Message, None]:
        engine, ino = self._engine, self._asked(request)
        await engine.commits.durable_now()  # what was written just now counts
        await engine.keeper.check_fits([ino])
        engine.keeper.pins.add(ino, int(time.time()))
        await engine.commits.durable_now()
        async with aclosing(self._brought(ino)) as steps:
            async for step in steps:
                yield step
        engine.keeper.wake()
        yield Done(sentences=("It is here and is kept here, with all that comes into it.",))

    async def unpin(self, request: Request) -> AsyncGenerator[Message, None]:
        engine = self._engine
        if not engine.keeper.pins.remove(Ino(request.ino)):
            raise Usage("this is not pinned itself; megafs pin --list shows what is")
        await engine.commits.durable_now()
        engine.keeper.wake()
        engine.cache.wake()
        yield Done(sentences=("It stays here as long as the cache has room.",))

    async def fetch(self, request: Request) -> AsyncGenerator[Message, None]:
        engine, ino = self._engine, self._asked(request)
        await engine.commits.durable_now()
        await engine.keeper.check_fits([ino])
        async with aclosing(self._brought(ino)) as steps:
            async for step in steps:
                yield step
        yield Done(sentences=("It is here.",))

    async def _brought(self, ino: Ino) -> AsyncGenerator[Progress, None]:
        async for done, total in self._engine.keeper.bring([ino]):
            yield Progress(done_bytes=done, total_bytes=total)

    async def pins(self, request: Request) -> AsyncGenerator[Message, None]:
        keeper, reports = self._engine.keeper, []
        for ino in keeper.pins.all():
            places = await keeper.places([ino])
            wanted = sum(place.sealed_bytes for place in places)
            missing = sum(place.sealed_bytes for place in await keeper.absent(places))
            reports.append(PinReport(path=keeper.pins.path(ino), bytes=wanted, here_bytes=wanted - missing))
        yield Pinned(pins=tuple(reports))
