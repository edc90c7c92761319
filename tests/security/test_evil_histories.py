"""Hosts that lie about the history: what a new device takes for the vault, and what one with state notices.

The rule: exactly the rows that the owner wrote, or a refusal; with one honest host among three, the rows. (A02, A07,
A13-A15, A29, A30, A36, A37, A41, A47.)
"""

import hashlib
import os
import shutil

import apsw
import pytest
import trio

from megafs.crypto import seal
from megafs.crypto.keys import Keyring, ident_checkpoint, ident_commit, ident_head, ident_part
from megafs.errors import MegaFSError, Unauthentic
from megafs.files.namespace import Change
from megafs.index.database import PAGE_BYTES
from megafs.model import AlarmKind, Kind
from megafs.sync import boot, recover, stream
from megafs.sync.objects import Objects
from tests.security.rig import Rig, rows

INJECTED = 10_000


async def lived_in(base, hosts=3):
    """A vault with a few commits, a checkpoint and files, shipped; (rig, rows, the files' plaintext)."""
    rig = Rig(base, hosts)
    await rig.put_boots()
    async with rig.running() as drive:
        for n in range(3):
            await drive.write(b"file %d" % n, os.urandom(20_000))
            await drive.sync()
            if n == 1:
                await checkpointed(drive)
        await drive.write(b"last", b"the newest")
        await drive.sync()
        rig.parts = [part.id for part in drive.engine.ledger.known_parts()]
        return rig, rows(drive.engine.database)


async def checkpointed(drive):
    """Make a checkpoint and let the hosts have it."""
    checkpointer = drive.engine.keeping.checkpointer
    await checkpointer.make()
    await drive.sync()
    checkpointer.note_complete()
    await drive.write(b"after the checkpoint", b"x")
    await drive.sync()


CONTENT = ("inode", "dirent", "xattr", "extent", "chunk")


def content(found):
    """The rows that users see; the stream's own (counters, copies) move on with every shipping."""
    return {table: found[table] for table in CONTENT}


async def verdict(rig, right, *hosts):
    """ "right" or "refused"; rows that nobody wrote are an AssertionError. Never longer than a minute."""
    with trio.fail_after(60):
        try:
            got = await rig.attached_rows(*hosts)
        except MegaFSError:
            return "refused"
    assert content(got) == content(right), "rows that nobody wrote"
    return "right"


async def test_the_truth_is_taken(tmp_path):
    rig, right = await lived_in(tmp_path)
    assert await verdict(rig, right) == "right"
    for host in rig.puppets:
        assert await verdict(rig, right, host) == "right"


def another(objects):
    """Each object in place of the one before it."""
    names = sorted(objects)
    turned = dict(zip(names, names[1:] + names[:1], strict=True))
    return lambda name, data: data and objects[turned[name]]


DEEDS = {
    "every object changed": lambda objects: lambda name, data: data and data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "every object is another": another,
    "every object cut": lambda objects: lambda name, data: data and data[:-1],
    "every object longer": lambda objects: lambda name, data: data and data + b"\0",
    "every object empty": lambda objects: lambda name, data: data and b"",
    "every object zeros": lambda objects: lambda name, data: data and bytes(len(data)),
    "every name has noise": lambda objects: lambda name, data: os.urandom(300),
    "every name has some object": lambda objects: lambda name, data: sorted(objects.values())[len(name + name[:1]) % 5],
}


@pytest.mark.parametrize("deed", DEEDS)
async def test_one_evil_of_three_changes_nothing_and_alone_is_refused(tmp_path, deed):
    """A13."""
    rig, right = await lived_in(tmp_path)
    rig.evil.deed = DEEDS[deed](rig.evil.picture())
    assert await verdict(rig, right) == "right"
    assert {damage.host for damage in rig.damages} == {rig.specs[0].id}, "and the liar is named"
    assert await verdict(rig, right, rig.specs[0].id) == "refused"


async def test_a_host_that_says_yes_to_everything_leads_no_search_astray(tmp_path, monkeypatch):
    """It claims to have every head and commit there could ever be (A15, A36)."""
    rig, right = await lived_in(tmp_path)
    rig.evil.size = lambda name, size: size or 400
    assert await verdict(rig, right) == "right"
    rig.evil.deed = lambda name, data: data or os.urandom(400)
    assert await verdict(rig, right) == "right"
    position = await position_of(rig)
    assert await recover.steps_ahead(rig.objects(), rig.device.trust, position, 1) == 0
    # Control: a search that believes HEAD goes on until it is stopped.
    monkeypatch.setattr(Objects, "proven", lambda objects, kind, ident, _: objects.exists(kind, ident))
    with trio.move_on_after(3) as scope:
        await verdict(rig, right)
    assert scope.cancelled_caught


