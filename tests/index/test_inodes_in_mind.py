"""The rows that Inodes keeps in mind are the rows of the index, whoever changed them."""

import random
from collections.abc import Callable

import pytest

from megafs.index.database import Database
from megafs.index.inodes import ATTRIBUTES, REMEMBERED, Inodes
from megafs.model import ROOT_INO, Attributes, Ino

STEPS = 1_500


class Forgetless(Inodes):
    """The control: never notices what others change."""

    def _known(self) -> dict[Ino, Attributes]:
        return self._rows


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "index.db", bytes(32), create=True)
    database.connection.execute("INSERT INTO device VALUES (1, ?, ?, x'', 0)", (bytes(16), bytes(32)))
    database.adopt(1)
    yield database
    database.close()


def change(database: Database, inodes: Inodes, chance: random.Random, ino: Ino, other: Ino, step: int) -> None:
    """One change of any kind, ours or somebody else's."""
    row = inodes.get(ino)
    actions: list[Callable[[], object]] = [
        lambda: inodes.insert(0o100644, 1, 2, 0, step, Ino(0), None),
        lambda: inodes.link(ROOT_INO, b"%d" % step, ino),
        lambda: inodes.touch(ino, step // 4),
        lambda: inodes.touch_and_link(ino, step, 1),
        lambda: inodes.set_links(ino, step % 5, step),
        lambda: inodes.set_atime(ino, step),
        lambda: inodes.set_size(ino, step),
        lambda: inodes.grow(ino, step, 7),
        lambda: row and inodes.update(row._replace(mode=0o100600 | step % 8, size=1, stored=2)),
        lambda: ino != ROOT_INO and inodes.delete(ino),
        lambda: inodes.set_xattr(ino, b"user.a", b"%d" % step),
        lambda: database.connection.execute("UPDATE inode SET uid = uid + 1 WHERE id = ?", (other,)),
        lambda: database.commit(0),
    ]
    chance.choice(actions)()


def wrong_rows(database: Database, kind: type[Inodes], seed: int) -> int:
    """How often ``get`` differs from the row, over many changes of every kind."""
    chance, inodes, execute = random.Random(seed), kind(database), database.connection.execute
    inodes.insert_root(0o40755, 0, 0, 1)
    wrong = 0
    for step in range(STEPS):
        known = [ROOT_INO, *(Ino(int(row[0])) for row in execute("SELECT id FROM inode ORDER BY id DESC LIMIT 100"))]
        ino, other = chance.choice(known), chance.choice(known)
        change(database, inodes, chance, ino, other, step)
        for one in (ino, other):
            row = execute(f"SELECT {ATTRIBUTES} FROM inode WHERE id = ?", (one,)).get
            wrong += inodes.get(one) != (None if row is None else Attributes._make(row))
        assert len(inodes._rows) <= REMEMBERED
    return wrong


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_in_mind_is_what_is_there(database, seed):
    assert not wrong_rows(database, Inodes, seed)


def test_without_the_counter_it_is_not(database):
    """The control: others' changes are missed."""
    assert wrong_rows(database, Forgetless, 1)
