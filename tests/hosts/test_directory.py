"""The directory host beyond the contract: roots that vanish, full disks, refusals, strange entries, cut-off writes."""

import errno
import os
from pathlib import Path

import pytest

from megafs.errors import HostFull, HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts import directory
from megafs.hosts.directory import MARKER, PARTIAL, DirectoryHost
from tests.contracts.host import NAME, OTHER, listed

FOLDER = NAME[-2:]


@pytest.fixture
async def disk(tmp_path):
    await DirectoryHost(tmp_path / "disk", label="disk").prepare()
    return tmp_path / "disk"


@pytest.fixture
def host(disk):
    return DirectoryHost(disk, label="disk")


async def every_request_raises(host, kind) -> None:
    for request in (host.put(NAME, b"x"), host.get(NAME), host.head(NAME), host.delete(NAME), host.usage()):
        with pytest.raises(kind) as raised:
            await request
        assert str(raised.value).startswith("disk: ")
    with pytest.raises(kind):
        await listed(host)


async def test_a_root_that_vanished_is_unreachable_and_not_made_again(host, disk) -> None:
    disk.rename(disk.with_name("elsewhere"))
    await every_request_raises(host, HostUnreachable)
    assert not disk.exists()


async def test_an_empty_mount_point_is_not_the_disk(host, disk) -> None:
    await host.put(NAME, b"x")
    disk.rename(disk.with_name("unmounted"))
    disk.mkdir()
    await every_request_raises(host, HostUnreachable)
    assert list(disk.iterdir()) == []
    disk.rmdir()
    disk.with_name("unmounted").rename(disk)
    assert await host.get(NAME) == b"x"


async def test_a_root_that_is_a_file_is_unreachable(host, disk) -> None:
    disk.rename(disk.with_name("elsewhere"))
    disk.write_bytes(b"")
    await every_request_raises(host, HostUnreachable)


async def test_prepare_makes_the_last_folder_but_not_the_way_to_it(tmp_path) -> None:
    with pytest.raises(HostUnreachable, match="no is not there, and only the last one of a path is made"):
        await DirectoryHost(tmp_path / "no" / "such", label="disk").prepare()
    assert not (tmp_path / "no").exists()
    await DirectoryHost(tmp_path / "new", label="disk").prepare()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, HostFull),
        (errno.EDQUOT, HostFull),
        (errno.EACCES, HostRefused),
        (errno.EROFS, HostRefused),
        (errno.EIO, HostUnreachable),
        (errno.ESTALE, HostUnreachable),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
async def test_a_put_that_fails_says_why_and_leaves_nothing(host, disk, monkeypatch, code, kind, call) -> None:
    await host.put(OTHER, b"stays")

    def fails(*_args: object, **_names: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:  # a disk that is full or broken cannot be had otherwise without root
        patched.setattr(directory.os, call, fails)
        with pytest.raises(kind):
            await host.put(NAME, b"x" * 1000)
    files = {path.name for path in disk.rglob("*") if path.is_file()}
    assert files == {MARKER, OTHER}


async def test_a_write_cut_short_by_a_signal_is_continued(host, monkeypatch) -> None:
    write = os.write
    monkeypatch.setattr(directory.os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    await host.put(NAME, bytes(range(100)))
    assert await host.get(NAME) == bytes(range(100))


async def test_the_object_is_synced_before_it_has_its_name_and_the_folder_after(host, monkeypatch) -> None:
    await host.put(NAME, b"the folder exists")
    order: list[str] = []
    for call in ("write", "fsync", "rename"):
        real = getattr(os, call)

        def noted(*args, real=real, call=call, **names):
            order.append(call)
            return real(*args, **names)

        monkeypatch.setattr(directory.os, call, noted)
    await host.put(NAME, b"x")
    assert order == ["write", "fsync", "rename", "fsync"]


async def test_what_is_no_plain_file_is_no_object(host, disk, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"not the host's")
    (disk / FOLDER).mkdir()
    for make in (
        lambda path: path.symlink_to(secret),
        os.mkfifo,
        Path.mkdir,
        lambda path: path.hardlink_to(secret) or os.truncate(path, 1 << 40),
    ):
        path = disk / FOLDER / NAME
        make(path)
        with pytest.raises(ObjectMissing):
            await host.get(NAME)
        with pytest.raises(ObjectMissing):
            await host.head(NAME)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


async def test_a_link_in_place_of_a_folder_is_not_followed(host, disk, tmp_path) -> None:
    (tmp_path / "outside").mkdir()
    (disk / FOLDER).symlink_to(tmp_path / "outside")
    with pytest.raises(HostUnreachable):
        await host.put(NAME, b"x")
    assert list((tmp_path / "outside").iterdir()) == []
    assert await listed(host) == {}


async def test_list_counts_objects_only_and_clears_what_a_crash_left(disk) -> None:
    now = [1e9]
    host = DirectoryHost(disk, label="disk", clock=lambda: now[0])
    await host.put(NAME, b"x")
    left = disk / FOLDER / f"{PARTIAL}0011"
    left.write_bytes(b"half")
    (disk / FOLDER / "Notes.txt").write_bytes(b"")
    (disk / FOLDER / OTHER[:-1]).write_bytes(b"wrong folder")
    (disk / "lost+found").mkdir()
    now[0] = left.stat().st_mtime + 60
    assert await listed(host) == {NAME: 1}
    assert left.exists()
    now[0] += 2 * 86_400
    assert await listed(host) == {NAME: 1}
    assert not left.exists()
    assert (disk / FOLDER / "Notes.txt").exists()


async def test_put_heals_a_damaged_object(host, disk) -> None:
    await host.put(NAME, b"right")
    (disk / FOLDER / NAME).write_bytes(b"wrong")
    await host.put(NAME, b"right")
    assert await host.get(NAME) == b"right"


async def test_usage_is_what_the_file_system_says(host) -> None:
    usage = await host.usage()
    assert usage.free_bytes is not None
    assert usage.free_bytes > 0
