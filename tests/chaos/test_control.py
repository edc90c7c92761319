"""Would the comparison that chaos rests on notice a lie? One host changes bytes in silence: the drive finds it out and
reads elsewhere; a drive that believes every host does not, and then the comparison does."""

import random

import pytest

from megafs.errors import Unauthentic
from megafs.model import Policy
from tests.chaos.weather import Workload
from tests.security.rig import Rig

HEADER_BYTES = 56


class Believing:
    """A keyring that takes what does not open for what it should be."""

    def __init__(self, keyring):
        self._keyring = keyring
        self.believed = 0

    def open_chunk(self, epoch, place, sealed):
        try:
            return self._keyring.open_chunk(epoch, place, sealed)
        except Unauthentic:
            self.believed += 1
            return bytes(sealed[HEADER_BYTES : HEADER_BYTES + place.plain_bytes])


def one_bit_over(name, data):
    """In the middle of what a host serves: the size is right."""
    if data is None:
        return None
    changed = bytearray(data)
    for at in range(HEADER_BYTES, len(data), 4096):
        changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("is_checked", [True, False])
async def test_silent_damage_by_one_host_is_noticed(tmp_path, caplog, is_checked):
    rig = Rig(tmp_path, hosts=3, policy=Policy(copies=2))
    chance = random.Random(7)
    files = {f"f{n}": chance.randbytes(chance.choice((9_000, 60_000, 400_000))) for n in range(12)}
    copied = tmp_path / "copied"
    copied.mkdir()
    async with rig.running() as drive:
        inodes = {name: await drive.write(name.encode(), data) for name, data in files.items()}
        await drive.sync()
        engine = drive.engine
        (pack,) = engine.packs.all()
        having = {host for host, _, _ in engine.packs.copies(pack.number)}
        liar = next(host for host in engine.fetcher.ranked() if host in having)
        rig.puppets[liar].deed = one_bit_over
        for number, _, _, _ in engine.packs.locals():
            engine.packs.delete_local(number)
            engine.disk.unlink(number)
        engine.reader.cache.clear()
        believing = Believing(engine.reader.keyring)
        if not is_checked:
            engine.reader.keyring = believing
        for name, ino in inodes.items():
            (copied / name).write_bytes(await drive.read(ino))
    work = Workload(copied, chance, files)
    if is_checked:
        work.check_all()
        assert engine.fetcher.wrong.keys() == {liar}
    else:
        with pytest.raises(AssertionError, match="is not what was written"):
            work.check_all()
        assert believing.believed
