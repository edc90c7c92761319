"""The daemon's end of the control socket: accepts, checks who asks, runs one handler, streams what it yields.

``async with serving(vault_directory, handlers):`` listens while the body runs. A handler is an async generator:
Progress any number of times, then one answer. A MegaFSError that it raises goes to the client as a Failure; any other
exception is a bug and ends the nursery, as everywhere. A client that hangs up cancels its handler.
"""

import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import trio

from megafs import config
from megafs.control.address import PEER_OPTION, SOCKET_NAME, peer, reachable
from megafs.control.messages import Message, Progress, Request, failure, line, message
from megafs.crypto.opened import Opened
from megafs.errors import Corrupt, Locked, MegaFSError, Usage
from megafs.wiping import wipe

log = logging.getLogger(__name__)


UNENDING = frozenset({"lock", "unlock"})
Handler = Callable[[Request], AsyncGenerator[Message, None]]


def listening(directory: Path) -> socket.socket:
    """A listening socket with mode 0600 from its first moment. The caller holds the vault's lock: a socket that is
    there already is a dead daemon's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), 0o600)  # bind gives the file this mode less the umask
        with reachable(directory) as name:
            with suppress(FileNotFoundError):
                os.unlink(name)
            listener.bind(name)
        listener.listen(config.CONTROL_CLIENTS)
    except BaseException:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def serving(
    directory: Path,
    handlers: Mapping[str, Handler],
    users: Collection[int] = (),
    ended: Callable[[], trio.Event] = trio.Event,
) -> AsyncIterator[None]:
    """Answer on ``directory/control`` while the body runs; the socket file is gone afterwards.

    Only processes of ``users`` (none given: our own user and root) are answered. ``ended()`` is asked when a call
    begins: the event breaks it off, but for those that bring it about.
    """
    users = users or (0, os.geteuid())
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening(directory)))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept, listener, handlers, users, ended)
            yield
            nursery.cancel_scope.cancel()
    finally:
        with suppress(FileNotFoundError):
            os.unlink(directory / SOCKET_NAME)
        with trio.CancelScope(shield=True):  # local: closes a descriptor
            await listener.aclose()


async def _accept(
    listener: trio.SocketListener,
    handlers: Mapping[str, Handler],
    users: Collection[int],
    ended: Callable[[], trio.Event],
) -> None:
    seats = trio.Semaphore(config.CONTROL_CLIENTS)
    async with trio.open_nursery() as nursery:
        while True:
            await seats.acquire()
            stream = await listener.accept()
            _, user = peer(stream.socket.getsockopt(*PEER_OPTION))
            if user not in users:  # the socket's mode says the same; this still holds if somebody changes it
                log.warning("control: refused a process of user %d", user)
                await stream.aclose()
                seats.release()
                continue
            nursery.start_soon(_serve, stream, handlers, seats, ended)


async def _serve(
    stream: trio.SocketStream,
    handlers: Mapping[str, Handler],
    seats: trio.Semaphore,
    ended: Callable[[], trio.Event],
) -> None:
    try:
        async with stream:
            try:
                await _answer(stream, handlers, ended)
            except* (trio.BrokenResourceError, trio.TooSlowError):
                log.info("control: a client went away")
    finally:
        seats.release()


async def _answer(stream: trio.SocketStream, handlers: Mapping[str, Handler], ended: Callable[[], trio.Event]) -> None:
    try:
        with trio.fail_after(config.CONTROL_REQUEST_S):
            asked = await _request(stream)
        if asked.call not in handlers:
            raise Usage("the running daemon does not know this call: unmount and mount again after an upgrade")
    except (Corrupt, Usage) as error:
        await _send(stream, failure(error))
        return
    end = trio.Event() if asked.call in UNENDING else ended()
    answered = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_hangup, stream, nursery.cancel_scope)
        nursery.start_soon(_cancel_at, end, nursery.cancel_scope)
        try:
            async with aclosing(handlers[asked.call](asked)) as answers:
                async for told in answers:
                    answered = not isinstance(told, Progress)
                    await _send(stream, told)
                    if answered:
                        break
        except MegaFSError as error:
            answered = True
            await _send(stream, failure(error))
        nursery.cancel_scope.cancel()
    if end.is_set() and not answered:
        await _send(stream, failure(Locked("the vault was locked meanwhile; megafs unlock opens it")))


async def _request(stream: trio.SocketStream) -> Request:
    """One line, then as many bytes of an opened slot file as it says. Corrupt if less, more or something else comes."""
    text = bytearray()
    try:
        while (end := text.find(b"\n")) < 0:
            if not await _receive(stream, text) or len(text) > config.CONTROL_LINE_BYTES:
                raise Corrupt("control: a request that is not one line")
        asked = message(bytes(text[:end]))
        if not isinstance(asked, Request):
            raise Usage("this is not a request")
        while len(text) - end - 1 < asked.opened_bytes:
            if not await _receive(stream, text):
                break
        if len(text) - end - 1 != asked.opened_bytes:
            raise Corrupt("control: a request that is not as long as it says")
        with memoryview(text) as view:
            return replace(asked, opened=Opened.unpacked(view[end + 1 :])) if asked.opened_bytes else asked
    finally:
        text[:] = bytes(len(text))


async def _receive(stream: trio.SocketStream, text: bytearray) -> bool:
    """More of it, of which no copy stays; False at the end."""
    part = await stream.receive_some(65_536)
    text += part
    wipe(part)
    return bool(part)


async def _cancel_at(end: trio.Event, scope: trio.CancelScope) -> None:
    await end.wait()
    scope.cancel()


async def _cancel_at_hangup(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        await stream.receive_some(1)  # a client says nothing more, so this returns when it is gone
    scope.cancel()


async def _send(stream: trio.SocketStream, told: Message) -> None:
    with trio.fail_after(config.CONTROL_SEND_S):
        await stream.send_all(line(told))
