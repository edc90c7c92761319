"""Every parser of bytes from outside, fed with bytes made from valid ones: the right value, or one error of ours, soon.

Authenticated inputs too: a seal says who wrote something, not that it is harmless. A few examples each run by default;
``-m fuzz --rounds N`` runs N thousand of each. Counts are printed with ``-s``.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megafs import canonical, config
from megafs.cli import mounts
from megafs.control import messages
from megafs.crypto.identity import DeviceKey, RootKey, issue_device, issue_epoch
from megafs.crypto.keys import Keyring, ident_epoch
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.slot import SlotLimits, make_slot, open_slot
from megafs.crypto.ticket import TicketCode
from megafs.daemon.create import first_device
from megafs.daemon.device import Device, DeviceNote
from megafs.errors import Corrupt, MegaFSError
from megafs.hosts.url import checked_url, display_url
from megafs.index import replication, schema
from megafs.model import ChunkId, ChunkPlace, HostId, HostSpec, Kind, PackNumber
from megafs.packs import format as packs
from megafs.packs.codec import Codec
from megafs.sync import boot, epochs, statements, tickets
from megafs.sync.statements import NOTHING, BootHost, CommitHeader, Head, Signer, Trust
from tests.security.canary import canary

QUICK, LONG_S = 60, 3.0
CHEAP = SlotLimits(memory_floor_kib=8, iterations_floor=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """``parse`` gets bytes; ``valid`` are some that it takes."""

    parse: Callable[[bytes], object]
    valid: tuple[bytes, ...]


@cache
def parsers() -> dict[str, Parser]:
    """All of them, with one vault's real bytes."""
    root = RootKey.generate()
    keyring = Keyring.create(root.public)
    device = first_device(keyring, root)
    signer, trust = device.signer, device.trust
    changeset, connection = sample_changeset()
    rest = statements.packed(changeset)
    digest = statements.sha256(rest).digest()
    header = CommitHeader(
        schema=1, device=1, seq=1, previous=NOTHING, term=1, first=1, last=2, made_s=3, changes=2,
        changeset_bytes=len(changeset), digest=digest, packs=(), certificate=signer.certificate,
    )  # fmt: skip
    step = statements.Step(device=1, seq=1, hash=bytes(32))
    head = Head(step=step, term=1, made_s=1, checkpoint=NOTHING, seen=(), certificate=signer.certificate)
    recovery, code, rotated = RecoveryKey.generate(), TicketCode.generate(), keyring.rotated()
    place = ChunkPlace(ChunkId(bytes(16)), PackNumber(1), 0, packs.sealed_bytes(500), 500, 0, bytes(32))
    where = packs.layout(place.sealed_bytes, 1, full=False)
    return {
        "statement": Parser(parse=lambda data: canonical.parse(CommitHeader, data), valid=(canonical.encode(header),)),
        "commit body": Parser(
            parse=lambda data: statements.parse_commit(data, trust),
            valid=(statements.commit_body(signer, header, rest),),
        ),
        "commit body of its own device": Parser(  # signed whatever it says: the author is hostile
            parse=lambda data: statements.parse_commit(resigned(signer, data), trust),
            valid=(canonical.encode(header) + b"\n" + rest,),
        ),
        "head body": Parser(
            parse=lambda data: statements.unframed(Head, data, trust), valid=(statements.framed(signer, head),)
        ),
        "unpacked": Parser(parse=lambda data: statements.unpacked(data, len(changeset)), valid=(rest,)),
        "changeset": Parser(parse=lambda data: applied(connection, data), valid=(changeset,)),
        "chunk codec": Parser(
            parse=lambda data: Codec().decompress(1, data, 5000), valid=(bytes(Codec().compress(b"x" * 5000)[1]),)
        ),
        "directory": Parser(
            parse=lambda data: packs.parse_directory(data, where, PackNumber(1)),
            valid=(packs.encode_directory([place]),),
        ),
        "footer": Parser(
            parse=lambda data: packs.parse_footer(data, where.stored_bytes), valid=(packs.encode_footer(where),)
        ),
        "ticket": Parser(
            parse=lambda data: tickets.opened(code, code.seal(data)), valid=(ticket_body(keyring, root, device),)
        ),
        "ticket words": Parser(
            parse=lambda data: TicketCode.from_text(data.decode("utf-8", "replace")),
            valid=(" ".join(code.words()).encode(),),
        ),
        "announced epoch": Parser(  # sealed by somebody who was enrolled once
            parse=lambda data: epochs.understood(
                rotated, trust, 2, rotated.seal(Kind.EPOCH, [ident_epoch(2)], data, epoch=1)
            ),
            valid=(canonical.encode(issue_epoch(root, rotated)),),
        ),
        "device note": Parser(
            parse=lambda data: canonical.parse(DeviceNote, data),
            valid=(canonical.encode(DeviceNote(label="a machine", enrolled_s=1)),),
        ),
        "boot object": Parser(parse=lambda data: boot.opened(recovery, data), valid=(b"",)),
        "boot body": Parser(
            parse=lambda data: boot.opened(recovery, recovery.seal_boot(data)),
            valid=(boot_body(keyring, root, device),),
        ),
        "slot body": Parser(parse=Device.of, valid=(device.body(),)),
        "slot": Parser(
            parse=lambda data: open_slot("right", data, limits=CHEAP, derive=lambda phrase, header: bytes(32)),
            valid=(make_slot("right", b"body", memory_kib=8, iterations=1, lanes=1, limits=CHEAP),),
        ),
        "recovery text": Parser(
            parse=lambda data: RecoveryKey.from_text(data.decode("utf-8", "replace")),
            valid=(" ".join(recovery.words()).encode(),),
        ),
        "control line": Parser(
            parse=messages.message,
            valid=tuple(
                messages.line(each)[:-1] for each in (messages.Request(call="status"), messages.failure(Corrupt("why")))
            ),
        ),
        "host URL": Parser(parse=lambda data: urls(data.decode("utf-8", "replace")), valid=URLS),
        "mount table": Parser(
            parse=lambda data: mounts.parsed(data.decode("utf-8", "surrogateescape")), valid=(MOUNTINFO,)
        ),
        "settings": Parser(
            parse=lambda data: config.settings_from(data.decode("utf-8", "replace")),
            valid=(b"cache_bytes = 5\ncompression = false\ncommit_s = 2.5\n",),
        ),
    }


