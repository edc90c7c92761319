"""An HTTP server in the test's own loop that answers as the test says: for what no honest server does."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Lie:
    """An answer. ``length`` is what Content-Length says (None: the truth); ``endless`` repeats the body for ever;
    ``drip_s`` is the pause before each further byte."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    length: int | None = None
    endless: bool = False
    drip_s: float = 0.0


class Liar:
    """``answer`` decides; ``asked`` is what came; ``sent_bytes`` how much of the bodies was taken."""

    def __init__(self, answer: Callable[[Asked], Lie]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.sent_bytes = 0
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, answer: Callable[[Asked], Lie]) -> "AsyncIterator[Liar]":
        liar = cls(answer)
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            liar.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, liar._serve, [listener])
            yield liar
            nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        with suppress(*BROKEN):
            async with stream:
                asked = await _request(stream)
                if asked is not None:
                    self.asked.append(asked)
                    await self._tell(stream, asked, self.answer(asked))

    async def _tell(self, stream: trio.SocketStream, asked: Asked, lie: Lie) -> None:
        length = len(lie.body) if lie.length is None else lie.length
        lines = [f"HTTP/1.1 {lie.status} So", "Connection: close", *(f"{key}: {value}" for key, value in lie.headers)]
        lines += [] if lie.endless else [f"Content-Length: {length}"]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        if asked.method == "HEAD":
            return
        if lie.drip_s:
            for byte in lie.body:
                await stream.send_all(bytes([byte]))
                await trio.sleep(lie.drip_s)
            return
        await stream.send_all(lie.body)
        while lie.endless:
            await stream.send_all(lie.body)
            self.sent_bytes += len(lie.body)


async def _request(stream: trio.SocketStream) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some(65_536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        piece = await stream.receive_some(65_536)
        if not piece:
            return None
        body += piece
    method, path, _ = first.split(" ")
    return Asked(method=method, path=path, headers=headers, body=body)
