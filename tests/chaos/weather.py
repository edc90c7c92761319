"""Real servers behind proxies, and what can befall them; a workload on a mount that knows what must be there."""

import random
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from tests import servers
from tests.support.proxy import Faults, Proxy

FOLDER = "vault"
KIND_ORDER = ("rclone s3", "rclone webdav", "rclone sftp", "openssh", "rclone s3")
# What the line and the servers do, each for some seconds. Wrong bytes come late in a connection: past the headers.
WEATHER: Mapping[str, Faults] = {
    "delay": Faults(delay_s=0.2),
    "throttle": Faults(bytes_s=200_000),
    "cut up": Faults(cut_up_after=300_000),
    "cut down": Faults(cut_down_after=20_000),
    "reset": Faults(reset=True),
    "hang": Faults(blackhole=True),
    "500": Faults(status=500),
    "403": Faults(status=403),
    "507": Faults(status=507),
    "wrong bytes": Faults(corrupt_down_at=5_000),
}
CALM = Faults()


@dataclass(slots=True, kw_only=True)
class Site:
    """One server and the proxy before it."""

    server: servers.Server
    proxy: Proxy
    gone: bool = False
    kept: Path | None = None

    @property
    def url(self) -> str:
        return self.server.place_through(FOLDER, self.proxy.port)

    @property
    def folder(self) -> Path:
        """Where the server keeps the vault's objects."""
        assert self.server.root is not None
        inner = self.server.root / "bucket" / FOLDER
        return inner if inner.exists() or self.server.url.startswith("s3") else self.server.root / FOLDER

    def objects(self) -> list[Path]:
        """Files of packs: the index's objects are smaller."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and path.stat().st_size > 40_000)

    def delete(self) -> None:
        """Everything that the host had, as if it had never been a host."""
        shutil.rmtree(self.folder)


@contextmanager
def sites(root: Path, kinds: Sequence[str] = KIND_ORDER) -> Iterator[list[Site]]:
    """These servers, each behind a proxy of its own; the proxies live in a thread."""
    starters = {"openssh": servers.openssh}
    with ExitStack() as running:
        found = [
            running.enter_context(
                starters[kind](root / str(n)) if kind in starters else servers.rclone(root / str(n), kind.split()[1])
            )
            for n, kind in enumerate(kinds)
        ]
        proxies: list[Proxy] = []
        ready, over = threading.Event(), trio.Event()
        token: list[trio.lowlevel.TrioToken] = []

        async def serve() -> None:
            token.append(trio.lowlevel.current_trio_token())
            async with trio.open_nursery() as nursery:

                async def one(server: servers.Server) -> None:
                    async with Proxy.running(server.port) as proxy:
                        proxies.append(proxy)
                        if len(proxies) == len(found):
                            ready.set()
                        await over.wait()

                for server in found:
                    nursery.start_soon(one, server)

        thread = threading.Thread(target=trio.run, args=(serve,))
        thread.start()
        try:
            assert ready.wait(30)
            by_target = {proxy._target: proxy for proxy in proxies}
            for known in root.glob("*/known_hosts"):
                port, key = known.read_text().removeprefix("[127.0.0.1]:").split(" ", 1)
                known.write_text(f"[127.0.0.1]:{by_target[int(port)].port} {key}")
            yield [Site(server=server, proxy=by_target[server.port]) for server in found]
        finally:
            token[0].run_sync_soon(over.set)
            thread.join()


def secrets_of(places: list[Site], path: Path) -> Path:
    """The secrets file for these hosts."""
    text = ""
    for site in places:
        if site.server.secrets:
            text += f'["{site.url}"]\n' + "".join(f'{k} = "{v}"\n' for k, v in site.server.secrets.items())
    path.write_text(text)
    path.chmod(0o600)
    return path


@dataclass(slots=True)
class Workload:
    """Seeded writing, renaming, deleting and reading; ``files`` is what must be there."""

    root: Path
    chance: random.Random
    files: dict[str, bytes] = field(default_factory=dict)
    operations: int = 0
    made: int = 0

    def step(self) -> None:
        """One operation, on the mount and in ``files``."""
        self.operations += 1
        deed = self.chance.random()
        if deed < 0.4 or len(self.files) < 5:
            self.made += 1
            self._write(f"f{self.made}", self.chance.randbytes(self.chance.choice((100, 9_000, 60_000, 400_000))))
            return
        name = self.chance.choice(sorted(self.files))
        if deed < 0.55:
            with (self.root / name).open("r+b") as file:
                data = bytearray(self.files[name])
                start = self.chance.randrange(len(data))
                piece = self.chance.randbytes(min(5_000, len(data) - start))
                file.seek(start)
                file.write(piece)
                data[start : start + len(piece)] = piece
                self.files[name] = bytes(data)
        elif deed < 0.65:
            self.made += 1
            (self.root / name).rename(self.root / f"f{self.made}")
            self.files[f"f{self.made}"] = self.files.pop(name)
        elif deed < 0.72:
            (self.root / name).unlink()
            del self.files[name]
        else:
            self.check(name)

    def _write(self, name: str, data: bytes) -> None:
        (self.root / name).write_bytes(data)
        self.files[name] = data

    def check(self, name: str) -> None:
        """Raises OSError as the mount does; AssertionError if it lies."""
        assert (self.root / name).read_bytes() == self.files[name], f"{name} is not what was written"

    def check_all(self) -> None:
        """Compare everything that must be there, and that nothing else is."""
        assert sorted(path.name for path in self.root.iterdir()) == sorted(self.files)
        for name in sorted(self.files):
            self.check(name)


def copy_of(faults: Faults) -> Faults:
    """One of its own for each proxy."""
    return replace(faults)
