"""The FUSE requests. A protocol adapter only: what a request means is in files.namespace, files.content, files.xattrs.

Each handler translates, calls, and fills a reply. Errors become errno in one place (``answers``). Handlers run on the
trio thread; only read, write, fsync and destructive requests during a commit ever wait.
"""

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from megafs.config import DIRENTS_PER_PAGE, NAME_BYTES
from megafs.errors import DiskError, Locked, MegaFSError, NoSpace, ReadOnly
from megafs.files import acl, setid
from megafs.files.commit import Committer
from megafs.files.content import Content
from megafs.files.namespace import DOTS, Change, Namespace
from megafs.files.xattrs import Xattrs
from megafs.fuse.answers import answers, answers_at_once
from megafs.fuse.gate import Gate
from megafs.fuse.handles import WRITING, Handle
from megafs.fuse.replies import Replies, kept_time
from megafs.model import Ino

log = logging.getLogger(__name__)
ONLY_READING = {"lookup", "getattr", "readlink", "readdir", "read", "statfs", "getxattr", "listxattr"}


class Operations(pyfuse3.Operations):
    """One mount. Owner of the open handles."""

    enable_writeback_cache = True
    enable_acl = True
    supports_dot_lookup = True

    def __init__(
        self,
        names: Namespace,
        content: Content,
        xattrs: Xattrs,
        commits: Committer,
        *,
        timeout_s: float,
        space: Callable[[], tuple[int, int]],
    ) -> None:
        """``space()`` answers (bytes in all, bytes free) for statfs."""
        super().__init__()
        self._names, self._content, self._xattrs, self._commits = names, content, xattrs, commits
        self._replies = Replies(timeout_s)
        self._space = space
        self._handles: dict[int, Handle] = {}
        self._next_handle = 1
        self._open_counts: dict[Ino, int] = {}
        self._forgotten: set[Ino] = set()  # unlinked, forgotten by the kernel, still open
        self._gone: set[Ino] = set()  # open, but the index lost them (begin_anew)
        self.gate = Gate()
        self.read_only: str = ""  # why; empty: it is not
        self.virtual: Mapping[bytes, Callable[[Ino], Awaitable[bytes]]] = {}  # xattrs that are answered, not stored
        self.durable = commits.durable_now  # what fsync waits for
        self.failures = 0
        self.last_failure = ""

    def begin_anew(self, names: Namespace, content: Content, xattrs: Xattrs, commits: Committer) -> None:
        """The same mount goes on with an index that may lack its newest changes."""
        self._names, self._content, self._xattrs, self._commits = names, content, xattrs, commits
        names.expect_forget()
        self._forgotten &= names.unlinked
        self._gone = {ino for ino in self._open_counts if not names.has(ino)}
        for handle in self._handles.values():
            handle.seen = 0
        late, self.gate.forgotten = self.gate.forgotten, []
        self._forget(late)

    def open_for_writing(self) -> set[int]:
        """Inodes whose pages programs may make dirty without asking."""
        return {handle.ino for handle in self._handles.values() if handle.flags & WRITING}

    def drop(self) -> None:
        """The vault is locked: nothing of it is reachable from here. Behind a gate that is shut."""
        del self._names, self._content, self._xattrs, self._commits

    def note_failure(self, request: str, error: MegaFSError) -> None:
        """Count and log an error that is not the caller's own; one line each second at most would still name them
        all."""
        self.failures += 1
        sentence = f"{request}: {error}"
        if sentence != self.last_failure:
            self.last_failure = sentence
            log.error("%s", sentence)

    def index_failed(self, request: str, error: Exception) -> None:
        """What only reads can be asked again; of a change nobody knows how much of it is there."""
        if request in ONLY_READING:
            self.note_failure(request, DiskError(f"the index could not be read ({error}): see megafs status"))
        else:
            self._commits.give_up(error)

    def refusal(self) -> MegaFSError | None:
        """Why nothing is accepted now; None while it is. A sick disk shows here and is over when a commit succeeds."""
        if self.read_only:
            return ReadOnly(self.read_only)
        failing = self._commits.failing
        return failing if failing is None or isinstance(failing, NoSpace) else ReadOnly(str(failing))

    def _writable(self) -> None:
        if self.read_only or self._commits.failing is not None:
            refusal = self.refusal()
            if refusal is not None:
                raise refusal

    async def _destructive(self) -> None:
        self._writable()
        while (passing := self._commits.destructive()) is not None:
            await passing.wait()

    # -- names

    @answers_at_once
    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        row = self._names.lookup(Ino(parent_inode), name)
        return self._replies.absent() if row is None else self._replies.entry(row)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        inos = [ino for ino, _ in inode_list]
        if self.gate.is_shut:
            self.gate.forgotten += inos
        elif self._names.unlinked:
            self._forget(inos)
            self._commits.note_change()

    def _forget(self, inos: Sequence[int]) -> None:
        for ino in inos:
            if ino in self._names.unlinked:
                if ino in self._open_counts:
                    self._forgotten.add(Ino(ino))
                else:
                    self._names.purge(Ino(ino))

    @answers_at_once
    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._replies.entry(self._names.get(Ino(inode)))

    @answers
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        if fields.update_size:
            await self._destructive()
        else:
            self._writable()
        change = Change(  # in its order: by name it takes three times as long
            attr.st_mode if fields.update_mode else None,
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            kept_time(attr.st_atime_ns) if fields.update_atime else None,
            kept_time(attr.st_mtime_ns) if fields.update_mtime else None,
            kept_time(attr.st_ctime_ns) if fields.update_ctime else None,
        )
        row = self._names.change(Ino(inode), change, by=ctx.uid, may_set_gid=lambda gid: may_set_gid(ctx, gid))
        self._commits.note_change()
        return self._replies.entry(row)

    @answers_at_once
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        if not self.read_only:
            self._names.relatime(Ino(inode))
        return self._names.target(Ino(inode))

    @answers_at_once
    def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return self._create(parent_inode, name, mode, ctx, rdev=rdev)

    @answers_at_once
    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._create(parent_inode, name, mode, ctx)

    @answers_at_once
    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._create(parent_inode, name, 0o120777, ctx, target=target)

    def _create(
        self, parent: int, name: bytes, mode: int, ctx: RequestContext, *, rdev: int = 0, target: bytes | None = None
    ) -> EntryAttributes:
        self._writable()
        row = self._names.create(Ino(parent), name, mode, ctx.uid, ctx.gid, umask=ctx.umask, rdev=rdev, target=target)
        self._commits.note_change()
        return self._replies.entry(row)

    @answers_at_once
    def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        self._writable()
        row = self._names.link(Ino(inode), Ino(new_parent_inode), new_name)
        self._commits.note_change()
        return self._replies.entry(row)

    @answers
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._destructive()
        self._names.unlink(Ino(parent_inode), name)
        self._commits.note_change()

    @answers
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._destructive()
        self._names.rmdir(Ino(parent_inode), name)
        self._commits.note_change()

    @answers
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        await self._destructive()
        self._names.rename(Ino(parent_inode_old), name_old, Ino(parent_inode_new), name_new, flags)
        self._commits.note_change()

    # -- directories: the handle is the inode number; cookies are rows, so there is nothing to keep

    @answers_at_once
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    @answers_at_once
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id == 0 and not self.read_only:
            self._names.relatime(Ino(fh))
        reply = pyfuse3.readdir_reply
        entry = self._replies.entry
        after = start_id
        if after < DOTS:
            for cookie, name, row in self._names.dots(Ino(fh))[after:]:
                if not reply(token, name, entry(row), cookie):
                    return
            after = DOTS
        while page := self._names.page(Ino(fh), after):
            for cookie, name, row in page:
                if not reply(token, name, entry(row), cookie):
                    return
                after = cookie
            if len(page) < DIRENTS_PER_PAGE:  # the last; the kernel asks for what comes behind it anyway
                return

    async def releasedir(self, fh: int) -> None:
        return

    @answers
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.durable()

    # -- files

    def _opened(self, ino: Ino, flags: int, *, direct: bool) -> FileInfo:
        """``direct``: with the cache nearly full, write(2) itself is to hear what is refused, past the write-back."""
        number = self._next_handle
        self._next_handle += 1
        late = self._content.errors.get(ino)
        self._handles[number] = Handle(ino, flags, late[0] if late else 0)
        self._open_counts[ino] = self._open_counts.get(ino, 0) + 1
        if flags & os.O_DIRECT:
            self._content.note_random(ino)
        return FileInfo(fh=number, keep_cache=not direct, direct_io=direct)

    @answers
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        direct = False
        if flags & WRITING:
            self._writable()
            direct = self._content.is_nearly_full()
        if flags & os.O_TRUNC:
            await self._destructive()
            row = self._names.row(Ino(inode))
            mode = None
            if ctx.uid and row.mode & setid.SET_ID:
                mode = setid.left(row.mode, row.gid, lambda gid: may_set_gid(ctx, gid))
            self._names.change(Ino(inode), Change(size=0, mode=mode))
            self._commits.note_change()
            if mode is not None:  # the kernel would go on with the mode that it knows
                await trio.to_thread.run_sync(partial(pyfuse3.invalidate_inode, row.ino, attr_only=True))
        return self._opened(Ino(inode), flags, direct=direct)

    @answers_at_once
    def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        direct = self._content.is_nearly_full() and bool(flags & WRITING)
        entry = self._create(parent_inode, name, mode, ctx)
        return self._opened(Ino(entry.st_ino), flags, direct=direct), entry

    @answers
    async def read(self, fh: int, off: int, size: int) -> bytes:
        ino = self._handles[fh].ino
        row = self._names.row(ino)
        if not off and not self.read_only:
            self._names.relatime(ino)
        return await self._content.read(ino, off, size, row.size)  # type: ignore[return-value]  # any buffer will do

    @answers
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        handle = self._handles[fh]
        self._writable()
        self._report_late(handle)
        try:
            await self._content.write(handle.ino, off, buf)
        except Locked:  # while it waited for room; not a byte was taken
            await self.gate.admit("write", ())
            await self._content.write(handle.ino, off, buf)
        self._commits.note_change()
        return len(buf)

    def _report_late(self, handle: Handle) -> None:
        if handle.ino in self._gone:
            raise FUSEError(errno.EIO)
        late = self._content.late_error(handle.ino, handle.seen)
        if late is not None:
            handle.seen = late[0]
            raise FUSEError(late[1])

    async def flush(self, fh: int) -> None:
        """Once; the kernel then stops asking. It still writes back on close, and close still returns what that says."""
        raise FUSEError(errno.ENOSYS)

    @answers
    async def release(self, fh: int) -> None:
        ino = self._handles.pop(fh).ino
        left = self._open_counts[ino] - 1
        if left:
            self._open_counts[ino] = left
            return
        del self._open_counts[ino]
        self._gone.discard(ino)
        if ino in self._forgotten:
            self._forgotten.discard(ino)
            await self.forget([(ino, 1)])

    @answers
    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self._handles[fh]
        await self.durable()
        self._report_late(handle)

    @answers_at_once
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        total, free = self._space()
        found = StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_blocks = total // 4096
        found.f_bfree = found.f_bavail = free // 4096
        found.f_files = 1 << 40
        found.f_ffree = found.f_favail = 1 << 39
        found.f_namemax = NAME_BYTES
        return found

    # -- extended attributes

    @answers
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        found = self.virtual.get(name)
        if found is not None:
            return await found(Ino(inode))
        value = self._xattrs.get(Ino(inode), name)
        if value is None:
            raise FUSEError(errno.ENODATA)
        return value

    @answers_at_once
    def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return self._xattrs.names(Ino(inode), trusted=ctx.uid == 0)

    @answers_at_once
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._writable()
        keep = name != acl.ACCESS or may_set_gid(ctx, self._names.row(Ino(inode)).gid)
        self._names.set_xattr(Ino(inode), name, value, keep_set_gid=keep)
        self._commits.note_change()

    @answers_at_once
    def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self._writable()
        self._names.remove_xattr(Ino(inode), name)
        self._commits.note_change()

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        """Never asked under default_permissions; ENOSYS makes the kernel stop asking where it is not."""
        raise FUSEError(errno.ENOSYS)


def may_set_gid(ctx: RequestContext, gid: int) -> bool:
    """Whether the caller may give a file of this group the set-group-id bit; the kernel leaves ACLs to us here."""
    return ctx.uid == 0 or gid == ctx.gid or gid in pyfuse3.get_sup_groups(ctx.pid)
