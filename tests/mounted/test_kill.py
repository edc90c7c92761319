"""``kill -9`` of the daemon at random moments under writers: every promise holds after mounting again, in every round.

In a third of the rounds one host is away meanwhile; that alarms nobody. Now and then the machine is lost as well:
another one attaches from two of the hosts alone, holds everything, and goes on. A few rounds; a hundred under the
marker ``crash``; ``--rounds N`` for as many.
"""

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mounted.both import tally
from tests.mounted.promises import Promises, Writer, start
from tests.mounted.vault import HOSTS, PHRASE, Vault, mounted
from tests.support.slots import lighten

ROUNDS = 3
MANY_ROUNDS = 100
ROUNDS_OF_A_MACHINE = 10
WRITERS = 2
SETTLED_S = 3.0  # "the commit interval (1 s) plus one commit", on a busy machine


def one_round(
    place: Path, manifests: Path, number: int, lots: random.Random, vault: Vault | None
) -> dict[str, Promises]:
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
    time.sleep(lots.choice((0.1, 0.3, 0.8, 1.5, 4.0)) * lots.uniform(0.5, 1.0))  # real writers need real time
    killed = time.monotonic()
    if vault is not None:
        vault.kill()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert statuses == [0] * WRITERS
    if vault is not None:
        vault.mount()
    old = killed - SETTLED_S
    return {name: Promises.read(manifests / name, closed_before=old, handed_before=old) for name in names}


@contextmanager
def away(folder: Path, is_away: bool) -> Iterator[None]:
    """A host that does not answer while the body runs."""
    there = folder.with_name(f"{folder.name}-away")
    if is_away:
        folder.rename(there)
    yield
    if is_away:
        there.rename(folder)


def survive(rounds: int, base: Path, vault: Vault | None, lots: random.Random) -> None:
    """So many rounds; all that was ever promised is looked at again on each new machine and at the end."""
    manifests = base / "manifests"
    manifests.mkdir()
    kept: dict[str, Promises] = {}
    with ExitStack() as machines:
        for number in range(rounds):
            place = vault.mountpoint if vault is not None else base
            folder = vault.host(lots.randrange(HOSTS)) if vault is not None else manifests
            with away(folder, vault is not None and lots.random() < 1 / 3):
                newest = one_round(place, manifests, number, lots, vault)
                hold(newest, place, f"round {number}")
            kept |= newest
            assert vault is None or not vault.new_complaints(), f"round {number}"
            if vault is not None and (number % ROUNDS_OF_A_MACHINE == ROUNDS_OF_A_MACHINE - 1 or number == rounds - 1):
                vault = another_machine(vault, str(base / f"machine{number}"))
                machines.callback(vault.abandon)
                vault.mount()
                hold(kept, vault.mountpoint, f"after round {number}, on another machine")
                print(f"{number + 1} kills, {sum(promises.count for promises in kept.values())} promises", flush=True)
        hold(kept, base if vault is None else vault.mountpoint, "in the end")
        if vault is not None:
            vault.unmount()
            assert not vault.new_complaints()
    count = sum(promises.count for promises in kept.values())
    assert count > rounds, "hardly anything was promised"
    tally.promises += count
    tally.rounds += rounds


def hold(kept: dict[str, Promises], place: Path, when: str) -> None:
    """Nothing of this is broken below ``place``."""
    wrong = [sentence for name, promises in kept.items() for sentence in promises.broken(place / name)]
    assert not wrong, f"{when}: " + "; ".join(wrong)


def another_machine(vault: Vault, place: str) -> Vault:
    """One that has nothing but the words and two of the three hosts; the former one is gone."""
    vault.megafs("sync", vault.name, *vault.unlocking[:2])
    vault.unmount()
    there = vault.attach(place, hosts=(0, 2))
    lighten(there.state / there.name / "slot", PHRASE)
    return there


@contextmanager
def mortal(base: Path, stand_in: bool) -> Iterator[Vault | None]:
    """A vault that may be killed; none when the suite checks itself."""
    base.mkdir()
    if stand_in:
        yield None
        return
    with mounted(base) as vault:
        yield vault


def test_promises_survive_kills(scratch: Path, stand_in: bool) -> None:
    base = scratch / f"kill{time.monotonic_ns()}"
    with mortal(base, stand_in) as vault:
        survive(ROUNDS, base, vault, random.Random())


@pytest.mark.crash
def test_promises_survive_many_kills(rounds: int, seed: int, scratch: Path, stand_in: bool) -> None:
    base = scratch / f"kill{time.monotonic_ns()}"
    with mortal(base, stand_in) as vault:
        survive(rounds or MANY_ROUNDS, base, vault, random.Random(seed))


def test_losses_are_noticed(scratch: Path) -> None:
    """The negative control: each kind of promise, broken by hand, is reported; untouched, none is."""
    base = scratch / f"control{time.monotonic_ns()}"
    base.mkdir()
    place, manifest = base / "place", base / "manifest"
    Writer(place=place, manifest=manifest, seed=5, position=lambda: 0, limit_s=1.0).run()
    promises = Promises.read(manifest, closed_before=time.monotonic(), handed_before=time.monotonic())
    assert not promises.broken(place)
    for name in ("saved0", "hasty0", "handed0", "appended", "blocks", "marked"):
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
