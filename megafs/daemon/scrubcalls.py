"""``megafs scrub`` beside a mount: one sweep over every host, with progress and figures."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import trio

from megafs.control.messages import Message, Progress, Request
from megafs.control.scrubbed import HostScrub, Scrubbed
from megafs.control.server import Handler
from megafs.daemon.engine import Engine
from megafs.model import HostId
from megafs.sync.scrub import Tally

SHOW_EVERY_S = 1.0


class ScrubCalls:
    """The handler of one mount."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def handlers(self) -> Mapping[str, Handler]:
        return {"scrub": self.scrub}

    async def scrub(self, request: Request) -> AsyncGenerator[Message, None]:
        """Also beside the one that goes on all day; done in objects, not bytes."""
        engine, tallies = self._engine, dict[HostId, Tally]()
        engine.shipper.claims.check_writable()
        labels = {spec.id: spec.label for spec in engine.vault.hosts() if spec.state != "gone"}
        hosts = [host for host in labels if host in engine.stacks]
        await engine.space.ask_again()
        shown = trio.current_time()
        async with aclosing(engine.keeping.scrubber.sweep(hosts, tallies, full=request.full)) as steps:
            async for done, total in steps:
                if trio.current_time() - shown >= SHOW_EVERY_S:
                    shown = trio.current_time()
                    silent = tuple(labels[host] for host, tally in tallies.items() if tally.is_silent)
                    yield Progress(done_bytes=done, total_bytes=total, waiting_for=silent)
        await engine.commits.durable_now()
        yield Scrubbed(
            hosts=tuple(
                HostScrub(
                    label=labels[host],
                    checked=tally.checked,
                    bytes=tally.bytes,
                    bad=tally.bad,
                    repaired=tally.repaired,
                    silent=tally.is_silent,
                )
                for host, tally in tallies.items()
            )
        )
