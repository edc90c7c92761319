"""Every sector that was ever written while files full of canaries came and went: what any power cut could leave (A40).

The state directory is on a file system whose disk remembers all writes (tests.mounted.blocklog), so the scan sees more
than each single cut: also what was overwritten, truncated and deleted later.
"""

from contextlib import ExitStack

import pytest

from tests.mounted.test_powercut import loop_mounted, remembering, run
from tests.security.canary import Scan
from tests.security.planted import keys_of, plant

pytestmark = [pytest.mark.mounted, pytest.mark.needs_root, pytest.mark.crash]
DISK_BYTES = 160 << 20
LEAST_BYTES = 1 << 20


def test_nothing_that_ever_reached_the_disk_shows_anything(guarded):
    """A40."""
    base = guarded.base
    image, log, disk = base / "image", base / "written", base / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", str(image))
    with ExitStack() as stack:
        logged = stack.enter_context(remembering(image, log, base / "device"))
        stack.enter_context(loop_mounted(logged, disk, "--direct-io=on"))
        stack.callback(guarded.abandon)
        run("cp", "-a", str(guarded.state), str(disk / "state"))
        guarded.state = disk / "state"
        guarded.mount()
        told = plant(guarded.mountpoint)
        guarded.megafs("sync", guarded.name, "--local", "--state-dir", str(guarded.state))
        guarded.kill()
        guarded.mount()
        guarded.unmount("--wait")
        slot = (guarded.state / guarded.name / "slot").read_bytes()
        run("sync", "-f", str(disk))
        (disk / "control").write_bytes(told["raw"])
    keys = keys_of(guarded.phrase, slot, guarded.recovery_key.read_text())
    data = log.read_bytes()
    assert len(data) > LEAST_BYTES
    assert slot[:8] in data, "it is this disk's log"
    canaries = {label: secret for label, secret in told.items() if label != "raw"}
    assert not Scan({**canaries, **keys, "passphrase": guarded.phrase.encode()}).bytes(data, "log")
    assert Scan(told).bytes(data, "log"), "the control: a file beside the vault is found"