async def position_of(rig):
    database = rig.database()
    try:
        return stream.load(database)
    finally:
        database.close()


async def test_every_kind_under_the_name_of_every_other(tmp_path):
    """What opens as a commit opens as nothing else, and only in its own place (A02, A13, A29)."""
    rig, right = await lived_in(tmp_path, hosts=1)
    objects, by_kind = rig.evil.picture(), {}
    for name in objects:
        by_kind.setdefault(kind_of(rig, name), []).append(name)
    assert set(by_kind) >= {Kind.COMMIT, Kind.HEAD, Kind.CHECKPOINT, Kind.PART, None}
    needed = [name for kind in (Kind.COMMIT, Kind.HEAD, Kind.CHECKPOINT, Kind.PART) for name in by_kind[kind]]
    refused = 0
    for place in [names[-1] for kind, names in by_kind.items() if kind] + needed[:1]:
        for taken in (names[0] for names in by_kind.values() if names[0] != place):
            rig.evil.deed = lambda name, data, place=place, taken=taken: objects[taken] if name == place else data
            refused += await verdict(rig, right) == "refused"
    assert refused >= 4


def kind_of(rig, name):
    """Which kind an object on the first host is; None for packs and boot objects, whose idents are random."""
    host = rig.specs[0].id
    for seq in range(1, 40):
        if name == rig.name(host, Kind.COMMIT, ident_commit(1, seq)):
            return Kind.COMMIT
        if name == rig.name(host, Kind.HEAD, ident_head(1, seq)):
            return Kind.HEAD
        if name == rig.name(host, Kind.CHECKPOINT, ident_checkpoint(1, seq)):
            return Kind.CHECKPOINT
    data = rig.evil.picture()[name]
    return Kind.PART if any(opens(rig, name, ident) for ident in rig.parts) and data else None


def opens(rig, name, ident):
    return name == rig.name(rig.specs[0].id, Kind.PART, ident)


async def files_of_metadata(base):
    """A vault whose user stores, as files, exact copies of one object of each kind, as it lies on the host and opened;
    (rig, rows, {(kind, ident): (the sealed chunk of the opened copy, that of the sealed one)}, the object's bytes)."""
    rig = Rig(base, 1)
    await rig.put_boots()
    ((boot_name, boot_object),) = rig.evil.picture().items()
    async with rig.running() as drive:
        await drive.write(b"first", b"x" * 5000)
        await drive.sync()
        await checkpointed(drive)
        host, (part, *_) = rig.specs[0].id, drive.engine.ledger.known_parts()
        listed = next(
            seq
            for seq in range(1, 40)
            if rig.name(host, Kind.CHECKPOINT, ident_checkpoint(1, seq)) in rig.evil.picture()
        )
        idents = {
            Kind.HEAD: ident_head(1, 1),
            Kind.COMMIT: ident_commit(1, 1),
            Kind.CHECKPOINT: ident_checkpoint(1, listed),
            Kind.PART: ident_part(part.id),
        }
        sealed = {(kind, ident): rig.evil.picture()[rig.name(host, kind, ident)] for kind, ident in idents.items()}
        plain = {(kind, ident): rig.keyring.open(kind, [ident], data) for (kind, ident), data in sealed.items()}
        sealed[Kind.BOOT, b""], plain[Kind.BOOT, b""] = boot_object, rig.recovery.open_boot(boot_object)
        stored = {}
        for which in sealed:
            inos = [await drive.write(os.urandom(9).hex().encode(), each[which]) for each in (plain, sealed)]
            await drive.sync()
            chunks = []
            for ino in inos:
                (place,) = drive.places(ino)
                pack = rig.evil.picture()[drive.pack_name(rig, host, place)]
                chunks.append(pack[place.offset : place.offset + place.sealed_bytes])
            stored[which] = chunks
        return rig, rows(drive.engine.database), stored, {**sealed, "boot name": boot_name}


def opens_as(rig, kind, ident, data):
    """What an object of this kind and place would say; None: nothing."""
    try:
        return rig.recovery.open_boot(data) if kind is Kind.BOOT else rig.keyring.open(kind, [ident], data)
    except Unauthentic:
        return None


