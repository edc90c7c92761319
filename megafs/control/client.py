"""The CLI's end of the control socket: one blocking call. No trio, so that it costs the CLI nothing to import."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from megafs import config
from megafs.control.address import PEER_OPTION, peer, reachable
from megafs.control.messages import Failure, Message, Progress, Request, error_of, line, message
from megafs.crypto.opened import Opened
from megafs.errors import Corrupt, MegaFSError, NotMounted


def ask(directory: Path, request: Request, progress: Callable[[Progress], None] | None = None) -> Message:
    """The answer of the daemon that has the vault in ``directory``; its failure is raised as it was raised there.

    Raises NotMounted if no daemon listens.
    """
    with _connected(directory) as connection:
        if request.opened.body:
            packed = request.opened.packed()
            connection.sendall(line(replace(request, opened=Opened(body=b""), opened_bytes=len(packed))) + packed)
        else:
            connection.sendall(line(request))
        for text in _lines(connection):
            told = message(text)
            if isinstance(told, Failure):
                raise error_of(told)
            if not isinstance(told, Progress):
                return told
            if progress is not None:
                progress(told)
    raise MegaFSError("the daemon ended before it answered; its log says why")


def daemon_pid(directory: Path) -> int:
    """The process id of the daemon that listens in ``directory``. Raises NotMounted."""
    with _connected(directory) as connection:
        pid, _ = peer(connection.getsockopt(*PEER_OPTION))
        return pid


@contextmanager
def _connected(directory: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(config.CONTROL_REPLY_S)
        try:
            with reachable(directory) as name:
                connection.connect(name)
        except OSError as error:
            raise NotMounted("the vault is not mounted") from error
        try:
            yield connection
        except TimeoutError as error:
            raise MegaFSError(f"the daemon did not answer within {config.CONTROL_REPLY_S:.0f} s") from error
        except ConnectionError as error:
            raise MegaFSError("the daemon ended before it answered; its log says why") from error


def _lines(connection: socket.socket) -> Iterator[bytes]:
    text = b""
    while part := connection.recv(65_536):
        *whole, text = (text + part).split(b"\n")
        yield from whole
        if len(text) > config.CONTROL_LINE_BYTES:
            raise Corrupt("control: an answer that does not end")
