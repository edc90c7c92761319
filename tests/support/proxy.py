"""A TCP proxy on 127.0.0.1 with faults, in the test's own trio loop: what lies between a client and a real server.

Faults are fields that may be changed at any time; they hold for what passes from then on.
"""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

PIECE_BYTES = 16 << 10
PIECES_IN_FLIGHT = 4096
STATUS = b"HTTP/1.1 %d A Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Link:
    """A line that several proxies share, in one direction: so many bytes a second in all, first come first served."""

    def __init__(self, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self._free_at = 0.0
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self.carried = 0
        self.first_s = self.last_s = 0.0

    @property
    def use(self) -> float:
        """How much of the line was used, between the first and the last byte."""
        return self.carried / max(self.last_s - self.first_s, 1e-9) / self.bytes_s

    async def carry(self, count: int) -> None:
        start = max(self._free_at, trio.current_time())
        self._free_at = start + count / self.bytes_s
        self.first_s = self.first_s or start
        self.carried += count
        await trio.sleep_until(self._free_at)
        self.last_s = trio.current_time()


@dataclass(slots=True, kw_only=True)
class Faults:
    """``up`` is from the client to the server. Byte counts are per connection, from when it was made."""

    delay_s: float = 0.0  # each way
    bytes_s: float = 0.0  # each way and connection; 0: any speed
    link_up: Link | None = None
    link_down: Link | None = None
    blackhole: bool = False  # takes everything, passes nothing
    reset: bool = False  # new connections and the next piece on old ones meet a reset
    cut_up_after: int | None = None  # then both ends are closed
    cut_down_after: int | None = None
    corrupt_down_at: int | None = None  # one bit of this byte is turned over
    status: int = 0  # every HTTP request is answered with this, and the connection closed


class Proxy:
    """One listening port in front of one server."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.faults = Faults()
        self.connections = 0
        self.open = 0
        self.most_open = 0  # at once
        self.buffer_bytes = 0  # what the kernel holds on the way to the client; 0: what it likes
        self._silenced = 0  # connections up to this one
        self.bytes_up = 0
        self.bytes_down = 0
        self._target = target

    @classmethod
    @asynccontextmanager
    async def running(cls, target: int) -> "AsyncIterator[Proxy]":
        proxy = cls(target)
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            proxy.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, proxy._serve, [listener])
            yield proxy
            nursery.cancel_scope.cancel()

    def silence(self) -> None:
        """Connections made until now take everything and pass nothing: as after a night behind a router."""
        self._silenced = self.connections

    async def _serve(self, client: trio.SocketStream) -> None:
        self.connections += 1
        number = self.connections
        if self.faults.reset:
            _reset(client)
            return
        if self.buffer_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer_bytes)
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._target)
        except OSError:
            _reset(client)
            return
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async with client, server, trio.open_nursery() as nursery:
                nursery.start_soon(self._direction, client, server, nursery.cancel_scope, number, True)
                nursery.start_soon(self._direction, server, client, nursery.cancel_scope, number, False)
        finally:
            self.open -= 1

    async def _direction(
        self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope, number: int, is_up: bool
    ) -> None:
        """Read as fast as it comes; a second task writes each piece when its time has come, so delay costs no rate."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](PIECES_IN_FLIGHT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, receive, source, sink, both, number, is_up)
            with suppress(*BROKEN):
                while piece := await source.receive_some(PIECE_BYTES):
                    await send.send((trio.current_time() + self.faults.delay_s, piece))
            await send.aclose()

    async def _deliver(
        self,
        pieces: "trio.MemoryReceiveChannel[tuple[float, bytes]]",
        source: trio.SocketStream,
        sink: trio.SocketStream,
        both: trio.CancelScope,
        number: int,
        is_up: bool,
    ) -> None:
        passed = 0
        with suppress(*BROKEN):
            async for due, piece in pieces:
                await trio.sleep_until(due)
                link = self.faults.link_up if is_up else self.faults.link_down
                if link is not None:
                    await link.carry(len(piece))
                if self.faults.bytes_s:
                    await trio.sleep(len(piece) / self.faults.bytes_s)
                if self.faults.reset:
                    _reset(source)
                    _reset(sink)
                    break
                if self.faults.blackhole or number <= self._silenced:
                    continue
                if self.faults.status:
                    if is_up:
                        await source.send_all(STATUS % self.faults.status)
                    break
                allowed = self.faults.cut_up_after if is_up else self.faults.cut_down_after
                whole, piece = piece, piece if allowed is None else piece[: max(0, allowed - passed)]
                await sink.send_all(piece if is_up else self._corrupted(piece, passed))
                passed += len(piece)
                self.bytes_up += len(piece) * is_up
                self.bytes_down += len(piece) * (not is_up)
                if len(piece) < len(whole):
                    break
            else:
                await sink.send_eof()
                return
        both.cancel()

    def _corrupted(self, piece: bytes, passed: int) -> bytes:
        where = self.faults.corrupt_down_at
        if where is None or not passed <= where < passed + len(piece):
            return piece
        changed = bytearray(piece)
        changed[where - passed] ^= 1
        return bytes(changed)


def _reset(stream: trio.SocketStream) -> None:
    with suppress(OSError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
