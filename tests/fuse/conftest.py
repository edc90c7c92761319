import pytest

from tests.fuse.rig import Mount


@pytest.fixture
def mount(tmp_path):
    mount = Mount(tmp_path)
    yield mount
    mount.database.close()