async def test_files_that_look_like_metadata(tmp_path):
    """A user stores exact copies of a head, a commit, a checkpoint, its part and a boot object, sealed and opened, as
    files; a host serves the sealed bytes of these files in place of the real ones (A29)."""
    rig, right, stored, real = await files_of_metadata(tmp_path)
    for (kind, ident), chunks in stored.items():
        target = real["boot name"] if kind is Kind.BOOT else rig.name(rig.specs[0].id, kind, ident)
        for data in chunks:
            rig.evil.deed = lambda name, served, target=target, data=data: data if name == target else served
            assert opens_as(rig, kind, ident, data) is None
            if kind is Kind.BOOT:
                assert await boot.find(rig.evil, rig.recovery) is None
            else:
                assert await verdict(rig, right) in ("right", "refused"), "some are not needed to attach"
        assert opens_as(rig, kind, ident, real[kind, ident]) is not None, "the control: the real one in its place"


async def test_control_with_one_key_for_everything_a_file_would_be_a_head(tmp_path, monkeypatch):
    """A29, A02: as where objects have no types."""
    key, where = bytes(32), b"an object"
    monkeypatch.setattr(Keyring, "seal", lambda self, kind, fields, body, epoch=None: seal.seal(key, where, body))
    monkeypatch.setattr(
        Keyring, "open", lambda self, kind, fields, data, epoch=None: seal.open_sealed(key, where, data)
    )
    monkeypatch.setattr(Keyring, "seal_chunk", lambda self, chunk, codec, size, data: seal.seal(key, where, data))
    rig, _, stored, _ = await files_of_metadata(tmp_path)
    of_keyring = {which: chunks for which, chunks in stored.items() if which[0] is not Kind.BOOT}
    assert len(of_keyring) == 4
    for (kind, ident), (chunk, _) in of_keyring.items():
        assert opens_as(rig, kind, ident, chunk) is not None


async def test_another_vault_is_refused_before_a_byte_leaves(tmp_path):
    """A complete, valid vault of the attacker, an empty bucket, a plaintext one: the words open nothing (A07, A30)."""
    mine, _ = await lived_in(tmp_path / "mine", hosts=1)
    theirs, _ = await lived_in(tmp_path / "theirs", hosts=1)
    puppet = mine.evil
    for world in (theirs.evil.picture(), {}, dict.fromkeys(mine.evil.picture(), b'{"generation":1}')):
        puppet.world = world
        mine.brain.transcript.clear()
        assert await boot.find(puppet, mine.recovery) is None
        assert {seen.verb for seen in mine.brain.transcript} == {"get"}
    puppet.world = None
    assert await boot.find(puppet, mine.recovery) is not None, "the control: the right one is found"


