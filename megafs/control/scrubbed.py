"""What a scrub tells: the messages of control.messages that are only its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HostScrub:
    """What one scrub found on one host."""

    label: str
    checked: int  # objects
    bytes: int  # read for it
    bad: int  # missing, cut or wrong
    repaired: int  # of these, made anew
    silent: bool  # stopped answering: the rest was not looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    """Answer to ``scrub``."""

    hosts: tuple[HostScrub, ...]
