"""The rule of outcomes through the kernel: a file whose hosts lie reads as its right bytes, or as EIO and a warning."""

import errno
import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.mounted
LEAST_BYTES = 50_000  # only packs are that large here


def spoil(folders):
    """Every kilobyte of every large object changed; returns how to undo it."""
    before = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_size > LEAST_BYTES:
                before[path] = path.read_bytes()
                data = bytearray(before[path])
                data[::1000] = bytes(byte ^ 1 for byte in data[::1000])
                path.write_bytes(data)
    assert before
    return before


def forget_local_packs(guarded):
    for path in (guarded.state / guarded.name / "packs").iterdir():
        path.unlink()


def test_one_liar_is_healed_and_all_of_them_are_refused(guarded):
    guarded.mount()
    file, data = guarded.mountpoint / "file", os.urandom(400_000)
    file.write_bytes(data)
    guarded.unmount("--wait")
    folders = sorted(guarded.base.glob("host?"))
    holders = [each for each in folders if any(p.stat().st_size > LEAST_BYTES for p in each.rglob("*") if p.is_file())]
    assert len(holders) == 2, "two copies of the pack"
    forget_local_packs(guarded)
    undo = spoil(holders[:1])
    guarded.mount()
    assert file.read_bytes() == data
    guarded.unmount()
    guarded.new_complaints()  # it may or may not have asked the liar first
    forget_local_packs(guarded)
    for path, whole in undo.items():  # if it was asked, it may have been mended meanwhile
        path.write_bytes(whole)
    spoil(holders)
    guarded.mount()
    with pytest.raises(OSError, match="Input/output") as refused:
        file.read_bytes()
    assert refused.value.errno == errno.EIO
    assert any("wrong bytes" in line for line in guarded.new_complaints())
    assert (file.stat().st_size, os.listdir(guarded.mountpoint)) == (len(data), ["file"])
    for path, whole in undo.items():  # control: one host that is right again is enough, without mounting anew
        path.write_bytes(whole)
    assert file.read_bytes() == data
    guarded.unmount()
    guarded.new_complaints()  # until then it met the others, and tried to mend them


READ = """
import mmap, os, sys
path, way, right = sys.argv[1:]
fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if way == "direct" else 0))
size = os.fstat(fd).st_size
if way == "mapped":
    got = bytes(mmap.mmap(fd, size, prot=mmap.PROT_READ))
else:
    page = mmap.mmap(-1, 1 << 20)
    got = b""
    while len(got) < size:
        count = os.preadv(fd, [page], len(got))
        got += page[:count]
sys.exit(0 if got == open(right, "rb").read() else 99)
"""
REFUSED = {1, -signal.SIGBUS}  # an OSError; what a mapping gives for a page that cannot be read


def read_at_once(file, right):
    """How several programs end that read a file at the same time: through the page cache, past it, mapped."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", READ, str(file), way, str(right)], stderr=subprocess.PIPE, start_new_session=True
        )
        for way in ("cached", "direct", "mapped") * 2
    ]
    said = [each.communicate(timeout=120)[1] for each in running]
    assert all(b"Errno 5" in text for each, text in zip(running, said, strict=True) if each.returncode == 1)
    return [each.returncode for each in running]


def test_no_forged_byte_reaches_page_cache_mapping_or_direct_reader(guarded):
    """A42: six readers at once, of a file whose hosts all lie, and of one with one liar."""
    guarded.mount()
    file, right, data = guarded.mountpoint / "file", guarded.base / "right", os.urandom(300 * 1024)
    file.write_bytes(data)
    right.write_bytes(data)
    guarded.unmount("--wait")
    folders = sorted(guarded.base.glob("host?"))
    holders = [each for each in folders if any(p.stat().st_size > LEAST_BYTES for p in each.rglob("*") if p.is_file())]
    undo = spoil(holders)
    forget_local_packs(guarded)
    guarded.mount()
    assert set(read_at_once(file, right)) <= REFUSED
    assert not any(data[1:64] in path.read_bytes() for path in guarded.state.rglob("*") if path.is_file())
    wrong = list(undo.items())
    for path, whole in wrong[:1]:  # one of them is honest now
        path.write_bytes(whole)
    assert set(read_at_once(file, right)) == {0}
    guarded.unmount()
    guarded.new_complaints()
    right.write_bytes(bytes(len(data)))
    guarded.mount()
    assert set(read_at_once(file, right)) == {99}, "the control: other bytes would be seen"
    guarded.unmount()
