"""Alarms in words: who, which numbers and hashes, what to do. Pure."""

import time
from collections.abc import Mapping

from megafs.model import Alarm, AlarmKind, HostId

HASH_DIGITS = 16  # of 64: two that agree in these are the same commit for everybody but a poet


def sentence(alarm: Alarm, labels: Mapping[HostId, str]) -> str:
    """What happened and what to do about it, for the owner."""
    host = labels.get(HostId(alarm.host), alarm.host.hex()[:8])
    known, shown = commit(alarm.known_seq, alarm.known_hash), commit(alarm.shown_seq, alarm.shown_hash)
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(alarm.since_s))
    match alarm.kind:
        case AlarmKind.BEHIND:
            return (
                f"host {host} shows {shown} of device {alarm.device} as its newest and had confirmed {known}: it has "
                "lost data or serves an old copy. What it lacks is put there again; if it happens once more, let "
                f"another host take its place (megafs hosts NAME drain {host})"
            )
        case AlarmKind.FORK:
            where = f"host {host} shows" if alarm.host else "another device has seen"
            return (
                f"two histories: {where} {shown} of device {alarm.device}, this device knows {known}. A copy of a "
                "state directory was mounted somewhere, or the host keeps two worlds apart. Find out which one is "
                "right (megafs status NAME --phrase on each device) and save what only the other has; then bring the "
                "wrong device back with megafs attach --repair, and let another host take the place of one that has "
                "the wrong history (megafs hosts NAME drain LABEL)"
            )
        case AlarmKind.STALE if alarm.host:
            return (
                f"host {host} has not answered since {since}; {known} of device {alarm.device} is the newest that it "
                f"is known to have. See megafs hosts NAME test {host}, or let another take its place"
            )
        case AlarmKind.STALE:
            return (
                f"device {alarm.device} was last seen at {known}, {since}: it is off, or the hosts withhold what it "
                "wrote since. Compare megafs status NAME --phrase there with the same here"
            )
        case AlarmKind.OWN_STATE:
            return (
                f"the state of this device stood at {known}, others have seen {shown} of it: an older copy of the "
                "state directory was put back here. If you did not do that, somebody else was at this disk"
            )


def commit(seq: int, digest: bytes) -> str:
    """``commit 12 (hash 0a1b…)``."""
    return f"commit {seq} (hash {digest.hex()[:HASH_DIGITS]}…)" if seq else "no commit"
