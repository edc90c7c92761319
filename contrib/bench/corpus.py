"""What the workloads read: a tar of source files, a block of random bytes, photos. Made once per work directory.

The text comes from this machine's Python library and C headers, cut into files whose sizes follow those of a kernel
tree; names, sizes and cuts come from a seeded generator, so that two runs on one machine see the same bytes.
"""

import io
import os
import random
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE_FILES = 12_000
SOURCE_BYTES = 237_000_000
POOL_BYTES = 60_000_000
RANDOM_BYTES = 64 << 20
PHOTO_BYTES = 3_000_000
FOLDERS = ("arch", "drivers", "fs", "include", "kernel", "lib", "net", "scripts", "sound", "tools")
SUFFIXES = (".py", ".h", ".hpp", ".c", ".txt", ".rst")
MTIME_S = 1_700_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Where the material lies, outside of every mount."""

    tar: Path
    files: int
    tree: Path  # the tar, unpacked
    photos: Path
    photo_count: int


def text_pool() -> bytes:
    """Real source text of this machine, in a fixed order."""
    parts, size = [], 0
    for root in (sysconfig.get_path("stdlib"), "/usr/include", "/usr/share"):
        for path in source_files(Path(root)):
            text = path.read_bytes()
            parts.append(text)
            size += len(text)
            if size >= POOL_BYTES:
                return b"".join(parts)[:POOL_BYTES]
    if not parts:
        raise SystemExit("this machine has no source text to make a corpus of")
    text = b"".join(parts)
    return (text * (POOL_BYTES // len(text) + 1))[:POOL_BYTES]


def source_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(SUFFIXES) and path.is_file() and not path.is_symlink() and path.stat().st_size < 4_000_000:
                yield path


def write_tar(target: Path, files: int, total_bytes: int) -> None:
    """``files`` files of ``total_bytes`` in all, 2 to 28 a folder, up to seven folders deep, in the order of their
    names, as archives of source trees are."""
    pool = text_pool()
    chance = random.Random(files)
    sizes = [chance.lognormvariate(0, 1.45) for _ in range(files)]
    factor = total_bytes / sum(sizes)
    folders = {"tree": 0}  # how many files each has
    while (left := files - sum(folders.values())) > 0:
        folder = f"{chance.choice(list(folders))}/{chance.choice(FOLDERS)}{len(folders)}"
        if folder.count("/") <= 7:
            folders[folder] = min(left, chance.randint(2, 28))
    place, number = 0, 0
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for folder, count in sorted(folders.items()):
            add_folder(tar, folder)
            for _ in range(count):
                size = min(int(sizes[number] * factor), len(pool) // 2)
                if place + size > len(pool):
                    place = chance.randint(0, 4096)
                add_file(tar, f"{folder}/file{number}.c", pool[place : place + size])
                place += size
                number += 1


def add_folder(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, MTIME_S
    tar.addfile(entry)


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o644, MTIME_S
    tar.addfile(entry, io.BytesIO(data))


def prepare(work: Path, scale: float, photos: int) -> Corpus:
    """Make what is not there yet; names carry the sizes, so that runs of several scales can share a directory."""
    home = work / "corpus"
    home.mkdir(parents=True, exist_ok=True)
    files = max(int(SOURCE_FILES * scale), 50)
    tar, tree = home / f"source-{files}.tar", home / f"source-{files}"
    if not tar.exists():
        partial = tar.with_suffix(".partial")
        write_tar(partial, files, int(SOURCE_BYTES * scale))
        partial.rename(tar)
    if not tree.exists():
        partial = tree.with_suffix(".partial")
        partial.mkdir(exist_ok=True)
        with tarfile.open(tar) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(tree)
    count = max(int(photos * scale), 10)
    folder = home / f"photos-{count}"
    if not folder.exists():
        write_photos(folder, count)
    return Corpus(tar=tar, files=files, tree=tree / "tree", photos=folder, photo_count=count)


@cache
def random_block() -> bytes:
    """Bytes that do not compress; files longer than this repeat it, which no file system here notices."""
    return random.Random(64).randbytes(RANDOM_BYTES)


def write_photos(folder: Path, count: int) -> None:
    partial = folder.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    block = random_block()
    for number in range(count):
        start = number * 7919 * 512 % (len(block) - PHOTO_BYTES)
        (partial / f"DSC_{number:05}.JPG").write_bytes(block[start : start + PHOTO_BYTES])
    partial.rename(folder)
