"""Every parser of bytes from a host, the disk, the socket, a link or another program, and bytes that each takes.

Authenticated inputs too: a seal says who wrote something, not that it is harmless.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import apsw

from megafs import canonical, config
from megafs.cli import mounts
from megafs.control import messages
from megafs.crypto.identity import RootKey, issue_epoch
from megafs.crypto.keys import Keyring, ident_epoch
from megafs.crypto.opened import Opened
from megafs.crypto.partial import cover, open_range
from megafs.crypto.passphrase import Cost, Limits
from megafs.crypto.phrase import Phrase
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import seal
from megafs.crypto.slot import SlotKey, new_file, open_slots
from megafs.crypto.ticket import TicketCode
from megafs.daemon import secrets
from megafs.daemon.create import first_device
from megafs.daemon.device import Device, DeviceNote
from megafs.errors import Corrupt
from megafs.files import acl
from megafs.hosts import s3, webdav
from megafs.hosts.http import parsed_xml, whole_number
from megafs.hosts.url import checked_url, display_url
from megafs.index import replication, schema
from megafs.model import ChunkId, ChunkPlace, HostId, HostSpec, Kind, PackNumber
from megafs.packs import format as packs
from megafs.packs import shards
from megafs.packs.codec import Codec
from megafs.sync import boot, epochs, recover, statements, tickets
from megafs.sync.statements import NOTHING, BootHost, CheckpointList, Claim, CommitHeader, Head, ListedPart, Signer
from tests.crypto.test_slot import former_slot

LONG_S = 3.0  # longer than any parser may take
CHEAP = Limits(memory_floor_kib=8, iterations_floor=1)
LEAST = Cost(memory_kib=8, iterations=1, lanes=1)
UNTAKEN = ("boot object", "slot")  # their valid bytes are not valid by themselves


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
    claim = Claim(term=2, number=1, base=NOTHING, made_s=1, certificate=signer.certificate)
    listed = CheckpointList(
        schema=1, step=step, term=1, made_s=1, packs=(), certificate=signer.certificate,
        parts=tuple(
            ListedPart(
                id=bytes(16), table=table, low=b"", high=replication.KEY_STOP, digest=bytes(32), bytes=9, rows=1,
                changeset_bytes=9,
            )
            for table in schema.REPLICATED
        ),
    )  # fmt: skip
    split = shards.encode(PACKED, 2, 2)
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
        "head body of its own device": Parser(
            parse=lambda data: statements.unframed(Head, resigned(signer, data, statements.Purpose.HEAD), trust),
            valid=(canonical.encode(head),),
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
        "slot body": Parser(parse=lambda data: Device.of(Opened(body=data)), valid=(device.body(),)),
        "slot": Parser(
            parse=lambda data: open_slots("right", data, limits=CHEAP, derive=lambda phrase, cost, salt: bytes(32)),
            valid=(new_file(b"body", {"a": "right", "b": SlotKey(bytes(32))}, cost=LEAST, limits=CHEAP), former_slot()),
        ),
        "claim body": Parser(
            parse=lambda data: statements.unframed(Claim, data, trust), valid=(statements.framed(signer, claim),)
        ),
        "checkpoint list": Parser(
            parse=lambda data: recover.check_tiles(statements.unframed(CheckpointList, data, trust)[0].parts),
            valid=(statements.framed(signer, listed),),
        ),
        "checkpoint list of its own device": Parser(
            parse=lambda data: recover.check_tiles(
                statements.unframed(CheckpointList, resigned(signer, data, statements.Purpose.CHECKPOINT), trust)[
                    0
                ].parts
            ),
            valid=(canonical.encode(listed),),
        ),
        "range of a chunk": Parser(
            parse=lambda data: open_range(
                bytes(32), b"c", total_bytes=40_000, start=17_000, stop=20_000, header=data[:56], part=data[56:]
            ),
            valid=(sealed_range(),),
        ),
        "shard": Parser(parse=lambda data: shards.decode({0: data, 1: split[1]}, 2, 2, len(PACKED)), valid=(split[0],)),
        "ACL": Parser(
            parse=lambda data: acl.mode_of(acl.parse(data), 0o644),
            valid=(acl.encode([acl.Entry(1, 6, acl.NO_ID), acl.Entry(4, 4, acl.NO_ID), acl.Entry(32, 4, acl.NO_ID)]),),
        ),
        "S3 listing": Parser(parse=lambda data: s3.page_of(parsed_xml(data, "s3"), "p/", "s3"), valid=(S3_LISTING,)),
        "WebDAV listing": Parser(parse=lambda data: webdav.listing_of(parsed_xml(data, "dav")), valid=(DAV_LISTING,)),
        "size that a server tells": Parser(
            parse=lambda data: whole_number(data.decode("latin-1")), valid=(b"16777216", b"9" * 5000)
        ),
        "checkpoint phrase": Parser(
            parse=lambda data: Phrase.from_text(data.decode("utf-8", "replace")),
            valid=(Phrase.of(keyring.vault, 1, 7, bytes(32)).text().encode(),),
        ),
        "secrets of hosts": Parser(
            parse=lambda data: secrets.opened(keyring, keyring.seal(Kind.SECRETS, [], data)),
            valid=(b'{"s3://K@h/b": {"secret_key": "x"}}',),
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
            valid=(b"cache_bytes = 100000000\ncompression = false\ncommit_s = 2.5\n",),
        ),
    }


PACKED = bytes(range(256)) * 64
S3_LISTING = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>true'
    b"</IsTruncated><NextContinuationToken>abc</NextContinuationToken><Contents><Key>p/" + b"a" * 32 + b"</Key><Size>7"
    b"</Size></Contents></ListBucketResult>"
)
DAV_LISTING = (
    b'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>http://[::1]/a/' + b"a" * 32 + b"</D:href>"
    b"<D:propstat><D:prop><D:getcontentlength>7</D:getcontentlength></D:prop><D:status>HTTP/1.1 200 OK</D:status>"
    b"</D:propstat></D:response></D:multistatus>"
)


def sealed_range() -> bytes:
    """Header and the segments that hold a range, as a host gives them."""
    sealed = seal(bytes(32), b"c", bytes(40_000))
    low, high = cover(40_000, 17_000, 20_000)
    return sealed[:56] + sealed[low:high]


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


def resigned(signer: Signer, data: bytes, purpose: statements.Purpose = statements.Purpose.COMMIT) -> bytes:
    """A body whose signature holds."""
    statement, _, rest = data.partition(b"\n")
    signature = signer.key.sign(purpose, signer.vault, statement)
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
