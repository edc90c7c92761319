"""Hosts and disks that change file contents. The rule of every test: the right bytes, or EIO and an alarm that names
who.

With one host nothing can be healed: EIO. With three, one of them evil: the right bytes. (A11, A12, A19-A22, A27, A34,
A42; single bits of sealed objects are turned over in tests/crypto.)
"""

import errno
import itertools
import os

import pyfuse3
import pytest
import trio

from megafs.config import CHUNK_BYTES
from megafs.crypto.keys import Keyring
from megafs.crypto.seal import HEADER_BYTES, SEGMENT_BYTES, TAG_BYTES, open_sealed, seal
from megafs.errors import MegaFSError
from megafs.store import reader
from megafs.sync import compact
from megafs.sync.possession import Copy
from tests.security.rig import Rig

SEGMENT = SEGMENT_BYTES + TAG_BYTES


class Released(AssertionError):
    """Bytes that are not the file's reached the reader."""


async def outcome(drive, ino, right, start=0):
    """ "healed" or "refused"; anything else is Released. A read that never ends fails the test."""
    with trio.fail_after(60):
        try:
            got = await drive.read(ino, start, len(right))
        except pyfuse3.FUSEError as error:
            return "refused" if error.errno == errno.EIO else f"errno {error.errno}"
    if got != right:
        raise Released(f"{len(got)} bytes that were never written")
    return "healed"


def spoil(place, change):
    """A deed that changes the sealed chunk at ``place`` in every pack that is large enough to hold it."""

    def deed(name, data):
        if data is None or len(data) < place.offset + place.sealed_bytes:
            return data
        sealed = data[place.offset : place.offset + place.sealed_bytes]
        return data[: place.offset] + change(sealed) + data[place.offset + place.sealed_bytes :]

    return deed


def flipped(at):
    return lambda sealed: sealed[:at] + bytes([sealed[at] ^ 0x80]) + sealed[at + 1 :]


CHANGES = {
    "salt flipped": flipped(0),
    "commitment flipped": flipped(30),
    "first block flipped": flipped(HEADER_BYTES),
    "a middle block flipped": flipped(HEADER_BYTES + 5 * SEGMENT + 77),
    "last tag flipped": flipped(-1),
    "zeros": lambda sealed: bytes(len(sealed)),
    "zeros behind the salt": lambda sealed: sealed[:24] + bytes(len(sealed) - 24),
    "ones": lambda sealed: b"\xff" * len(sealed),
    "two segments swapped": lambda sealed: (
        sealed[:HEADER_BYTES]
        + sealed[HEADER_BYTES + SEGMENT : HEADER_BYTES + 2 * SEGMENT]
        + sealed[HEADER_BYTES : HEADER_BYTES + SEGMENT]
        + sealed[HEADER_BYTES + 2 * SEGMENT :]
    ),
    "first segment dropped": lambda sealed: (
        sealed[:HEADER_BYTES] + sealed[HEADER_BYTES + SEGMENT :] + os.urandom(SEGMENT)
    ),
    "first segment dropped, the salt counted on": lambda sealed: (
        (int.from_bytes(sealed[:24], "big") + 1 & (1 << 192) - 1).to_bytes(24, "big")
        + sealed[24:HEADER_BYTES]
        + sealed[HEADER_BYTES + SEGMENT :]
        + bytes(SEGMENT)
    ),
    "noise": lambda sealed: os.urandom(len(sealed)),
}
CUTS = {
    "withheld": lambda place: lambda name, data: None,
    "cut before it": lambda place: lambda name, data: data and data[: place.offset],
    "cut in it": lambda place: lambda name, data: data and data[: place.offset + HEADER_BYTES + SEGMENT],
    "cut by a byte": lambda place: lambda name, data: data and data[: place.offset + place.sealed_bytes - 1],
    "empty": lambda place: lambda name, data: data and b"",
}
DEEDS = {**{name: (lambda place, c=change: spoil(place, c)) for name, change in CHANGES.items()}, **CUTS}


def honest_are_slower(rig):
    """So the liar is asked first: reads go to the fastest, and a liar nobody asks proves nothing."""
    for puppet in rig.puppets.values():
        puppet.delay_s = 0.0 if puppet is rig.evil else 0.05


