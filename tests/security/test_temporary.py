"""A sort of a million rows of the index, larger than its cache, leaves nothing in a temporary file (A40)."""

import os

import apsw
import pytest

from megafs.index.database import PAGE_CACHE_KIB, connect
from megafs.wiping import KEY_BYTES
from tests.security.canary import Scan, canary
from tests.support.keys import raw

ROWS = 1_000_000
VALUE_BYTES = 68 + 32
NEW = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
    INSERT INTO name SELECT CAST(hex(randomblob(34)) || ? AS BLOB) FROM n"""


def nameless() -> dict[str, bytes]:
    """The beginnings of files of this process that have no name, as SQLite's temporary ones."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
            if name.endswith(" (deleted)"):
                with open(f"/proc/self/fd/{fd}", "rb") as file:
                    found[name] = file.read(1 << 20)
        except OSError:
            continue
    return found


def index(path):
    return connect(path, raw(bytes(KEY_BYTES)), PAGE_CACHE_KIB, create=True)


def index_with_files(path):
    connection = index(path)
    connection.execute("PRAGMA temp_store=FILE")
    return connection


def any_database(path):
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA temp_store=FILE; PRAGMA cache_size=-{PAGE_CACHE_KIB}")
    return connection


@pytest.mark.parametrize(
    ("opened", "is_file", "is_found"),
    [(index, False, False), (index_with_files, True, False), (any_database, True, True)],
)
def test_a_sort_of_a_million_rows(tmp_path, opened, is_file, is_found):
    """In memory; a file would be encrypted, too. The last one is the control: any other database shows its rows
    (A40)."""
    secret, before = canary(32), nameless()
    connection = opened(tmp_path / "index.db")
    try:
        connection.execute("CREATE TABLE name (value BLOB)")
        connection.execute(NEW, (ROWS, secret))
        assert ROWS * VALUE_BYTES > PAGE_CACHE_KIB << 10, "more than what is kept in memory anyway"
        rows = iter(connection.execute("SELECT value FROM name ORDER BY value"))
        next(rows)  # sorted, and the sorter is still there
        temporary = [data for name, data in nameless().items() if name not in before]
        del rows
    finally:
        connection.close()
    assert bool(temporary) == is_file
    assert any(Scan({"value": secret.encode()}).bytes(data, "temporary") for data in temporary) == is_found
