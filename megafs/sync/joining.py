"""A host joins a living vault: what it needs so that an attach from it alone finds everything.

From now on it gets every commit, head and checkpoint by its own lane; what came before is copied here, from hosts that
have it, object by object, each checked: claims, announced epochs, the kept checkpoints with the parts of the newest,
the commits since, and the heads that a search asks for (sync.gallop). Packs are for sync.repair, boot objects for who
has the 24 words.
"""

from collections.abc import AsyncGenerator, Iterator

from megafs.crypto.keys import FIRST_EPOCH, ident_checkpoint, ident_commit, ident_epoch, ident_head, ident_part
from megafs.errors import ObjectMissing
from megafs.index.ledger import Ledger
from megafs.model import HostId, Kind
from megafs.sync import gallop
from megafs.sync.chain import together
from megafs.sync.claims import Claims
from megafs.sync.objects import Objects
from megafs.sync.stream import Stream

AT_ONCE = 8


def needed_objects(ledger: Ledger, stream: Stream) -> Iterator[tuple[Kind, bytes]]:
    """Everything that is on hosts and not only on its way to them. Some of it may have been collected already."""
    for kept in ledger.kept_checkpoints():
        yield Kind.CHECKPOINT, ident_checkpoint(kept.device, kept.seq)
    for part in ledger.known_parts():
        yield Kind.PART, ident_part(part.id)
    for epoch in range(FIRST_EPOCH + 1, stream.epoch + 1):
        yield Kind.EPOCH, ident_epoch(epoch)
    own, newest = stream.signer.device, stream.position.next_seq - 1
    stretches = {device: (first, last) for device, first, last in ledger.stretches()}
    stretches[own] = (stretches.get(own, (1, 0))[0], newest)
    for device, (first, last) in sorted(stretches.items()):
        for seq in range(1, last + 1):
            if gallop.needed(seq, first):
                yield Kind.HEAD, ident_head(device, seq)
            if seq >= first:
                yield Kind.COMMIT, ident_commit(device, seq)


async def bring_up(
    host: HostId, objects: Objects, others: Objects, claims: Claims, ledger: Ledger, stream: Stream
) -> AsyncGenerator[tuple[int, int], None]:
    """Copy to ``host`` of ``objects`` what ``others`` have; yields (done, of how many). Raises HostError,
    Unavailable."""
    await claims.spread(host)
    waiting = {(kind, ident) for _, kind, ident in ledger.uploads()}
    wanted = [each for each in needed_objects(ledger, stream) if each not in waiting]

    async def one(missing: tuple[Kind, bytes]) -> None:
        kind, ident = missing

        def checked(sealed: bytes) -> bytes:
            objects.keyring.open(kind, [ident], sealed)
            return sealed

        try:
            sealed = await others.read(kind, ident, checked)
        except ObjectMissing:
            return  # collected, or a commit that never got a head
        await objects.put(host, kind, ident, sealed)

    for start in range(0, len(wanted), AT_ONCE):
        yield start, len(wanted)
        await together(wanted[start : start + AT_ONCE], one)
    yield len(wanted), len(wanted)