@pytest.mark.parametrize("hosts", [1, 3])
async def test_every_deed_is_healed_or_refused(tmp_path, caplog, hosts):
    """A11, A20, A21, A27."""
    rig = Rig(tmp_path, hosts)
    honest_are_slower(rig)
    data = os.urandom(CHUNK_BYTES + 50_000)
    async with rig.running() as drive:
        ino = await drive.write(b"file", data)
        await drive.sync()
        place = drive.places(ino)[0]
        for name, deed in DEEDS.items():
            drive.forget()
            before = sum(drive.engine.fetcher.wrong.values())
            rig.evil.deed = deed(place)
            assert await outcome(drive, ino, data[:CHUNK_BYTES]) == ("healed" if hosts > 1 else "refused"), name
            if name in CHANGES:
                assert sum(drive.engine.fetcher.wrong.values()) > before, name
        assert len([record for record in caplog.records if "host-0 answered with wrong" in record.message]) == 1
        rig.evil.deed = lambda name, data: data
        drive.forget()
        assert await outcome(drive, ino, data) == "healed"  # a host that mends its ways is believed


@pytest.mark.parametrize("name", CHANGES)
async def test_control_without_authentication_they_would_be_released(tmp_path, monkeypatch, name):
    """A11, A20, A21, A27, A34, A42."""
    monkeypatch.setattr(Keyring, "open_chunk", opened_without_looking)
    rig = Rig(tmp_path, 1)
    data = os.urandom(CHUNK_BYTES)
    async with rig.running() as drive:
        ino = await drive.write(b"file", data)
        await drive.sync()
        drive.forget()
        rig.evil.deed = DEEDS[name](drive.places(ino)[0])
        with pytest.raises(Released):
            assert await outcome(drive, ino, data) == "refused"


def opened_without_looking(self, epoch, place, sealed):
    """What a reader without any check would take for plaintext."""
    segments = [sealed[at : at + SEGMENT - TAG_BYTES] for at in range(HEADER_BYTES, len(sealed), SEGMENT)]
    return b"".join(segments)[: place.plain_bytes]


def arranged(places, order):
    """A deed: at each place lies the chunk of another (or the same) one."""

    def deed(name, data):
        if data is None or len(data) < places[-1].offset + places[-1].sealed_bytes:
            return data
        made = bytearray(data)
        for place, taken in zip(places, order, strict=True):
            source = places[taken]
            made[place.offset : place.offset + place.sealed_bytes] = data[
                source.offset : source.offset + source.sealed_bytes
            ]
        return bytes(made)

    return deed


async def test_chunks_in_every_wrong_order(tmp_path):
    """Permuted, repeated, and taken from another file: nothing but the place that the index says opens (A12, A20,
    A22)."""
    rig = Rig(tmp_path, 1)
    secret, public = os.urandom(3 * CHUNK_BYTES), os.urandom(CHUNK_BYTES)
    async with rig.running() as drive:
        one, other = await drive.write(b"secret", secret), await drive.write(b"public", public)
        await drive.sync()
        places = [*drive.places(one), *drive.places(other)]
        assert len({place.sealed_bytes for place in places}) == 1, "they could stand in for one another"
        assert len({place.pack for place in places}) == 1
        refused = 0
        for order in [*itertools.permutations(range(4)), (0, 0, 2, 3), (0, 1, 1, 3), (0, 1, 2, 0), (3, 3, 3, 3)]:
            rig.evil.deed = arranged(places, order)
            for ino, at, right in [(one, n, secret[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]) for n in range(3)] + [
                (other, 3, public)
            ]:
                drive.forget()
                start = 0 if ino == other else at * CHUNK_BYTES
                expected = "healed" if order[at] == at else "refused"
                assert await outcome(drive, ino, right, start) == expected
                refused += expected == "refused"
        assert refused > 40


@pytest.fixture
def placeless(monkeypatch):
    """A vault as some are: every block is authentic in itself, and knows neither its place nor its version."""
    key, where = bytes(32), b"a block"
    monkeypatch.setattr(Keyring, "seal_chunk", lambda self, chunk, codec, plain_bytes, data: seal(key, where, data))
    monkeypatch.setattr(Keyring, "open_chunk", lambda self, epoch, place, sealed: open_sealed(key, where, sealed))
    monkeypatch.setattr(reader, "digest", Anything)


