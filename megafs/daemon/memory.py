"""How much memory the process keeps that nothing uses: glibc's part of the daemon's size.

What commit objects and checkpoints are made in is a hundred thousand small pieces, freed a moment later between pages
of SQLite's cache that stay: without being asked, glibc keeps all of it (110 of 240 MiB after 100,000 files).
"""

import ctypes

M_MMAP_THRESHOLD = -3  # mallopt(3)
LARGE_BYTES = 2 << 20  # whole packs; else the first one that is freed raises the threshold above all of them

_libc = ctypes.CDLL(None)


def keep_apart() -> None:
    """Before the first pack is read: large blocks are mapped, and unmapped when they are freed."""
    if hasattr(_libc, "mallopt"):  # glibc; musl gives back by itself
        _libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back() -> None:
    """Thread. What is free goes back to the system; about 5 ms for 100 MiB."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
