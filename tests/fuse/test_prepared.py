"""Statements are prepared once."""

from collections.abc import Callable

import apsw
import pytest

from megafs.model import ROOT_INO, Ino
from tests.fuse.rig import Mount

STATEMENTS_KEPT = 200  # index.database: connect


def prepared(mount: Mount, once: Callable[[Mount, Ino], object], *, crowd: int = 0) -> int:
    """How often SQLite asks what a statement may do, which it does while it prepares one. ``crowd``: so many others
    come between, which do not count."""
    asked = 0

    def note(*_: object) -> int:
        nonlocal asked
        asked += 1
        return apsw.SQLITE_OK

    mount.database.connection.authorizer = note
    once(mount, Ino(2))  # prepares everything, at the latest because there is an authorizer now
    assert asked
    all_asked = 0
    for ino in range(3, 50):
        for number in range(crowd):
            mount.database.connection.execute(f"SELECT {ino * crowd + number}").fetchall()
        asked = 0
        once(mount, Ino(ino))
        all_asked += asked
    mount.database.connection.authorizer = None
    return all_asked


def extents_once(mount: Mount, ino: Ino) -> None:
    extents = mount.extents
    extents.covering(ino, 0, 4096)
    extents.clear(ino, 0, 4096)
    extents.truncate(ino, 0)


ONCE: dict[str, Callable[[Mount, Ino], object]] = {
    "extents": extents_once,
    "page": lambda mount, ino: mount.inodes.page(ino, 0),
    "lookup": lambda mount, ino: mount.inodes.lookup(ino, b"%d" % ino),
    "insert": lambda mount, ino: mount.inodes.link(
        ROOT_INO, b"%d" % ino, mount.inodes.insert(0o100644, 0, 0, 0, 0, Ino(0), None).ino
    ),
}


@pytest.mark.parametrize("name", ONCE)
def test_no_statement_is_prepared_anew_for_its_parameters(mount, name):
    """SQLite would, for ranges and limits (it is built with STAT4), at 5 to 10 µs for each execution."""
    assert not prepared(mount, ONCE[name])


@pytest.mark.parametrize("name", ["extents", "page"])
def test_without_the_setting_they_would_be(mount, name):
    """The control of the test above."""
    mount.database.connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 0)
    assert prepared(mount, ONCE[name])


@pytest.mark.parametrize("name", ONCE)
def test_with_too_many_statements_they_would_be(mount, name):
    """The other control: those that are kept prepared are pushed out by others."""
    assert prepared(mount, ONCE[name], crowd=STATEMENTS_KEPT)
