"""The rig: what a daemon complains about in its log is seen, and what is expected is not."""

from tests.daemon.drive import Drive

LINES = [
    "2026-01-01 00:00:00,000 INFO megafs.daemon.run: WARNING is only a word here",
    "2026-01-01 00:00:00,000 WARNING megafs.sync.ship: shipping pauses",
    "2026-01-01 00:00:00,000 ERROR megafs.fuse.operations: bug in read",
    "Traceback (most recent call last):",
]


def test_what_is_seen_and_what_is_expected(tmp_path):
    drive = Drive(tmp_path, [])
    log = drive.state / "v" / "log"
    log.mkdir(parents=True)
    assert drive.complaints() == []
    (log / "megafs.log").write_text("\n".join(LINES[:2]) + "\n")
    (log / "megafs.log.1").write_text(LINES[2] + "\n")
    (log / "died").write_text(LINES[3] + "\n")
    assert sorted(drive.complaints()) == sorted(LINES[1:])
    drive.expect("shipping pauses", "bug in", "Traceback")
    assert drive.complaints() == []
