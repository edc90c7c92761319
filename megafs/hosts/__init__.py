"""Hosts: from a URL and its secrets to a ready Host. One row per kind.

The kinds' modules are imported when first opened: asyncssh, httpx and opendal take a good part of a second, which every
command would pay.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from megafs.hosts.directory import DirectoryHost
from megafs.hosts.measured import Measured
from megafs.hosts.pace import TokenBucket
from megafs.hosts.protocol import Host
from megafs.hosts.url import HostUrl, checked_secrets, checked_url, display_url
from megafs.hosts.wrappers import Limited, Retrying, Timed

__all__ = ["KINDS", "Host", "HostSecrets", "HostUrl", "Stack", "checked_url", "display_url", "open_host", "stacked"]

HostSecrets = Mapping[str, str]
Secrets = HostSecrets


def _directory(url: HostUrl, secrets: Secrets, label: str) -> Host:
    return DirectoryHost(Path("/", *url.folders), label=label)


def _s3(url: HostUrl, secrets: Secrets, label: str) -> Host:
    from megafs.hosts.s3 import S3Host

    return S3Host(url, secrets, label=label)


def _gs(url: HostUrl, secrets: Secrets, label: str) -> Host:
    from megafs.hosts.objectstore import gs_host

    return gs_host(url, secrets, label)


def _azblob(url: HostUrl, secrets: Secrets, label: str) -> Host:
    from megafs.hosts.objectstore import azblob_host

    return azblob_host(url, secrets, label)


def _b2(url: HostUrl, secrets: Secrets, label: str) -> Host:
    from megafs.hosts.objectstore import b2_host

    return b2_host(url, secrets, label)


def _webdav(url: HostUrl, secrets: Secrets, label: str) -> Host:
    from megafs.hosts.webdav import WebdavHost

    return WebdavHost(url, secrets, label=label)


def _sftp(url: HostUrl, secrets: Secrets, label: str) -> Host:
    from megafs.hosts.sftp import SftpHost

    return SftpHost(url, secrets, label=label)


KINDS: Mapping[str, Callable[[HostUrl, Secrets, str], Host]] = {
    "file": _directory,
    "s3": _s3,
    "webdav": _webdav,
    "webdavs": _webdav,
    "sftp": _sftp,
    "gs": _gs,
    "azblob": _azblob,
    "b2": _b2,
}


def open_host(url: str, *, secrets: Secrets, label: str = "") -> Host:
    """The bare host behind a URL; no request is sent yet. Raises Usage. Messages begin with the label, else the URL."""
    checked = checked_url(url)
    checked_secrets(checked, secrets)
    return KINDS[checked.kind](checked, secrets, label or checked.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One host as the daemon uses it."""

    label: str
    patient: Host  # for shipping and repair: repeats for host_patience_s
    prompt: Host  # for reading: one attempt, the reader has other hosts to ask
    measured: Measured

    async def aclose(self) -> None:
        """Release the connections of the host, once for both."""
        await self.prompt.aclose()


def stacked(
    host: Host,
    *,
    label: str,
    reply_s: float,
    patience_s: float,
    connections: int = 4,
    up: TokenBucket | None = None,
    down: TokenBucket | None = None,
) -> Stack:
    """The usual wrappers around a bare host; both ways in share limits and measurements."""
    measured = Measured(Timed(host, label=label, reply_s=reply_s), label=label)
    prompt = Limited(measured, connections=connections, up=up, down=down)
    return Stack(label=label, patient=Retrying(prompt, patience_s=patience_s), prompt=prompt, measured=measured)