async def test_whatever_is_wrong_with_a_boot_object_hosts_see_the_same(tmp_path):
    """Flipped, cut, spliced: one answer, and byte for byte the same requests, so no host learns which check failed
    (A01, A06)."""
    rig = Rig(tmp_path, 1)
    await rig.put_boots()
    (name,) = rig.evil.picture()
    whole = rig.evil.picture()[name]
    other = Rig(tmp_path / "other", 1)
    await other.put_boots()
    (foreign,) = other.evil.picture().values()
    tampered = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 97)]
    tampered += [whole[:size] for size in range(0, len(whole), 211)]
    tampered += [whole[:at] + foreign[at:] for at in (1, 24, 56, 100, len(whole) // 2)] + [foreign, b"", whole + b"\0"]
    traces = set()
    for data in tampered:
        rig.brain.transcript.clear()
        rig.evil.world = {name: data}
        assert await boot.find(rig.evil, rig.recovery) is None
        traces.add(tuple(sorted(rig.brain.trace())))
    assert len(traces) == 1
    rig.evil.world = None
    assert await boot.find(rig.evil, rig.recovery) is not None
    # Control: a client that tells the host why it failed is caught.
    rig.brain.transcript.clear()
    await rig.evil.head(name)
    assert tuple(sorted(rig.brain.trace())) not in traces


async def test_injected_objects_are_never_asked_for(tmp_path):
    """Ten thousand foreign and copied objects: no new name, and only derived names are requested (A15)."""
    rig, right = await lived_in(tmp_path)
    valid = list(rig.evil.picture().values())
    injected = {boot_like_name(): valid[n % len(valid)] if n % 2 else os.urandom(200) for n in range(INJECTED)}
    rig.evil.memory.objects.update(injected)
    rig.brain.transcript.clear()
    assert await verdict(rig, right) == "right"
    asked = {seen.name for seen in rig.brain.transcript}
    assert asked
    assert not asked & set(injected)
    assert len(rig.brain.transcript) < 600


def boot_like_name():
    return "".join("abcdefghijklmnopqrstuvwxyz234567"[byte & 31] for byte in os.urandom(32))


async def test_lies_about_sizes_change_no_stat(tmp_path):
    """Every size that a host tells is wrong (A14)."""
    rig, right = await lived_in(tmp_path)
    for lie in (
        lambda name, size: size and 0,
        lambda name, size: size and size * 7,
        lambda name, size: size and 1 << 60,
    ):
        rig.evil.size = lie
        assert await verdict(rig, right) == "right"


async def test_lies_in_listings_and_late_answers_change_nothing(tmp_path):
    """What LIST says is for accounting: nothing is fetched, believed or deleted because of it (A15, A38)."""
    rig, right = await lived_in(tmp_path)
    before = {host: puppet.picture() for host, puppet in rig.puppets.items()}
    made_up = {boot_like_name(): 1 << 40 for _ in range(2000)}
    for lie in (lambda there: {}, lambda there: made_up, lambda there: dict.fromkeys(there, 0)):
        rig.evil.listing, rig.evil.delay_s = lie, 0.002
        assert await verdict(rig, right) == "right"
        async with rig.running() as drive:
            await drive.engine.keeping.mirror.watch.look()
            await drive.engine.keeping.collector.tend()
            assert drive.engine.alarms.all() == []
        assert not any(seen.verb == "delete" or seen.name in made_up for seen in rig.brain.transcript)
        assert all(before[host].items() <= puppet.picture().items() for host, puppet in rig.puppets.items())
    assert {name async for name, _ in rig.evil.list()} == set(rig.evil.picture()), "the last lie was about sizes"
    assert not any([size async for _, size in rig.evil.list()]), "the control: it does lie"


async def test_rollback_to_every_older_state(tmp_path):
    """Pictures of all hosts after each step are served again (A36): with state it is always noticed, with one honest
    host the newest wins; all hosts together against a device without state is the documented miss (A26)."""
    rig = Rig(tmp_path, 3)
    await rig.put_boots()
    pictures = []
    async with rig.running() as drive:
        for n in range(3):
            await drive.write(b"step %d" % n, os.urandom(9000))
            await drive.sync()
            pictures.append({host: puppet.picture() for host, puppet in rig.puppets.items()})
        right, watch = rows(drive.engine.database), drive.engine.keeping.mirror.watch
        assert await watch.look() == []
        assert drive.engine.alarms.all() == []
        *olds, _ = pictures
        for old in olds:
            for liars in (1, 2):
                for host in list(rig.puppets)[:liars]:
                    rig.puppets[host].world = old[host]
                assert await watch.look() == sorted(list(rig.puppets)[:liars])
                assert await verdict(rig, right) == "right"
            for host, puppet in rig.puppets.items():
                puppet.world = old[host]
            assert len(await watch.look()) == 3
            older = await rig.attached_rows()
            assert len(older["dirent"]) < len(right["dirent"])  # the miss: all hosts, and no state to compare with
            for puppet in rig.puppets.values():
                puppet.world = None


async def test_a_fork_is_noticed_at_first_contact(tmp_path):
    """A copy of the state directory writes on in another world; when both worlds meet, neither is taken for the other
    (A37)."""
    rig = Rig(tmp_path, 2)
    await rig.put_boots()
    async with rig.running() as drive:
        await drive.write(b"common", b"x" * 3000)
        await drive.sync()
    shutil.copytree(rig.paths.root, tmp_path / "clone")
    before = {host: puppet.picture() for host, puppet in rig.puppets.items()}
    async with rig.running() as drive:
        await drive.write(b"mine", b"y" * 3000)
        await drive.sync()
    mine = {host: puppet.picture() for host, puppet in rig.puppets.items()}
    for host, puppet in rig.puppets.items():
        puppet.memory.objects.clear()
        puppet.memory.objects.update(before[host])
    rig.paths = type(rig.paths)(root=tmp_path / "clone")
    async with rig.running() as drive:
        await drive.write(b"theirs", b"z" * 3000)
        await drive.sync()
        watch, alarms = drive.engine.keeping.mirror.watch, drive.engine.alarms
        first, second = rig.puppets
        assert await watch.look() == []
        assert alarms.all() == []
        rig.puppets[first].world = mine[first]
        await watch.look()
        (alarm,) = alarms.all()
        assert (alarm.kind, alarm.host, alarm.known_seq) == (AlarmKind.FORK, first, alarm.shown_seq)
        assert alarm.known_hash != alarm.shown_hash
    with pytest.raises(MegaFSError):  # a new device takes neither a mixture nor a silent choice of one
        rig.puppets[first].deed = lambda name, data: data
        mixed = dict(mine[first])
        newest = max(seq for seq in range(1, 60) if rig.name(first, Kind.HEAD, ident_head(1, seq)) in mixed)
        name = rig.name(first, Kind.HEAD, ident_head(1, newest))
        rig.puppets[first].world = {**rig.puppets[first].picture(), name: mixed[name]}
        rig.puppets[second].world = {}
        await rig.attached_rows()


async def two_lives(rig, monkeypatch, base, sealing=lambda rig, sealed, plain: sealed):
    """(salts of every seal of a state and of a clone of it that write on, the two chunks of two equal files).
    ``sealing`` changes how it is sealed."""
    salts, real = [], seal.seal

    def noted(key, context, plain):
        sealed = sealing(rig, real(key, context, plain), plain)
        salts.append(sealed[:24])
        return sealed

    monkeypatch.setattr("megafs.crypto.keys.seal", noted)
    same = os.urandom(50_000)
    async with rig.running() as drive:
        inos = [await drive.write(name, same) for name in (b"one", b"two")]
        await drive.engine.commits.durable_now()
        places = [drive.places(ino)[0] for ino in inos]
        chunks = [drive.engine.disk.read(place.pack, place.offset, place.sealed_bytes) for place in places]
    shutil.copytree(rig.paths.root, base / "clone")
    for root in (rig.paths.root, base / "clone"):
        rig.paths = type(rig.paths)(root=root)
        async with rig.running() as drive:
            await drive.write(b"three", same)
            await drive.engine.commits.durable_now()
    assert len(salts) >= 4
    return salts, chunks


def share(one, two):
    """Whether there are 8 bytes that are in both."""
    windows = {one[at : at + 8] for at in range(len(one) - 8)}
    return any(two[at : at + 8] in windows for at in range(len(two) - 8))


async def test_salts_are_never_used_twice(tmp_path, monkeypatch):
    """Every seal of two runs, a clone of the state among them, has a salt of its own: no key meets a nonce twice; and
    equal files share no ciphertext (A23, A24, A28, A33)."""
    salts, chunks = await two_lives(Rig(tmp_path, 1), monkeypatch, tmp_path)
    assert len(set(salts)) == len(salts)
    assert not share(*chunks)


async def test_control_a_stored_counter_would_repeat(tmp_path, monkeypatch):
    """A28: as Borg's did, when what was stored is brought back."""

    def counted(rig, sealed, plain):
        counter = rig.paths.root / "counter"
        now = int(counter.read_text()) + 1 if counter.exists() else 0
        counter.write_text(str(now))
        return now.to_bytes(24, "big") + sealed[24:]

    salts, _ = await two_lives(Rig(tmp_path, 1), monkeypatch, tmp_path, counted)
    assert len(set(salts)) < len(salts)


async def test_control_convergent_sealing_would_show_equal_files(tmp_path, monkeypatch):
    """A33: who derives key and salt from content lets hosts find it again."""

    def convergent(rig, sealed, plain):
        return hashlib.shake_256(bytes(plain)).digest(len(sealed))

    salts, chunks = await two_lives(Rig(tmp_path, 1), monkeypatch, tmp_path, convergent)
    assert len(set(salts)) < len(salts)
    assert share(*chunks)


def common(rig):
    """Names that are on more than one host."""
    names = [set(puppet.picture()) for puppet in rig.puppets.values()]
    assert all(len(each) > 5 for each in names)
    return (names[0] & names[1]) | (names[0] & names[2]) | (names[1] & names[2])


async def test_names_differ_from_host_to_host(tmp_path):
    """No name is on two hosts, and none is a function of content (A31, A47, A33)."""
    rig, _ = await lived_in(tmp_path)
    assert not common(rig)


async def test_control_one_name_key_would_link_hosts(tmp_path, monkeypatch):
    """A47: names that say nothing of a host are the same everywhere."""
    real = Keyring.object_name
    nobody = bytes(16)
    monkeypatch.setattr(Keyring, "object_name", lambda self, host, kind, ident: real(self, nobody, kind, ident))
    rig, _ = await lived_in(tmp_path)
    assert len(common(rig)) > 5


async def test_the_index_file_with_changed_bytes_is_refused_or_whole(tmp_path):
    """Any page of the local index changed at rest: an error, never other rows (A23, A41)."""
    rig, right = await lived_in(tmp_path, hosts=1)
    whole = rig.paths.index.read_bytes()
    refused = 0
    for at in range(0, len(whole), max(1, len(whole) // 70)):
        rig.paths.index.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        for beside in ("-wal", "-shm"):
            rig.paths.index.with_name(rig.paths.index.name + beside).unlink(missing_ok=True)
        try:
            database = rig.database()
        except MegaFSError:
            refused += 1
            continue
        try:
            got = rows(database)
        except apsw.Error:
            refused += 1
        else:
            assert content(got) == content(right)
        finally:
            database.close()
    assert refused > 3  # the others hit pages that are free or hold none of these rows


async def test_old_pages_of_the_index_put_back_one_by_one_are_not_always_noticed(tmp_path):
    """The miss that the threat model names (A41): a page is authentic in itself and knows its place, not its age. What
    comes of it is an error, the right rows, or older ones; never made-up ones."""
    rig = Rig(tmp_path, 1)
    async with rig.running() as drive:
        ino = await drive.write(b"file", b"x" * 3000)
        await drive.sync()
    old, old_rows = rig.paths.index.read_bytes(), kept_rows(rig)
    async with rig.running() as drive:
        await drive.write(b"file", b"y" * 3000)
        drive.engine.names.change(ino, Change(mode=0o100600))
        await drive.sync()
    new, new_rows = rig.paths.index.read_bytes(), kept_rows(rig)
    assert old_rows != new_rows
    ever = {row for rows_of in (old_rows, new_rows) for row in rows_of}
    told, missed = 0, 0
    for at in range(0, min(len(old), len(new)), PAGE_BYTES):
        if old[at : at + PAGE_BYTES] != new[at : at + PAGE_BYTES]:
            rig.paths.index.write_bytes(new[:at] + old[at : at + PAGE_BYTES] + new[at + PAGE_BYTES :])
            got = kept_rows(rig)
            told += got is None
            missed += got is not None and got != new_rows
            assert got is None or set(got) <= ever
    print(f"old pages: {told} told, {missed} missed")
    assert missed > 0, "if none is missed any more, the threat model may say so"
    rig.paths.index.write_bytes(old)
    assert kept_rows(rig) == old_rows, "the control: what was put back whole is the old state"


def kept_rows(rig):
    """The rows that users see, of the index as it lies there; None: it is refused."""
    for beside in ("-wal", "-shm"):
        rig.paths.index.with_name(rig.paths.index.name + beside).unlink(missing_ok=True)
    try:
        database = rig.database()
    except MegaFSError:
        return None
    try:
        return [(table, row) for table, found in content(rows(database)).items() for row in found]
    except apsw.Error:
        return None
    finally:
        database.close()


async def test_control_a_head_that_opens_without_authentication_is_taken(tmp_path, monkeypatch):
    """With the seal's check taken away a changed head passes; with it the host is named (A02)."""
    rig, right = await lived_in(tmp_path, hosts=1)
    pure, host = rig.evil.picture(), rig.specs[0].id
    heads = {name for name in pure if kind_of(rig, name) is Kind.HEAD}
    changed = DEEDS["every object changed"](pure)
    rig.evil.deed = lambda name, data: changed(name, data) if name in heads else data
    assert await verdict(rig, right) == "refused"
    real = Keyring.open
    monkeypatch.setattr(Keyring, "open", lambda *given: real(*given[:3], mended(given[3], pure), *given[4:]))
    assert await verdict(rig, right, host) == "right"
    assert not rig.damages


def mended(sealed, pure):
    """What a reader without authentication makes of an object with one changed bit."""
    same = (data for data in pure.values() if data[:40] == sealed[:40] and data[41:] == sealed[41:])
    return next(same, sealed)


async def test_control_a_commit_left_out_would_be_seen_in_the_rows(tmp_path, monkeypatch):
    """With the chain's check taken away a withheld commit leaves rows that nobody wrote, and the verdict says so
    (A13, A14)."""
    rig, right = await lived_in(tmp_path, hosts=1)
    monkeypatch.setattr(recover, "_apply_commit", unchained)
    with pytest.raises(AssertionError, match="rows that nobody wrote"):
        await verdict(rig, right)


def unchained(database, commit, done, note):
    done.step, done.term = commit.step, commit.header.term
