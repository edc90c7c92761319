"""2+2 on four folders, by the command line: what the loss of one, two and three of them means."""

import errno
import random
import shutil

import pytest

pytestmark = pytest.mark.mounted
CONTENT = {
    f"file {number}": random.Random(number).randbytes(size) for number, size in enumerate((0, 100, 70_000, 3 << 20))
}


def test_any_two_of_four_suffice_and_three_losses_are_told(drives, folders):
    urls = [folder.as_uri() for folder in folders]
    drive = drives("first", urls)
    drive.create("--shards", "2+2")
    drive.mount()
    for name, content in CONTENT.items():
        (drive.mountpoint / name).write_bytes(content)
    drive.sync()
    assert "2+2 shards" in drive.run("status", "v").stdout
    stored = [host["stored_bytes"] for host in drive.told("hosts", "v")]
    total = sum(map(len, CONTENT.values()))
    assert all(total / 2 <= size < total for size in stored), stored
    drive.unmount()

    for gone in (1, 2):
        shutil.rmtree(folders[gone - 1])
        drive.forget_cache()
        drive.mount()
        for name, content in CONTENT.items():
            assert (drive.mountpoint / name).read_bytes() == content
        drive.unmount()
    other = drives("second", urls)
    other.expect("read: too few hosts answer with the right bytes")
    other.attach(drive.words, urls=urls[2:])
    other.mount()
    for name, content in CONTENT.items():
        assert (other.mountpoint / name).read_bytes() == content
    other.unmount()

    aside = folders[2].with_name("aside")
    folders[2].rename(aside)
    other.forget_cache()
    other.mount("--read-only")
    with pytest.raises(OSError, match="rror") as caught:
        (other.mountpoint / "file 3").read_bytes()
    assert caught.value.errno == errno.EIO
    assert len(list(other.mountpoint.iterdir())) == len(CONTENT), "the listing does not need hosts"
    other.unmount()
    aside.rename(folders[2])  # nothing was made worse meanwhile
    other.mount()
    for name, content in CONTENT.items():
        assert (other.mountpoint / name).read_bytes() == content
    other.unmount()
