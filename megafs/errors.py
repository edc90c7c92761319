"""Every error that MegaFS raises on purpose: one tree, each class with its errno and exit status.

``code`` is what a FUSE request answers, ``status`` what the CLI exits with. The message is one sentence that
may be shown to the user; it never holds a key, a passphrase, a file name or content.
"""

import errno

EXIT_STATUSES = {
    0: "done",
    1: "failed; the message says why",
    2: "the command line or a setting is wrong",
    3: "wrong passphrase, wrong recovery key or damaged key slot",
    4: "no such vault, or the vault exists already",
    5: "busy: the vault is in use by another process, or files on the mount are open",
    6: "a host cannot be reached, refuses, is full, or misbehaves",
    7: "incomplete: not everything is on the hosts that the policy wants",
    8: "this machine is not ready (see megafs doctor), or the vault is not mounted, or locked",
    9: "something read back was damaged or forged",
    10: "alarms wait that nobody has acknowledged: megafs alarms",
    130: "stopped by Ctrl-C; nothing is left half done",
}


class MegaFSError(Exception):
    """Root of the tree."""

    code = errno.EIO
    status = 1


class Usage(MegaFSError):
    """A command line, setting or URL that cannot be meant."""

    code = errno.EINVAL
    status = 2


class Refused(MegaFSError):
    """A file system request that Linux refuses as well; carries the errno of this one refusal."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode.get(code, str(code)))
        self.code = code


class ReadOnly(MegaFSError):
    """The vault takes no writes now; the message says why."""

    code = errno.EROFS


class NoSpace(MegaFSError):
    """Refused before a byte was accepted: the cache cannot take it and nothing can be evicted."""

    code = errno.ENOSPC


class DiskError(MegaFSError):
    """The disk of the state directory failed; the message says how."""


class WrongKey(MegaFSError):
    """The passphrase or recovery key given does not open what it should open."""

    status = 3


class DamagedSlot(MegaFSError):
    """The key slot on this device cannot be parsed, or asks for parameters out of bounds."""

    status = 3


class NoVault(MegaFSError):
    """No vault of this name in the state directory."""

    status = 4


class VaultExists(MegaFSError):
    """The name is taken in the state directory."""

    status = 4


class Busy(MegaFSError):
    """Another process has the vault, or the mount point is in use."""

    code = errno.EBUSY
    status = 5


class HostError(MegaFSError):
    """A host did not do what was asked. The message begins with the host's label."""

    status = 6


class HostUnreachable(HostError):
    """No answer, or a passing fault; worth trying again."""


class HostFailing(HostUnreachable):
    """It answered, with an error of its own. Web servers with a full disk do so to what they are to store."""


class HostRefused(HostError):
    """The host understood and refused: credentials, permissions, a bad bucket. Trying again will not help."""


class HostFull(HostError):
    """The host has no space or quota left."""

    code = errno.ENOSPC


class ObjectMissing(HostError):
    """The host says that there is no such object."""


class Unavailable(MegaFSError):
    """No host that should have the bytes answers with them now."""


class Incomplete(MegaFSError):
    """Not everything is on every host that the policy wants."""

    status = 7


class Locked(MegaFSError):
    """The vault is mounted and locked: its keys are not here."""

    code = errno.EKEYEXPIRED
    status = 8


class NotMounted(MegaFSError):
    """The vault is not mounted, or the machine cannot mount."""

    code = errno.ENOTCONN
    status = 8


class Corrupt(MegaFSError):
    """Bytes that do not parse: ``Corrupt("header: 4 bytes, need 5")``."""

    status = 9


class DamagedIndex(Corrupt):
    """The index of this device cannot be read: damaged, gone, or not of this key."""


class Unauthentic(MegaFSError):
    """Bytes that were not sealed under this key for this place; says nothing more, on purpose."""

    status = 9


class RolledBack(MegaFSError):
    """A host, a device or this device's own state is older than what was already known."""

    status = 9
