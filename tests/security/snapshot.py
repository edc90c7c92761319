"""A machine that is brought back from a snapshot: what it and the machine that went on draw as salts.

python -m tests.security.snapshot, as process 1 of a pid namespace (unshare --pid --fork). The copy of the process has
the same memory, and its number too, so that no library can know. Prints both salts of each way to seal.
"""

import ctypes
import json
import os
import sys

from cryptography.cobblestone import Cobblestone256Encryptor

from megafs.crypto.seal import SALT_BYTES, seal

CLONE_NEWPID = 0x20000000


def by_the_library(key: bytes, context: bytes, plain: bytes) -> bytes:
    encryptor = Cobblestone256Encryptor(key, context)
    return encryptor.update(plain) + encryptor.finalize()


def salts() -> list[str]:
    return [each(bytes(32), b"the same place", b"x")[:SALT_BYTES].hex() for each in (seal, by_the_library)]


def main() -> None:
    """Both lists, of the machine that was brought back and of the one that went on."""
    salts()  # a generator in memory, if there is one, is running now
    libc = ctypes.CDLL(None, use_errno=True)
    reading, writing = os.pipe()
    assert os.getpid() == 1
    assert libc.unshare(CLONE_NEWPID) == 0
    pid = libc._Fork()  # no handlers run, as none do in a snapshot
    if pid == 0:
        os.write(writing, json.dumps([os.getpid(), salts()]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    json.dump([json.loads(os.read(reading, 4096)), [os.getpid(), salts()]], sys.stdout)


if __name__ == "__main__":
    main()
