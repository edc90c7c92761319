"""What placement is told about hosts: a limit of the owner counts what we put there, whole or in shards."""

from os import urandom

import pytest

from megafs.config import MIB
from megafs.daemon.engine import Space
from megafs.index.care import Care
from megafs.index.database import Database
from megafs.index.packs import Packs
from megafs.index.vault import Vault
from megafs.model import WHOLE, HostId, HostSpec, PackId, Policy, shard_of
from megafs.placement import choose, obstacle
from tests.support.keys import raw

LIMITED, FREE = (HostId(bytes([number]) * 16) for number in (1, 2))


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "index.db", raw(bytes(32)), create=True)
    database.adopt(1)
    yield database
    database.close()


def test_a_limit_is_honoured_by_what_lies_there(database):
    vault, packs = Vault(database), Packs(database)
    vault.put_host(HostSpec(id=LIMITED, url="file:///a", label="a", limit_bytes=40 * MIB))
    vault.put_host(HostSpec(id=FREE, url="file:///b", label="b"))
    space, policy = Space(vault, {}, packs, Care(database.connection)), Policy(copies=1)

    def said():
        return {state.spec.label: obstacle(state, policy).replace("unreachable", "") for state in space.states()}

    assert said() == {"a": "", "b": ""}
    for _ in range(2):
        number = packs.open(PackId(urandom(16)), 1)
        packs.close(number, 16 * MIB, bytes(32))
        packs.add_copy(number, LIMITED, WHOLE, bytes(32))
    assert said() == {"a": "full", "b": ""}
    assert choose(space.states(), policy, PackId(bytes(16))) == [FREE]

    packs.delete_copy(number, LIMITED, WHOLE)
    packs.add_copy(number, LIMITED, shard_of(4, 0), bytes(32))
    space.recount()
    assert [state.used_bytes for state in space.states()] == [16 * MIB + 4 * MIB + 80, 0]
    assert said() == {"a": "", "b": ""}
