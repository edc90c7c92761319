"""The probe: what it finds on a good host, and that it finds what is wrong with a bad one."""

import pytest

from megafs.errors import HostFull, HostRefused, ObjectMissing
from megafs.hosts.probe import PROBE_BYTES, probe
from megafs.hosts.wrappers import Wrapped
from tests.support.hosts import Evil, EvilHost, MemoryHost, SlowHost


class AppendOnly(Wrapped):
    """Refuses to delete and to list."""

    async def delete(self, name):
        raise HostRefused("append-only")

    async def list(self):
        raise HostRefused("append-only")
        yield


async def test_a_good_host_is_measured_and_left_clean(autojump_clock) -> None:
    memory = MemoryHost(space_bytes=2 * PROBE_BYTES)
    await memory.put("abc", b"ours")
    found = await probe(SlowHost(memory, latency_s=0.1, bytes_s=PROBE_BYTES))
    assert found.latency_s == pytest.approx(0.1)
    assert found.upload_bytes_s == pytest.approx(PROBE_BYTES / 1.1)
    assert found.download_bytes_s == pytest.approx(PROBE_BYTES / 1.1)
    assert found.can_delete
    assert found.can_list
    assert found.usage.free_bytes == 2 * PROBE_BYTES - 4
    assert set(memory.objects) == {"abc"}


async def test_append_only_credentials_are_recognised() -> None:
    found = await probe(AppendOnly(MemoryHost()))
    assert not found.can_delete
    assert not found.can_list


@pytest.mark.parametrize("deed", [Evil.MUTATE, Evil.TRUNCATE, Evil.EXTEND, Evil.ZERO, Evil.OLD])
async def test_a_host_that_gives_back_other_bytes_is_refused(deed) -> None:
    memory = MemoryHost()
    evil = EvilHost(memory)
    evil.everything = deed
    with pytest.raises(HostRefused):
        await probe(evil)
    assert memory.objects == {}


async def test_a_host_that_forgets_or_is_full_is_told() -> None:
    evil = EvilHost(MemoryHost())
    evil.everything = Evil.WITHHOLD
    with pytest.raises(ObjectMissing):
        await probe(evil)
    with pytest.raises(HostFull):
        await probe(MemoryHost(space_bytes=10))
