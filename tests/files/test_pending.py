"""What is pending stays cheap to look after, however much of one file is under way."""

import sys
from types import FrameType

from megafs.config import KIB, MIB
from megafs.files import pending
from megafs.files.pending import Pending
from megafs.model import Ino

INO = Ino(7)


def steps_to_land(runs: int) -> int:
    """Bytecodes of landing as many small runs of one file, all of them under way at once."""
    node, count = Pending(), 0
    for number in range(runs):
        node.write(INO, number * 8 * KIB, bytes(4 * KIB), 64 * KIB)
    batches = node.take(MIB, 64 * KIB, everything=True)

    def trace(frame: FrameType, event: str, _: object):
        nonlocal count
        if frame.f_code.co_filename != pending.__file__:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        landed = sum(len(node.land(group)) for batch in batches for group in batch)
    finally:
        sys.settrace(before)
    assert landed == runs
    assert not node.nodes
    assert node.dirty == node.aloft == 0
    return count


def test_landing_looks_at_no_other_run():
    """Four times as many take four times the steps, not sixteen: a batch of a file written at random kept everybody
    waiting for 80 ms."""
    few = steps_to_land(200)
    assert few > 200
    assert steps_to_land(800) < 5 * few
