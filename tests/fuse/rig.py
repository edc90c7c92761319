"""The handlers without a kernel, on an index of their own: what each request asks of it is counted."""

import os
from types import SimpleNamespace

import apsw
import pyfuse3

from megafs.daemon.engine import clock_ns
from megafs.files.content import Content
from megafs.files.namespace import Namespace
from megafs.files.xattrs import Xattrs
from megafs.fuse.operations import Operations
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.model import ROOT_INO
from tests.support.keys import raw

CTX = SimpleNamespace(uid=0, gid=0, pid=1, umask=0o022)


class Quiet:
    """Stands for the committer: nothing ever commits here."""

    failing = None

    def note_change(self) -> None:
        pass

    def destructive(self) -> None:
        return None

    async def durable_now(self) -> None:
        return


class Mount:
    """The handlers without a kernel, and how many statements each call runs."""

    def __init__(self, folder) -> None:
        self.database = Database(folder / "index.db", raw(bytes(32)), create=True)
        self.database.connection.execute("INSERT INTO device VALUES (1, ?, ?, x'', 0)", (bytes(16), bytes(32)))
        self.database.adopt(1)
        self.inodes, self.extents = inodes, extents = Inodes(self.database), Extents(self.database)
        inodes.insert_root(0o40755, 0, 0, 1)
        content = Content(extents, inodes, None, SimpleNamespace(), dirty_bytes=1 << 24)
        xattrs = Xattrs(inodes)
        self.names = Namespace(inodes, xattrs, content, clock_ns)
        self.operations = Operations(self.names, content, xattrs, Quiet(), timeout_s=1.0, space=lambda: (1, 1))
        self.statements: list[str] = []

    def ask(self, request):
        """The answer of a handler that must not wait; its statements are in ``statements``."""
        self.statements = []
        self.database.connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: self._note(event["sql"]))
        try:
            request.send(None)
        except StopIteration as answer:
            return answer.value
        except pyfuse3.FUSEError as error:
            return error.errno
        finally:
            self.database.connection.trace_v2(0)
        raise AssertionError("the handler waited")

    def _note(self, sql: str) -> None:
        if not sql.startswith("PRAGMA"):  # the session asks once for each table
            self.statements.append(sql)

    def create(self, name: bytes):
        return self.ask(self.operations.create(ROOT_INO, name, 0o100644, os.O_WRONLY, CTX))


def changed(*names: str) -> SimpleNamespace:
    every = ("size", "mode", "uid", "gid", "atime", "mtime", "ctime")
    return SimpleNamespace(**{f"update_{name}": name in names for name in every})
