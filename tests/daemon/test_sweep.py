"""Copies of keys are found wherever they lie in our own memory, and overwritten; nothing else is."""

import ctypes
import mmap
import os

import pytest

from megafs.daemon import sweep as module
from megafs.daemon.sweep import PART_BYTES, sweep
from megafs.wiping import own


def test_every_copy_goes_and_nothing_else():
    key = os.urandom(32)
    inside = os.urandom(100) + key + os.urandom(100)
    digits, other = bytearray(key.hex().encode()), os.urandom(64)
    before, second_half = own(other), ctypes.create_string_buffer(key[16:], 16)
    with mmap.mmap(-1, 2 * PART_BYTES) as apart:
        apart[PART_BYTES - 20 : PART_BYTES + 12] = key  # over the edge of what is looked at in one go
        assert sweep([own(key)], [own(key)]) >= 2 + 2 + 2 + 1 + 2
        assert apart[:] == bytes(2 * PART_BYTES)
    assert key == bytes(32)
    assert inside[100:132] == bytes(32)
    assert any(inside[:100])
    assert digits == bytes(64)
    assert second_half.raw == bytes(16)
    assert other == before


def test_what_was_wiped_is_not_looked_for():
    assert sweep([bytes(32)], [bytes(32)]) == 0


def test_a_kernel_that_refuses_is_told_of(monkeypatch):
    def refuse(*arguments):
        ctypes.set_errno(1)
        return -1

    monkeypatch.setattr(module._libc, "process_vm_readv", refuse)
    with pytest.raises(PermissionError):
        sweep([os.urandom(32)], [])
