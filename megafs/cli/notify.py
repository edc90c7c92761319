"""Tell systemd how the service is: the sd_notify protocol is one datagram of ``KEY=VALUE`` lines."""

import os
import socket
from collections.abc import Mapping


def notify(environment: Mapping[str, str], **fields: str | int) -> bool:
    """Send ``fields``; whether somebody listens. systemd says where in NOTIFY_SOCKET; ``@`` begins an abstract name."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    text = "\n".join(f"{name}={value}" for name, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:  # a socket that is gone must not stop a mount
            return False
    return True


def under_systemd(environment: Mapping[str, str]) -> bool:
    """Whether our stderr goes to the journal."""
    try:
        device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
        where = os.fstat(2)
        return (where.st_dev, where.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False
