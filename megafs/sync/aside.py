"""What this device had committed and never shipped, when an older copy of its state is brought forward: noted by file.

Changesets that are about to be undone in, pieces of files out, as rows (index.aside); daemon.rescue makes files of
them. Of a file: where it stood, what it said of itself, and which chunks in which packs hold its bytes. What was
deleted or renamed is not replayed: nothing is lost by that.
"""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from megafs.canonical import INTEGER_STOP, Between, Size, encode
from megafs.index.aside import Aside
from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.model import Attributes, ChunkPlace, PackId

RUNS_PER_PIECE = 2000  # so that a piece stays a short statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Bytes ``start`` to ``stop`` of a file, in a chunk from ``skip`` on; the chunk as its row had it."""

    start: int
    stop: int
    skip: int
    chunk: Annotated[bytes, Size(16)]
    pack: int
    pack_id: Annotated[bytes, Size(16)]
    epoch: int
    offset: int
    sealed_bytes: int
    plain_bytes: int
    codec: int
    digest: Annotated[bytes, Size(32)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """An extended attribute."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file or symbolic link, or so much of one as makes a statement; the others have the same ``path``."""

    folder: bytes  # below lost+found
    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: Annotated[int, Between(-INTEGER_STOP, INTEGER_STOP - 1)]  # before 1970, too
    size: int
    target: bytes
    tags: tuple[Tag, ...]
    runs: tuple[Run, ...]


def pieces(database: Database, changesets: Iterable[bytes], folder: bytes) -> Iterator[Piece]:
    """Of each file that these changes made or changed, as it is now."""
    aside, inodes = Aside(database.connection), Inodes(database)
    for ino in aside.touched(changesets):
        row, path = inodes.get(ino), aside.path(ino)
        if row is None or path is None or not (stat.S_ISREG(row.mode) or stat.S_ISLNK(row.mode)):
            continue
        tags, target = inodes.xattrs(ino), inodes.target(ino) or b""
        yield from cut(folder, path, row, target, tags, aside.content(ino))


def cut(
    folder: bytes,
    path: bytes,
    row: Attributes,
    target: bytes,
    tags: Iterable[tuple[bytes, bytes]],
    content: Iterable[tuple[int, int, int, ChunkPlace, PackId, int]],
) -> Iterator[Piece]:
    """One file as pieces; ``content`` as index.aside has it."""
    runs = [
        Run(
            start=start,
            stop=stop,
            skip=skip,
            chunk=place.chunk,
            pack=place.pack,
            pack_id=pack_id,
            epoch=epoch,
            offset=place.offset,
            sealed_bytes=place.sealed_bytes,
            plain_bytes=place.plain_bytes,
            codec=place.codec,
            digest=place.digest,
        )
        for start, stop, skip, place, pack_id, epoch in content
    ]
    piece = Piece(
        folder=folder,
        path=path,
        mode=row.mode,
        uid=row.uid,
        gid=row.gid,
        mtime_ns=row.mtime_ns,
        size=row.size,
        target=target,
        tags=tuple(Tag(name=name, value=value) for name, value in tags),
        runs=(),
    )
    for first in range(0, len(runs) or 1, RUNS_PER_PIECE):
        yield replace(piece, runs=tuple(runs[first : first + RUNS_PER_PIECE]))


def note(database: Database, found: Iterable[Piece]) -> None:
    """Keep them until they are files again; durable with what undoes the changes."""
    aside = Aside(database.connection)
    for piece in found:
        aside.add(encode(piece))