URLS = (
    b"file:///srv/a%20folder",
    b"s3://KEY@s3.example.org/bucket/prefix",
    b"sftp://user@host:2222/folder",
    b"webdavs://user@host/dav/folder",
)
MOUNTINFO = (
    b"36 35 98:0 / /mnt/a\\040b rw,nosuid,nodev,relatime shared:1 - fuse.megafs /home/u/.local/share/megafs/v"
    b" rw,user_id=1000,group_id=1000,default_permissions\n"
)


def urls(text: str) -> object:
    display_url(text)
    return checked_url(text)


def boot_body(keyring: Keyring, root: RootKey, device: Device) -> bytes:
    host = HostSpec(id=HostId(bytes(16)), url="file:///a", label="a")
    body = statements.Boot(
        generation=1, host=host.id, hosts=(BootHost(id=host.id, url=host.url, label=host.label),),
        keyring=keyring.to_fields(), root_seed=root.seed, root_public=root.public, epochs=device.epochs,
    )  # fmt: skip
    return canonical.encode(body)


def ticket_body(keyring: Keyring, root: RootKey, device: Device) -> bytes:
    host = HostSpec(id=HostId(bytes(16)), url="file:///a", label="a")
    body = statements.Ticket(
        expires_s=1, host=host.id, hosts=(BootHost(id=host.id, url=host.url, label=host.label),),
        keyring=keyring.to_fields(), root_public=root.public, epochs=device.epochs,
    )  # fmt: skip
    return canonical.encode(body)


def resigned(signer: Signer, data: bytes) -> bytes:
    """A body whose signature holds."""
    statement, _, rest = data.partition(b"\n")
    signature = signer.key.sign(statements.Purpose.COMMIT, signer.vault, statement)
    return statements.FRAME.pack(len(statement), signature) + statement + rest


def sample_changeset() -> tuple[bytes, apsw.Connection]:
    """A real one, and an empty index to apply it to."""
    made, empty = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    for connection in (made, empty):
        for statement in schema.statements():
            connection.execute(statement)
    session = apsw.Session(made, "main")
    session.attach()
    made.execute("INSERT INTO dirent VALUES (7, 1, x'6162', 9)")
    made.execute("INSERT INTO setting VALUES ('copies', x'32')")
    return session.changeset(), empty


