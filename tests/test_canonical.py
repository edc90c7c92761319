"""One spelling for each statement; everything else is Corrupt."""

from dataclasses import dataclass
from typing import Annotated, NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.canonical import LATER, Between, Size, encode, parse
from megafs.errors import Corrupt

Mark = NewType("Mark", bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    number: Annotated[int, Between(1, 9)]
    mark: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    id: Annotated[bytes, Size(4)]
    text: str
    final: bool
    count: int
    entries: tuple[Entry, ...]
    names: tuple[Annotated[str, Size(1, 3)], ...] = ()


NOTE = Note(
    id=b"\0\1\xfe\xff", text='é"\\\n', final=True, count=7, entries=(Entry(number=3, mark=Mark(b"m")),), names=("ab",)
)
SPELLED = (
    b'{"count":7,"entries":[{"mark":"6d","number":3}],"final":true,"id":"0001feff","names":["ab"],'
    b'"text":"\\u00e9\\"\\\\\\n"}'
)

entries = st.builds(Entry, number=st.integers(1, 9), mark=st.binary(max_size=20))
notes = st.builds(
    Note,
    id=st.binary(min_size=4, max_size=4),
    text=st.text(max_size=30),
    final=st.booleans(),
    count=st.integers(0, 2**63 - 1),
    entries=st.lists(entries, max_size=3).map(tuple),
    names=st.lists(st.text(min_size=1, max_size=3), max_size=3).map(tuple),
)


def test_the_spelling_is_frozen():
    assert encode(NOTE) == SPELLED
    assert parse(Note, SPELLED) == NOTE
    assert parse(Note, memoryview(bytearray(SPELLED))) == NOTE


@given(notes)
def test_round_trip(note):
    assert parse(Note, encode(note)) == note


@given(notes, notes)
def test_different_statements_have_different_spellings(left, right):
    assert (encode(left) == encode(right)) is (left == right)


@given(notes, st.data())
def test_one_changed_byte_is_another_statement_or_corrupt(note, data):
    spelled = bytearray(encode(note))
    place = data.draw(st.integers(0, len(spelled) - 1))
    spelled[place] ^= data.draw(st.integers(1, 255))
    try:
        other = parse(Note, spelled)
    except Corrupt:
        return
    assert other != note
    assert encode(other) == spelled


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_raise_anything_but_corrupt(data):
    with pytest.raises(Corrupt):
        parse(Note, data)


@pytest.mark.parametrize("size", range(len(SPELLED)))
def test_truncated(size):
    with pytest.raises(Corrupt):
        parse(Note, SPELLED[:size])


REFUSED = {
    "space": SPELLED.replace(b":7", b": 7"),
    "newline at the end": SPELLED + b"\n",
    "second value": SPELLED + b"{}",
    "byte order mark": b"\xef\xbb\xbf" + SPELLED,
    "utf-16": SPELLED.decode().encode("utf-16"),
    "raw utf-8": SPELLED.replace(b"\\u00e9", "é".encode()),
    "capital hex in JSON": SPELLED.replace(b"\\u00e9", b"\\u00E9"),
    "needless escape": SPELLED.replace(b'"6d"', b'"\\u0036d"'),
    "capital hex": SPELLED.replace(b"feff", b"FEFF"),
    "hex with space": SPELLED.replace(b"0001feff", b"00 01feff"),
    "odd hex": SPELLED.replace(b"6d", b"6d0"),
    "bytes too long": SPELLED.replace(b"0001feff", b"0001feff00"),
    "bytes too short": SPELLED.replace(b"0001feff", b"0001fe"),
    "key order": SPELLED.replace(b'"mark":"6d","number":3', b'"number":3,"mark":"6d"'),
    "duplicate key": SPELLED.replace(b'"count":7', b'"count":7,"count":7'),
    "missing key": SPELLED.replace(b'"count":7,', b""),
    "unknown key": SPELLED.replace(b'"count":7', b'"couns":1,"count":7'),
    "unknown key inside": SPELLED.replace(b'"number":3', b'"number":3,"z":0'),
    "float": SPELLED.replace(b":7", b":7.0"),
    "exponent": SPELLED.replace(b":7", b":7e0"),
    "nan": SPELLED.replace(b":7", b":NaN"),
    "infinity": SPELLED.replace(b":7", b":-Infinity"),
    "minus zero": SPELLED.replace(b":7", b":-0"),
    "negative": SPELLED.replace(b":7", b":-7"),
    "leading zero": SPELLED.replace(b":7", b":07"),
    "beyond 63 bits": SPELLED.replace(b":7", b":9223372036854775808"),
    "beyond its bounds": SPELLED.replace(b'"number":3', b'"number":10'),
    "number of 10,000 digits": SPELLED.replace(b":7", b":" + b"7" * 10_000),
    "boolean for a number": SPELLED.replace(b":7", b":true"),
    "number for a boolean": SPELLED.replace(b"true", b"1"),
    "null": SPELLED.replace(b"true", b"null"),
    "text for a list": SPELLED.replace(b'["ab"]', b'"ab"'),
    "list for a table": SPELLED.replace(b'{"mark":"6d","number":3}', b"[]"),
    "text too long": SPELLED.replace(b'["ab"]', b'["abcd"]'),
    "text too short": SPELLED.replace(b'["ab"]', b'[""]'),
    "lone surrogate": SPELLED.replace(b"\\u00e9", b"\\ud800"),
    "a list": b"[]",
    "nothing": b"",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep tables": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused(data):
    assert data != SPELLED, "the case did not change anything"
    with pytest.raises(Corrupt):
        parse(Note, data)


def test_length_is_bounded_before_parsing():
    assert parse(Note, SPELLED, limit_bytes=len(SPELLED)) == NOTE
    with pytest.raises(Corrupt, match=f"{len(SPELLED)} bytes, at most {len(SPELLED) - 1}"):
        parse(Note, SPELLED, limit_bytes=len(SPELLED) - 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": b"long one"},
        {"count": -1},
        {"count": True},
        {"final": 1},
        {"text": "\udc80"},
        {"entries": [Entry(number=1, mark=Mark(b""))]},
        {"entries": (Entry(number=0, mark=Mark(b"")),)},
        {"entries": (NOTE,)},
    ],
)
def test_what_parse_would_refuse_is_not_written(wrong):
    values = {name: getattr(NOTE, name) for name in Note.__slots__}
    with pytest.raises(Corrupt):
        encode(Note(**values | wrong))


def test_messages_do_not_quote_the_bytes():
    with pytest.raises(Corrupt) as caught:
        parse(Note, SPELLED.replace(b"0001feff", b"00secret"))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    count: int
    added: Annotated[tuple[Entry, ...], LATER] = ()


def test_a_field_that_came_later_is_absent_or_says_something():
    entry = (Entry(number=3, mark=Mark(b"m")),)
    assert encode(Grown(count=1)) == b'{"count":1}'
    assert parse(Grown, b'{"count":1}') == Grown(count=1)
    assert parse(Grown, encode(Grown(count=1, added=entry))) == Grown(count=1, added=entry)
    for wrong in (b'{"added":[],"count":1}', b'{"added":[{}],"count":1}', b'{"added":null,"count":1}', b'{"added":[]}'):
        with pytest.raises(Corrupt):
            parse(Grown, wrong)