class Anything(bytes):
    """Equal to every digest."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = bytes.__hash__


async def test_control_blocks_that_do_not_know_their_place_would_be_released(tmp_path, placeless):
    """Permuted and from another file (A12, A20, A22), the version before (A19, A26), and another file's whole object
    (A13, A20)."""
    rig = Rig(tmp_path, 1)
    host = rig.specs[0].id
    async with rig.running() as drive:
        inos = [await drive.write(name, os.urandom(CHUNK_BYTES)) for name in (b"secret", b"public")]
        await drive.sync()
        right = [await drive.read(ino) for ino in inos]
        rig.evil.deed = arranged([*drive.places(inos[0]), *drive.places(inos[1])], (1, 0))
        drive.forget()
        assert await drive.read(inos[1]) == right[0], "the secret is shown where everybody reads"
        rig.evil.deed = lambda name, data: data
        names, versions = [], [os.urandom(30_000) for _ in range(2)]
        for data in versions:
            ino = await drive.write(b"changing", data)
            await drive.sync()
            names.append(drive.pack_name(rig, host, drive.places(ino)[0]))
        former = rig.evil.picture()[names[0]]
        rig.evil.deed = lambda name, data: former if name == names[1] else data
        drive.forget()
        assert await drive.read(ino) == versions[0], "the version before"


async def test_older_versions_of_the_same_bytes(tmp_path):
    """Each version ever written, at its own place and under its own name, is refused for the newest (A19, A26)."""
    rig = Rig(tmp_path, 1)
    versions = []
    async with rig.running() as drive:
        for _ in range(4):
            data = os.urandom(30_000)
            ino = await drive.write(b"file", data)
            await drive.sync()
            place = drive.places(ino)[0]
            pack = rig.evil.picture()[drive.pack_name(rig, rig.specs[0].id, place)]
            versions.append((data, place, pack[place.offset : place.offset + place.sealed_bytes]))
        newest, place, _ = versions[-1]
        for _, old_place, sealed in versions[:-1]:
            drive.forget()
            assert old_place.sealed_bytes == place.sealed_bytes
            rig.evil.deed = spoil(place, lambda _, sealed=sealed: sealed)
            assert await outcome(drive, ino, newest) == "refused"
        rig.evil.deed = lambda name, data: data
        drive.forget()
        assert await outcome(drive, ino, newest) == "healed"


async def test_whole_objects_swapped_for_one_another(tmp_path):
    """Every object of the host is served under the name of the pack in turn (A13, A20)."""
    rig = Rig(tmp_path, 1)
    await rig.put_boots()
    async with rig.running() as drive:
        data = os.urandom(40_000)
        ino = await drive.write(b"file", data)
        await drive.sync()
        await drive.write(b"other", os.urandom(40_000))
        await drive.sync()
        mine = drive.pack_name(rig, rig.specs[0].id, drive.places(ino)[0])
        others = [taken for name, taken in rig.evil.picture().items() if name != mine]
        assert len(others) >= 5
        for taken in others:
            drive.forget()
            rig.evil.deed = lambda name, data, taken=taken: taken if name == mine else data
            assert await outcome(drive, ino, data) == "refused"


async def test_the_local_copy_is_trusted_no_more_than_a_host(tmp_path):
    """Bytes changed in the local pack file are mended from a host, or refused if the host is silent (A34, A41, A22)."""
    rig = Rig(tmp_path, 1)
    async with rig.running() as drive:
        data = os.urandom(200_000)
        ino = await drive.write(b"file", data)
        await drive.sync()
        place = drive.places(ino)[0]
        path = drive.engine.disk.path(place.pack)
        for change in CHANGES.values():
            drive.engine.reader.cache.clear()
            whole = path.read_bytes()
            path.write_bytes(spoil(place, change)("", whole))
            rig.evil.deed = lambda name, data: None
            assert await outcome(drive, ino, data) == "refused"
            rig.evil.deed = lambda name, data: data
            assert await outcome(drive, ino, data) == "healed"
        assert drive.engine.reader.healed


async def paths(drive, ino, data):
    """What each way from hosts' bytes to this device's makes of them: the right plaintext, sealed bytes that it takes
    over, True for "well", or an error."""
    engine, places = drive.engine, drive.places(ino)

    async def compacted():
        moved = await engine.keeping.compactor._empty(places[0].pack)
        place = drive.places(ino)[0]
        return moved and engine.reader._plain(1, place, engine.disk.read(place.pack, place.offset, place.sealed_bytes))

    async def looked_at(full):
        pack = engine.packs.get(places[0].pack)
        ((host, shard, root),) = engine.packs.copies(pack.number)
        copy = Copy(pack=pack, host=host, shard=shard, root=root)
        return not (await engine.keeping.scrubber._examiner.look_at(copy, full=full)).wrong

    ways = {
        "read": lambda: drive.read(ino, 0, CHUNK_BYTES),
        "read in the middle": lambda: drive.read(ino, 70_001, 9),
        "several chunks at once": lambda: engine.reader.chunks(places),
        "mend": lambda: engine.reader.mend(places[0]),
        "look at all of it": lambda: looked_at(True),
        "compact": compacted,
    }
    found = {}
    for name, way in ways.items():
        drive.forget()
        try:
            with trio.fail_after(60):
                found[name] = await way()
        except (pyfuse3.FUSEError, MegaFSError):
            found[name] = "refused"
    return found


async def test_no_path_forgets_the_check(tmp_path, monkeypatch):
    """A34: cold and ranged reads, reading ahead, mending, scrubbing and compacting, each with a host that lies."""
    rig = Rig(tmp_path, 1)
    data = os.urandom(2 * CHUNK_BYTES)
    async with rig.running() as drive:
        ino = await drive.write(b"file", data)
        await drive.sync()
        place = drive.places(ino)[0]
        for name in ("first block flipped", "zeros", "noise"):
            rig.evil.deed = spoil(place, CHANGES[name])
            found = await paths(drive, ino, data)
            assert {way for way, got in found.items() if got not in ("refused", False)} == set(), name
        rig.evil.deed = lambda name, data: data
        right = await paths(drive, ino, data)
        assert right.pop("several chunks at once")[place.chunk] == data[:CHUNK_BYTES]
        assert right == {
            "read": data[:CHUNK_BYTES],
            "read in the middle": data[70_001:70_010],
            "mend": None,
            "look at all of it": True,
            "compact": data[:CHUNK_BYTES],
        }, "the control: from an honest host each of them has it"


@pytest.mark.parametrize("name", ["first block flipped", "zeros"])
async def test_control_without_the_check_compacting_would_keep_the_forgery(tmp_path, monkeypatch, name):
    """A34: what reading refuses would have become the only copy."""
    rig = Rig(tmp_path, 1)
    data = os.urandom(CHUNK_BYTES)
    async with rig.running() as drive:
        ino = await drive.write(b"file", data)
        await drive.sync()
        (place,) = drive.places(ino)
        drive.forget()
        rig.evil.deed = spoil(place, CHANGES[name])
        monkeypatch.setattr(compact, "digest", Anything)
        assert await drive.engine.keeping.compactor._empty(place.pack) == 1
        assert await outcome(drive, ino, data) == "refused"
        rig.evil.deed = lambda name, data: data
        assert await outcome(drive, ino, data) == "refused", "though the host is honest now"


async def test_many_readers_while_a_host_changes_its_mind(tmp_path):
    """Concurrent reads of one file whose host lies in every second answer: nobody sees a forged byte (A42, A34)."""
    rig = Rig(tmp_path, 3)
    honest_are_slower(rig)
    async with rig.running() as drive:
        data = os.urandom(3 * CHUNK_BYTES)
        ino = await drive.write(b"file", data)
        await drive.sync()
        place, answers = drive.places(ino)[1], itertools.count()
        lie = spoil(place, CHANGES["a middle block flipped"])
        told, outcomes = [], set()

        def now_and_then(name, data):
            told.append(next(answers) % 2)
            return lie(name, data) if told[-1] else data

        async def read(start):
            outcomes.add(await outcome(drive, ino, data[start : start + 50_000], start))

        rig.evil.deed = now_and_then
        for _ in range(5):
            drive.forget()
            async with trio.open_nursery() as nursery:
                for start in range(0, len(data), 90_000):
                    nursery.start_soon(read, start)
        assert outcomes == {"healed"}
        assert any(told), "it did lie"
