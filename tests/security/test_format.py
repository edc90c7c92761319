"""contrib/docs/FORMAT.md says what the program does: kinds, fields, columns and sizes, compared one by one."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from megafs.crypto import seal, slot
from megafs.crypto.identity import DeviceClaims, EpochClaims, Pinned, Revoked
from megafs.daemon.device import DeviceBody
from megafs.index.schema import COLUMNS as SCHEMA
from megafs.index.schema import REPLICATED
from megafs.model import Kind
from megafs.packs import format as packs
from megafs.packs import shards, sizes
from megafs.sync import statements
from megafs.sync.statements import (
    Acknowledged,
    Boot,
    BootHost,
    CheckpointList,
    Claim,
    CommitHeader,
    CopyFact,
    Head,
    ListedPart,
    PackFact,
    Step,
    Ticket,
)

FORMAT = (Path(__file__).parent.parent.parent / "contrib" / "docs" / "FORMAT.md").read_text()
NAMED = {  # a name of a field stands somewhere in backticks, alone or in a list in braces
    "commit": CommitHeader,
    "head": Head,
    "claim": Claim,
    "checkpoint": CheckpointList,
    "(its parts)": ListedPart,
}
IN_BRACES = (Step, PackFact, CopyFact, BootHost, Revoked, Pinned, DeviceBody)
LISTED = re.compile(r"`([^`]+)`")


def row_of(text: str, name: str) -> str:
    """The row of a table that begins with this name."""
    return re.search(rf"^\| `?{re.escape(name)}`? \|(.*)\|$", text, re.M)[1]


def words(text: str) -> set[str]:
    """What stands in backticks, words only."""
    return set(re.findall(r"\w+", " ".join(LISTED.findall(text))))


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


@pytest.mark.parametrize("name", NAMED)
def test_fields_of_statements(name):
    told = words(row_of(FORMAT.split("## 3.")[1], name))
    assert told - {"host", "seq"} == names(NAMED[name]) - {"host", "seq"} or told == names(NAMED[name])
    assert names(Acknowledged) == {"host", "seq"}


def test_fields_in_braces():
    lists = [set(re.findall(r"\w+", inner)) for inner in re.findall(r"\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", FORMAT)]
    for kind in IN_BRACES:
        assert any(names(kind) <= each for each in lists), kind


def test_fields_of_boot_objects_and_tickets():
    told = FORMAT.split("## 2.")[1].split("## 3.")[0]
    rows = words("".join(re.findall(r"^\| (`[^|]*`) \|", told.split("**Certificates**")[0], re.M)))
    assert rows == names(Boot)
    assert {*re.findall(r"\w+", re.search(r"Body: JSON `\{([^}]*)\}`", told)[1])} == names(Ticket)
    for purpose, kind in (("epoch", EpochClaims), ("device", DeviceClaims)):
        claims = re.sub(r"\{[^}]*\}|\([^)]*\)", "", row_of(told.split("**Certificates**")[1], purpose).split("|")[-1])
        assert words(claims.replace("…", "")) == names(kind)


def test_kinds():
    told = FORMAT.split("**Context**")[1].split("**Keys**")[0]
    listed = words("".join(re.findall(r"^\| (`[^|]*`) \|", told, re.M)))
    assert listed | {"pack"} == {str(kind) for kind in Kind}, "a pack is not sealed as a whole: it has a name only"


@pytest.mark.parametrize("table", REPLICATED)
def test_columns(table):
    told = re.sub(r"\([^)]*\)|:.*", "", row_of(FORMAT.split("## 4.")[1].split("## 5.")[0], table))
    assert [each.strip() for each in told.split(",")] == list(SCHEMA[table])


def test_sizes():
    for size, text in (
        (statements.FRAME.size, "| 68 | n |"),
        (seal.HEADER_BYTES, "| 56 | n + 16"),
        (seal.SEGMENT_BYTES, "segments of 16384 plain bytes"),
        (seal.DERIVED_BYTES, "the 76 bytes of HKDF-Expand"),
        (packs.ENTRY.size, "directory entry, 61 bytes"),
        (packs.FOOTER.size, "footer, 22 bytes"),
        (packs.FOOTER_SEALED_BYTES, "size - 94"),
        (shards.HEADER_BYTES, "80 bytes of liberasurecode's header"),
        (slot.SLOT.size, "| 9 | 162 "),
        (slot.OPEN_BYTES, "| 58 | 104 |"),
        (slot.FORMER.size, "these 33 bytes"),
    ):
        assert text in FORMAT
        assert str(size) in text
    assert f"{re.search(r'c2sp[^ ]*_GCM', FORMAT)[0]}\0".encode() == seal.ALGORITHM
    assert (sizes.OBJECT_LEAST[False], sizes.OBJECT_LEAST[True]) == (4 << 10, 64 << 10)
    assert (sizes.PACK_LEAST[False], sizes.PACK_LEAST[True]) == (4 << 10, 1 << 20)


@pytest.mark.parametrize("size", [4097, 5000, 65_537, 1_000_000, 16_000_001])
def test_padme_as_the_document_has_it(size):
    place = size.bit_length() - 1
    kept = place.bit_length()
    low = (1 << place - kept) - 1
    assert sizes.padme(size) == (size + low) // (low + 1) * (low + 1)


def test_control_a_wrong_document_is_noticed():
    assert words(row_of("| claim | `term`, `number` |", "claim")) != names(Claim)
    assert row_of("| copy | id, pack |", "copy").strip() != ", ".join(SCHEMA["copy"])
