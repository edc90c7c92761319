"""Every parser of bytes from outside, fed with bytes made from valid ones: the right value, or one error of ours, soon.

Authenticated inputs too: a seal says who wrote something, not that it is harmless. A few examples each run by default;
``-m fuzz --rounds N`` runs N thousand of each, and atheris for ``--minutes`` in all. Counts are printed with ``-s``.
"""

import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megafs.crypto.identity import DeviceKey, RootKey, issue_device, issue_epoch
from megafs.crypto.keys import Keyring
from megafs.errors import Corrupt, MegaFSError
from megafs.sync import statements
from megafs.sync.statements import Signer, Trust
from tests.security.canary import canary
from tests.security.parsers import LONG_S, UNTAKEN, Parser, parsers, resigned

ROOT = Path(__file__).parent.parent.parent
QUICK = 60
NAMES = tuple(parsers())
BROKEN = "a parser that is broken"  # of atheris_run
RUNS = re.compile(r"^Done (\d+) runs in", re.M)


@st.composite
def spoiled(draw: st.DrawFn, valid: tuple[bytes, ...]) -> bytes:
    """Bytes that are nearly valid, or nothing of the kind."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from((1, 1, 2, 4, 8, 32)))
        match draw(st.sampled_from(["flip", "cut", "insert", "repeat", "replace", "number", "end"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + size]
            case "insert":
                data[at:at] = draw(st.binary(max_size=size))
            case "repeat":
                data[at:at] = data[at : at + size] * draw(st.integers(1, 50))
            case "replace":
                data[at : at + size] = draw(st.binary(min_size=size, max_size=size))
            case "number":
                text = draw(
                    st.sampled_from((b"-1", b"1e9", b"9" * 30, b"9" * 5000, b"0x10", b"null", b"[" * 3000, b"\\u0000"))
                )
                data[at : at + size] = text
            case "end":
                del data[at:]
    return bytes(data)


def explore(parser: Parser, examples: int, long_s: float = LONG_S) -> tuple[int, int]:
    """(inputs, how many were taken). Anything but MegaFSError, and more than a moment, is a failure."""
    tried = taken = 0

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(spoiled(parser.valid))
    def run(data: bytes) -> None:
        nonlocal tried, taken
        tried, sentence = tried + 1, ""
        began = time.thread_time()  # of this thread alone: a machine may have others to serve
        try:
            parser.parse(data)
            taken += 1
        except MegaFSError as error:
            sentence = str(error)
        assert "\n" not in sentence, "a message is one line"
        assert time.thread_time() - began < long_s

    run()
    return tried, taken


@pytest.mark.parametrize("name", NAMES)
def test_quickly(name):
    """A43."""
    parser = parsers()[name]
    explore(parser, QUICK)
    if name not in UNTAKEN:
        for data in parser.valid:
            parser.parse(data)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", NAMES)
def test_at_length(name, request):
    tried, taken = explore(parsers()[name], 1000 * (request.config.getoption("--rounds") or 5))
    print(f"{name}: {tried} inputs, {taken} taken")


def led_by_coverage(name, seconds):
    """atheris in a process of its own: (status, inputs, seconds of CPU, what it said; an exception to stdout)."""
    command = [sys.executable, "-m", "tests.security.atheris_run", name, str(seconds)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * seconds + 900, check=False)
    cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    runs = RUNS.search(done.stderr)
    return (
        done.returncode,
        int(runs[1]) if runs else 0,
        cpu_s,
        done.stderr + done.stdout,
    )  # the exception is in the latter


@pytest.mark.fuzz
@pytest.mark.parametrize("name", NAMES)
def test_led_by_coverage(name, request):
    """A43."""
    seconds = max(2, int(60 * request.config.getoption("--minutes") / len(NAMES)))
    status, runs, cpu_s, said = led_by_coverage(name, seconds)
    print(f"{name}: {runs} inputs in {cpu_s:.0f} s of CPU")
    assert status == 0, said[-3000:]
    assert runs > min(100, cpu_s)


@pytest.mark.fuzz
def test_control_coverage_finds_what_chance_does_not():
    """A43."""
    status, _, _, said = led_by_coverage(BROKEN, 300)  # ends as soon as it is found; a busy machine takes longer
    assert status != 0
    assert "KeyError: 'found'" in said


@pytest.mark.parametrize(
    "parse",
    [
        lambda data: data.decode("ascii"),  # another exception
        lambda data: sum(range(5_000_000)) if len(data) > 3 else None,  # too slow
        lambda data: (_ for _ in ()).throw(Corrupt("a\nb")),  # more than a sentence
    ],
    ids=["raises", "hangs", "chatters"],
)
def test_control_a_bad_parser_is_found(parse):
    """A43."""
    with pytest.raises((AssertionError, UnicodeDecodeError)):
        explore(Parser(parse=parse, valid=(os.urandom(50), canary().encode())), 5, long_s=0.05)


def test_control_keys_signed_by_nobody_do_not_count():
    """The rig's hostile author is a real device; without its key nothing that it says is taken."""
    parser = parsers()["commit body of its own device"]
    (valid,) = parser.valid
    root = RootKey.generate()
    keyring = Keyring.create(root.public)
    key = DeviceKey.generate()
    stranger = Signer(
        vault=keyring.vault,
        key=key,
        certificate=issue_device(keyring, device=bytes(16), number=1, public_key=key.public, first_seq=1),
    )
    theirs = Trust.of(keyring.vault, root.public, (issue_epoch(root, keyring),))
    with pytest.raises(MegaFSError):
        statements.parse_commit(resigned(stranger, valid), theirs)
