"""An index under another key: a copy beside it that takes its place whole, so that a crash leaves one or the other."""

import os
from pathlib import Path
from urllib.parse import quote

import apsw

from megafs.index.database import PAGE_CACHE_KIB, connect, told

PARTIAL = ".rekeyed"


def rekey(path: Path, former: bytes, new: bytes) -> None:
    """Blocks, seconds for a large index; needs as much disk again meanwhile. Nobody has the index open. Raises NoSpace
    or DiskError; then it is as it was."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        _remove(partial)
        connection = connect(path, former, PAGE_CACHE_KIB, uri=True)
        try:
            connection.execute("VACUUM INTO ?", (f"file:{quote(str(partial))}?cipher=aegis&hexkey={new.hex()}",))
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            connection.close()
        _sync(partial)
        # The log goes first, for good: beside the copy it would be taken for the copy's. The index is whole without it.
        _remove(path.with_name(path.name + "-wal"))
        _remove(path.with_name(path.name + "-shm"))
        _sync(path.parent)
        os.rename(partial, path)
        _sync(path.parent)
    except OSError as error:
        raise told(error) from error
    except (apsw.FullError, apsw.IOError) as error:
        _remove(partial)
        raise told(OSError(28, os.strerror(28))) from error


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