def applied(connection: apsw.Connection, data: bytes) -> None:
    """As recovery does, then undone; a changeset must not reach tables that are this device's own."""
    with_local = connection.execute("SELECT count(*) FROM outbox").get
    try:
        replication.apply(connection, data, replication.count(connection, data))
    finally:
        for table in schema.REPLICATED:
            connection.execute(f"DELETE FROM {table}")
    assert connection.execute("SELECT count(*) FROM outbox").get == with_local


@st.composite
def spoiled(draw: st.DrawFn, valid: tuple[bytes, ...]) -> bytes:
    """Bytes that are nearly valid, or nothing of the kind."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from((1, 1, 2, 4, 8, 32)))
        match draw(st.sampled_from(["flip", "cut", "insert", "repeat", "replace", "number", "end"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + size]
            case "insert":
                data[at:at] = draw(st.binary(max_size=size))
            case "repeat":
                data[at:at] = data[at : at + size] * draw(st.integers(1, 50))
            case "replace":
                data[at : at + size] = draw(st.binary(min_size=size, max_size=size))
            case "number":
                text = draw(
                    st.sampled_from((b"-1", b"1e9", b"9" * 30, b"9" * 5000, b"0x10", b"null", b"[" * 3000, b"\\u0000"))
                )
                data[at : at + size] = text
            case "end":
                del data[at:]
    return bytes(data)


def explore(parser: Parser, examples: int, long_s: float = LONG_S) -> tuple[int, int]:
    """(inputs, how many were taken). Anything but MegaFSError, and more than a moment, is a failure."""
    tried = taken = 0

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(spoiled(parser.valid))
    def run(data: bytes) -> None:
        nonlocal tried, taken
        tried, sentence = tried + 1, ""
        began = time.monotonic()
        try:
            parser.parse(data)
            taken += 1
        except MegaFSError as error:
            sentence = str(error)
        assert "\n" not in sentence, "a message is one line"
        assert time.monotonic() - began < long_s

    run()
    return tried, taken


NAMES = (
    "statement", "commit body", "commit body of its own device", "head body", "unpacked", "changeset", "chunk codec",
    "directory", "footer", "ticket", "ticket words", "announced epoch", "device note",
    "boot object", "boot body", "slot body", "slot", "recovery text", "control line", "host URL",
    "mount table", "settings",
)  # fmt: skip


def test_every_parser_is_named():
    assert set(NAMES) == set(parsers())


@pytest.mark.parametrize("name", NAMES)
def test_quickly(name):
    parser = parsers()[name]
    explore(parser, QUICK)
    if name not in ("boot object", "slot"):
        for data in parser.valid:
            parser.parse(data)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", NAMES)
def test_at_length(name, request):
    tried, taken = explore(parsers()[name], 1000 * (request.config.getoption("--rounds") or 5))
    print(f"{name}: {tried} inputs, {taken} taken")


@pytest.mark.parametrize(
    "parse",
    [
        lambda data: data.decode("ascii"),  # another exception
        lambda data: time.sleep(0.06) if len(data) > 3 else None,  # too slow
        lambda data: (_ for _ in ()).throw(Corrupt("a\nb")),  # more than a sentence
    ],
    ids=["raises", "hangs", "chatters"],
)
def test_control_a_bad_parser_is_found(parse):
    with pytest.raises((AssertionError, UnicodeDecodeError)):
        explore(Parser(parse=parse, valid=(os.urandom(50), canary().encode())), 5, long_s=0.05)


def test_control_keys_signed_by_nobody_do_not_count():
    """The rig's hostile author is a real device; without its key nothing that it says is taken."""
    parser = parsers()["commit body of its own device"]
    (valid,) = parser.valid
    root = RootKey.generate()
    keyring = Keyring.create(root.public)
    key = DeviceKey.generate()
    stranger = Signer(
        vault=keyring.vault,
        key=key,
        certificate=issue_device(keyring, device=bytes(16), number=1, public_key=key.public, first_seq=1),
    )
    theirs = Trust.of(keyring.vault, root.public, (issue_epoch(root, keyring),))
    with pytest.raises(MegaFSError):
        statements.parse_commit(resigned(stranger, valid), theirs)
