"""The contract on hosts that need no server: memory, folder, wrappers."""

import pytest

from megafs.hosts import stacked
from megafs.hosts.directory import DirectoryHost
from megafs.hosts.measured import Measured
from megafs.hosts.pace import TokenBucket
from megafs.hosts.wrappers import Limited, Retrying, Timed, Wrapped
from tests.contracts.host import HostContract
from tests.support.hosts import CountingHost, FlakyHost, MemoryHost


class TestMemoryHost(HostContract):
    @pytest.fixture
    def host(self):
        return MemoryHost()


class TestDirectoryHost(HostContract):
    @pytest.fixture
    async def host(self, tmp_path):
        host = DirectoryHost(tmp_path / "disk", label="disk")
        await host.prepare()
        return host


class TestWrappedHosts(HostContract):
    @pytest.fixture(params=["plain", "timed", "limited", "measured", "retrying", "counting", "stack", "stack on disk"])
    async def host(self, request, tmp_path):
        inner = MemoryHost() if request.param != "stack on disk" else DirectoryHost(tmp_path / "disk", label="disk")
        await inner.prepare()
        match request.param:
            case "plain":
                return Wrapped(inner)
            case "timed":
                return Timed(inner, label="m", reply_s=60)
            case "limited":
                return Limited(inner, connections=2, up=TokenBucket(1e10), down=TokenBucket(1e10))
            case "measured":
                return Measured(inner, label="m")
            case "retrying":
                return Retrying(FlakyHost(inner, share=0.4), patience_s=60, first_s=1e-4, most_s=1e-3)
            case "counting":
                return CountingHost(inner)
            case _:
                return stacked(inner, label="m", reply_s=60, patience_s=60).patient
