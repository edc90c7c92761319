"""One parser under libFuzzer: coverage of megafs leads the way from valid bytes to new branches. A process of its own.

python -m tests.security.atheris_run PARSER SECONDS
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["megafs"]):
    from tests.security.parsers import LONG_S, parsers

from megafs.errors import MegaFSError

MOST_BYTES = 1 << 16
HANG_S = 60  # of CPU, over what it was given: a parser that hangs; one that waits for its turn on the machine does not
BROKEN = "a parser that is broken"  # for the control: falls over once it has seen what only coverage finds soon


def broken(data: bytes) -> None:
    if data[:1] == b"M" and data[1:2] == b"F" and data[2:3] == b"S":
        raise KeyError("found")


def main(name: str, seconds: str) -> None:
    """Ends with the process; a status other than 0 means that bytes were found that break a rule."""
    if name == BROKEN:
        parse, valid = atheris.instrument_func(broken), (b"x",)
    else:
        parse, valid = parsers()[name].parse, parsers()[name].valid

    def one(data: bytes) -> None:
        began, sentence = time.thread_time(), ""
        try:
            parse(data)
        except MegaFSError as error:
            sentence = str(error)
        assert "\n" not in sentence, "a message is one line"
        assert time.thread_time() - began < LONG_S

    most = int(seconds) + HANG_S
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(valid):
            (Path(corpus) / str(number)).write_bytes(data)
        limits = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=3600", "-rss_limit_mb=2048"]
        atheris.Setup(["atheris", *limits, f"-artifact_prefix={corpus}/", corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
