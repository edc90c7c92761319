"""The daemon's process: ``python -m megafs.cli.background`` started by ``megafs mount``, with nothing secret on view.

stdin brings one Order (what to mount) as a line, then the opened slot as raw bytes, and is closed; stdout takes one
line back, "ready" or a Failure; stderr becomes a file in the vault's log directory, for what Python itself says when
it dies. ``launched`` and ``start`` are the other end: the process loads its libraries while a passphrase is asked and
stretched; then it gets its order, and ``start`` returns when the mount answers, or raises the daemon's own error.
"""

import faulthandler
import logging
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import indexOf
from pathlib import Path
from typing import IO

from megafs import canonical
from megafs.cli import logs
from megafs.cli.outcome import one_error
from megafs.config import MOUNT_READY_S, OPENED_BYTES, MountOptions, VaultPaths
from megafs.control.messages import Failure, error_of, failure, line, message
from megafs.crypto.opened import Opened
from megafs.errors import MegaFSError, NotMounted
from megafs.process import harden
from megafs.wiping import read_once

log = logging.getLogger(__name__)

READY = b"ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the daemon's process is told; paths as the bytes that the file system knows."""

    root: bytes
    mountpoint: bytes
    options: MountOptions


@contextmanager
def launched(paths: VaultPaths) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon's process that gets its order later: it loads its libraries meanwhile. Ends if it gets none."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, paths.root.name],  # the name is for ps; the order has it again
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        # -m looks into the working directory first: there, a checkout named megafs would stand before ourselves.
        cwd=Path(__file__).parent.parent.parent,
    )
    try:
        yield process
    except BaseException:
        process.terminate()  # ours, and asked to end in order; also when the user interrupts the wait
        raise


def start(
    process: subprocess.Popen[bytes], paths: VaultPaths, mountpoint: Path, opened: Opened, options: MountOptions
) -> None:
    """Have the process be a daemon that outlives us; return when its mount answers. Raises what the daemon raised."""
    order = Order(root=os.fsencode(paths.root), mountpoint=os.fsencode(mountpoint), options=options)
    assert process.stdin is not None
    assert process.stdout is not None
    with (
        suppress(BrokenPipeError),
        process.stdin as to_daemon,
    ):  # it died at once; then it has nothing to say either
        to_daemon.write(canonical.encode(order) + b"\n" + opened.packed())
    told = _first_line(process.stdout, MOUNT_READY_S)
    if told == READY:
        return
    said = message(told) if told else None
    if isinstance(said, Failure):
        raise error_of(said)
    raise MegaFSError(f"the daemon ended before the mount answered; {paths.log} says why")


def _first_line(pipe: IO[bytes], limit_s: float) -> bytes:
    readable, _, _ = select.select([pipe], [], [], limit_s)
    if not readable:
        raise NotMounted(f"the mount did not answer within {limit_s:.0f} s")
    return pipe.readline().removesuffix(b"\n")


def ordered(descriptor: int) -> tuple[Order, Opened] | None:
    """What ``start`` wrote, None if that was nothing; no buffer keeps a copy of it."""
    most = canonical.STATEMENT_BYTES + OPENED_BYTES
    with open(descriptor, "rb", buffering=0, closefd=False) as file, read_once(file, most) as text:
        if not text:
            return None
        end = indexOf(text, ord("\n"))
        return canonical.parse(Order, text[:end]), Opened.unpacked(text[end + 1 :])


def serve(order: Order, opened: Opened, report: Callable[[bytes], None], *, run: Callable[..., None]) -> int:
    """Run the daemon as ordered and report how it started; the process's exit status."""
    paths = VaultPaths(root=Path(os.fsdecode(order.root)))
    try:
        with one_error():
            run(
                paths,
                opened=opened,
                mountpoint=Path(os.fsdecode(order.mountpoint)),
                options=order.options,
                ready=lambda: report(READY + b"\n"),
            )
    except MegaFSError as error:
        log.error("ended: %s", error)
        report(line(failure(error)))
        return error.status
    return 0


def main() -> int:
    """Entry of the daemon's process."""
    harden()
    faulthandler.enable()
    from megafs import daemon  # takes longer than the passphrase, which is being stretched meanwhile

    told = ordered(0)
    if told is None:
        return 0  # there was no way in
    order, opened = told
    log_directory = VaultPaths(root=Path(os.fsdecode(order.root))).log
    log_directory.mkdir(mode=0o700, exist_ok=True)
    died = os.open(log_directory / "died", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.dup2(died, 2)
    os.close(died)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    logs.start(log_directory, to_stderr=False, journal=False)
    os.chdir("/")  # hold no directory busy

    def report(text: bytes) -> None:
        # Once: afterwards nobody reads, and an open pipe would keep the caller's own pipeline waiting.
        os.write(1, text)
        os.dup2(nothing, 1)

    return serve(order, opened, report, run=daemon.run)


if __name__ == "__main__":
    sys.exit(main())
