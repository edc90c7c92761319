"""The vault's objects on its hosts: names derived, errors of one host kept from the others, damage noted.

(host, kind, ident) in, requests to the Host behind it. Asks many hosts at once where that helps. Never decides what to
put or delete, and opens nothing: what an answer means is for the caller, who hands in how to read it.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

from megafs.crypto.keys import Keyring
from megafs.errors import Corrupt, HostError, HostUnreachable, ObjectMissing, Unauthentic, Unavailable
from megafs.hosts.protocol import Host
from megafs.model import Bytes, HostId, Kind

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something that a host should have and answered wrongly or not at all."""

    host: HostId
    kind: Kind
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers(Generic[Answer]):
    """What hosts said, and why others said nothing."""

    said: Mapping[HostId, Answer]
    failed: Mapping[HostId, HostError] = field(default_factory=dict)


class Objects:
    """Owner of nothing but the list of damage; ``hosts`` may change while this is in use."""

    def __init__(self, keyring: Keyring, hosts: Mapping[HostId, Host]) -> None:
        self.keyring = keyring
        self.hosts = dict(hosts)
        self.damages: list[Damage] = []

    def name(self, host: HostId, kind: Kind, ident: bytes) -> str:
        return self.keyring.object_name(host, kind, ident)

    def _host(self, host: HostId) -> Host:
        found = self.hosts.get(host)
        if found is None:
            raise HostUnreachable("the host was removed from the vault")
        return found

    async def put(self, host: HostId, kind: Kind, ident: bytes, data: Bytes) -> None:
        await self._host(host).put(self.name(host, kind, ident), data)

    async def get(self, host: HostId, kind: Kind, ident: bytes) -> bytes:
        return await self._host(host).get(self.name(host, kind, ident))

    async def delete(self, host: HostId, kind: Kind, ident: bytes) -> None:
        await self._host(host).delete(self.name(host, kind, ident))

    async def has(self, host: HostId, kind: Kind, ident: bytes) -> bool:
        """Raises HostError if the host does not answer."""
        try:
            await self._host(host).head(self.name(host, kind, ident))
        except ObjectMissing:
            return False
        return True

    async def everywhere(
        self, ask: Callable[[HostId], Awaitable[Answer]], among: Iterable[HostId] | None = None
    ) -> Answers[Answer]:
        """Ask all hosts (or those ``among`` them) at once; one that fails does not disturb the others."""
        said: dict[HostId, Answer] = {}
        failed: dict[HostId, HostError] = {}

        async def one(host: HostId) -> None:
            try:
                said[host] = await ask(host)
            except HostError as error:
                failed[host] = error

        async with trio.open_nursery() as nursery:
            for host in list(self.hosts) if among is None else among:
                nursery.start_soon(one, host)
        return Answers(said=said, failed=failed)

    async def exists(self, kind: Kind, ident: bytes) -> bool:
        """Whether any host has it. Raises Unavailable if none answers."""
        answers = await self.everywhere(lambda host: self.has(host, kind, ident))
        if not answers.said:
            raise Unavailable("no host answers")
        return any(answers.said.values())

    async def proven(self, kind: Kind, ident: bytes, understand: Callable[[bytes], object]) -> bool:
        """Whether any host has it and shows it, so that ``understand`` takes it: a host that says yes to everything, or
        shows what a revoked device made for it, would lead a search astray for ever.
        Raises Unavailable if none answers, or if one that may have it stops answering."""
        answers = await self.everywhere(lambda host: self.has(host, kind, ident))
        if not answers.said:
            raise Unavailable("no host answers")
        broken: HostError | None = None
        for host in (host for host, has in answers.said.items() if has):
            try:
                understand(await self.get(host, kind, ident))
            except (Corrupt, Unauthentic) as error:
                self.damages.append(Damage(host=host, kind=kind, what=str(error)))
            except ObjectMissing:
                self.damages.append(Damage(host=host, kind=kind, what="said to be there and missing"))
            except HostError as error:
                broken = error
            else:
                return True
        if broken is not None:
            raise Unavailable(f"whether there is a newer {kind.value} stays unknown: {broken}") from broken
        return False

    async def read(self, kind: Kind, ident: bytes, understand: Callable[[bytes], Answer]) -> Answer:
        """What ``understand`` makes of the first good answer; hosts are asked one after another. A host that has the
        object damaged is noted. Raises ObjectMissing if all hosts say so, else Unavailable."""
        missing: list[HostId] = []
        silent = False
        for host in list(self.hosts):
            try:
                answer = understand(await self.get(host, kind, ident))
            except ObjectMissing:
                missing.append(host)
            except (Corrupt, Unauthentic) as error:
                self.damages.append(Damage(host=host, kind=kind, what=str(error)))
                silent = True
            except HostError:
                silent = True
            else:
                self.damages += [Damage(host=lacking, kind=kind, what="missing") for lacking in missing]
                return answer
        if silent or not missing:
            raise Unavailable(f"no host that answers has a good {kind.value}")
        raise ObjectMissing(f"no host has this {kind.value}")
