"""The rule of outcomes through the kernel: a file whose hosts lie reads as its right bytes, or as EIO and a warning."""

import errno
import os

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
