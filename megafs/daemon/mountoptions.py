"""What one mount asks for: of the kernel and libfuse, and beyond the settings. Pure."""

import os
from dataclasses import replace
from pathlib import Path

from megafs.config import MountOptions, Settings

DEFAULTS = ("default_permissions", "subtype=megafs")


class _Option(str):
    """A mount option of any bytes: pyfuse3 encodes options as ASCII, state directories need not be."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return os.fsencode(str(self))


def mount_options(root: Path, options: MountOptions) -> set[str]:
    """For the vault in the directory ``root``, which the mount table then shows."""
    wanted = {*DEFAULTS, *options.flags, _Option("fsname=" + _escaped(str(root)))}
    if options.allow_other:
        wanted.add("allow_other")
    if options.read_only:
        wanted.add("ro")
    return wanted


def limited(settings: Settings, options: MountOptions) -> Settings:
    """The settings with the limits that this mount asks for."""
    return replace(
        settings,
        upload_bytes_s=options.upload_bytes_s or settings.upload_bytes_s,
        download_bytes_s=options.download_bytes_s or settings.download_bytes_s,
        durability=options.durability or settings.durability,
    )


def _escaped(value: str) -> str:
    """For libfuse's option parser."""
    return value.replace("\\", "\\\\").replace(",", "\\,")
