"""``megafs doctor``: what on this machine keeps MegaFS from working, and the cure. Clears dead mounts."""

from dataclasses import asdict
from pathlib import Path

from megafs.cli import checks, places, terminal
from megafs.cli.options import Json, StateDir
from megafs.errors import NotMounted


def run(state_dir: StateDir = None, json: Json = False) -> None:
    """Say what is wrong here, and the cure.

    Looks at FUSE, permissions, dead mounts (and clears them), versions and the clock.
    """
    findings = examined(state_dir)
    if json:
        terminal.answer_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            terminal.answer(f"{finding.state:7} {finding.subject}: {finding.detail}")
            if finding.cure:
                terminal.answer(f"        cure: {finding.cure}")
    wrong = [finding.subject for finding in findings if finding.state == "wrong"]
    if wrong:
        raise NotMounted(f"this machine is not ready: {', '.join(wrong)}")


def examined(state_dir: Path | None) -> list[checks.Finding]:
    """Every check, in the order in which a mount needs them."""
    state = places.state_directory(state_dir)
    vaults = places.vaults(state_dir)
    return [
        checks.device(),
        checks.fusermount(),
        checks.binding(),
        checks.allow_other(),
        checks.state_directory(state),
        *(checks.vault_directory(paths) for paths in vaults),
        checks.free_space(state),
        checks.dead_mounts(),
        checks.clock(vaults),
        checks.versions(),
    ]
