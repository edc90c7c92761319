"""ACLs as acl(5) has them: parsed strictly, made from modes, inherited, changed by chmod."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.errors import Corrupt
from megafs.files import acl
from megafs.files.acl import GROUP, GROUP_OBJ, MASK, NO_ID, OTHER, USER, USER_OBJ, Entry

PERMISSIONS = st.integers(0, 7)


@st.composite
def lists(draw):
    """Any valid list, in the kernel's order."""
    users = draw(st.lists(st.integers(0, 5), unique=True, max_size=3))
    groups = draw(st.lists(st.integers(0, 5), unique=True, max_size=3))
    entries = [Entry(USER_OBJ, draw(PERMISSIONS), NO_ID)]
    entries += [Entry(USER, draw(PERMISSIONS), number) for number in sorted(users)]
    entries.append(Entry(GROUP_OBJ, draw(PERMISSIONS), NO_ID))
    entries += [Entry(GROUP, draw(PERMISSIONS), number) for number in sorted(groups)]
    if users or groups or draw(st.booleans()):
        entries.append(Entry(MASK, draw(PERMISSIONS), NO_ID))
    return [*entries, Entry(OTHER, draw(PERMISSIONS), NO_ID)]


MINIMAL = [Entry(USER_OBJ, 6, NO_ID), Entry(GROUP_OBJ, 4, NO_ID), Entry(OTHER, 0, NO_ID)]


@given(entries=lists())
def test_what_was_encoded_is_parsed(entries):
    assert acl.parse(acl.encode(entries)) == entries


def test_the_layout_is_that_of_the_kernel():
    assert acl.encode(MINIMAL).hex() == "0200000001000600ffffffff04000400ffffffff20000000ffffffff"


@pytest.mark.parametrize(
    "entries",
    [
        MINIMAL[:2],
        [*MINIMAL, MINIMAL[2]],
        [MINIMAL[0], Entry(USER, 7, 5), *MINIMAL[1:]],
        [MINIMAL[1], MINIMAL[0], MINIMAL[2]],
        [MINIMAL[0]._replace(permissions=8), *MINIMAL[1:]],
    ],
    ids=["nothing for others", "others twice", "a user without a mask", "out of order", "unknown permissions"],
)
def test_a_list_that_cannot_be_is_refused(entries):
    with pytest.raises(Corrupt):
        acl.parse(acl.encode(entries))


@pytest.mark.parametrize("value", [b"", b"\2\0\0", b"\1" + acl.encode(MINIMAL)[1:], acl.encode(MINIMAL) + b"x"])
def test_bytes_that_are_no_list_are_refused(value):
    with pytest.raises(Corrupt):
        acl.parse(value)


@given(entries=lists(), mode=st.integers(0, 0o7777))
def test_chmod_and_the_mode_say_the_same(entries, mode):
    """The mask, where there is one, is what the mode shows for the group; special bits are none of the list's."""
    changed = acl.chmod(entries, mode)
    assert acl.mode_of(changed, 0o100000 | mode) == 0o100000 | mode
    assert [entry.tag for entry in changed] == [entry.tag for entry in entries]
    named = [entry for entry in entries if entry.tag in (USER, GROUP)]
    assert [entry for entry in changed if entry.tag in (USER, GROUP)] == named
    if any(entry.tag == MASK for entry in entries):
        group = [entry for entry in entries if entry.tag == GROUP_OBJ]
        assert [entry for entry in changed if entry.tag == GROUP_OBJ] == group


@given(default=lists(), mode=st.integers(0, 0o7777))
def test_what_is_inherited_never_allows_more_than_was_asked_for_or_than_the_default(default, mode):
    access, new_mode = acl.inherit(default, 0o100000 | mode)
    assert new_mode & ~0o777 == 0o100000 | mode & 0o7000
    assert new_mode & 0o777 & ~mode == 0
    assert new_mode & 0o777 & ~(acl.mode_of(default, 0) & 0o777) == 0
    assert acl.mode_of(access, new_mode) == new_mode
    assert acl.parse(acl.encode(access)) == access
