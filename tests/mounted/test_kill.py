"""``kill -9`` of the daemon at random moments under writers: every promise holds after mounting again, in every round.

A few rounds; ``--rounds N`` for more. Then the same tree from the hosts alone, on another state directory.
"""

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.both import tally
from tests.mounted.promises import Promises, Writer, start
from tests.mounted.vault import Vault, mounted

ROUNDS = 3
WRITERS = 2
SETTLED_S = 3.0  # "the commit interval (1 s) plus one commit", on a busy machine


@pytest.fixture
def own_vault(scratch: Path, stand_in: bool) -> Iterator[Vault | None]:
    """A vault that may be killed; none when the suite checks itself."""
    base = scratch / f"kill{time.monotonic_ns()}"
    base.mkdir()
    if stand_in:
        yield None
        return
    with mounted(base) as vault:
        yield vault
        assert not vault.new_complaints()


def one_round(
    place: Path, manifests: Path, number: int, lots: random.Random, vault: Vault | None
) -> dict[Path, Promises]:
    """Writers, a kill, a mount; returns what must hold in which directory."""
    names = [f"round{number}-{writer}" for writer in range(WRITERS)]
    pids = [
        start(
            Writer(
                place=place / name,
                manifest=manifests / name,
                seed=lots.randrange(1 << 30),
                position=lambda: 0,
                limit_s=6.0,
            )
        )
        for name in names
    ]
    time.sleep(lots.choice((0.1, 0.5, 1.5, 4.0)) * lots.uniform(0.5, 1.0))  # real writers need real time
    killed = time.monotonic()
    if vault is not None:
        vault.kill()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert statuses == [0] * WRITERS
    if vault is not None:
        vault.mount()
    return {place / name: Promises.read(manifests / name, closed_before=killed - SETTLED_S) for name in names}


def test_promises_survive_kills(request: pytest.FixtureRequest, own_vault: Vault | None, scratch: Path) -> None:
    rounds = request.config.getoption("--rounds", default=0) or ROUNDS
    base = scratch / f"promises{time.monotonic_ns()}"
    manifests = base / "manifests"
    manifests.mkdir(parents=True)
    place = own_vault.mountpoint if own_vault is not None else base
    lots = random.Random(rounds)
    kept: dict[Path, Promises] = {}
    for number in range(rounds):
        kept |= one_round(place, manifests, number, lots, own_vault)
        newest = list(kept.items())[-2 * WRITERS :]
        wrong = [sentence for where, promises in newest for sentence in promises.broken(where)]
        assert not wrong, f"round {number}: " + "; ".join(wrong)
        assert sum(promises.count for _, promises in newest), "nothing was promised"
    wrong = [sentence for where, promises in kept.items() for sentence in promises.broken(where)]
    assert not wrong, "; ".join(wrong)
    tally.promises += sum(promises.count for promises in kept.values())
    tally.rounds += rounds
    if own_vault is not None:
        from_the_hosts(own_vault, kept)


def from_the_hosts(vault: Vault, kept: dict[Path, Promises]) -> None:
    """Everything promised is there as well on a machine that has nothing but two of the three hosts."""
    vault.megafs("sync", vault.name, *vault.unlocking[:2])
    vault.unmount()
    other = vault.attach("elsewhere", hosts=(0, 2))
    try:
        other.mount()
        wrong = [
            sentence for where, promises in kept.items() for sentence in promises.broken(other.mountpoint / where.name)
        ]
        assert not wrong, "from the hosts: " + "; ".join(wrong)
        other.unmount()
    finally:
        other.abandon()


def test_losses_are_noticed(scratch: Path) -> None:
    """The negative control: each kind of promise, broken by hand, is reported; untouched, none is."""
    base = scratch / f"control{time.monotonic_ns()}"
    base.mkdir()
    place, manifest = base / "place", base / "manifest"
    Writer(place=place, manifest=manifest, seed=5, position=lambda: 0, limit_s=1.0).run()
    promises = Promises.read(manifest, closed_before=time.monotonic())
    assert not promises.broken(place)
    for name in ("saved0", "hasty0", "appended", "blocks", "marked"):
        path = place / name
        copy = base / "copy"
        shutil.copy2(path, copy)
        for harm in (os.unlink, lambda path: os.truncate(path, path.stat().st_size // 2), spoil):
            if name == "marked" and harm is not os.unlink:
                continue
            harm(path)
            assert any(name.rstrip("0s") in sentence for sentence in promises.broken(place)), (name, harm)
            shutil.copy2(copy, path)
        assert not promises.broken(place)
    os.setxattr(place / "marked", "user.version", b"0")
    assert promises.broken(place)


def spoil(path: Path) -> None:
    """Change one byte in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes((byte[0] ^ 1,)))
