"""``megafs policy``: how many copies, or shards, a mounted vault has of everything."""

from megafs.cli import hosts, places, terminal
from megafs.cli.options import Copies, Json, Name, Shards, StateDir, asked_policy, policy_text
from megafs.control.messages import Request, Status
from megafs.model import Policy


def run(name: Name, copies: Copies = None, shards: Shards = "", state_dir: StateDir = None, json: Json = False) -> None:
    """Show or change how many hosts hold everything.

    New data follows a change at once, what is there is moved in the background. `megafs hosts NAME plan` with the same
    options says beforehand what it means.
    """
    paths = places.vault(state_dir, name)
    wanted = asked_policy(copies, shards)
    if wanted is None:
        told = hosts.answer_to(paths, Request(call="status"), Status)
        if json:
            terminal.answer_json({"copies": told.copies, "k": told.k, "m": told.m})
        else:
            terminal.answer(policy_text(Policy(copies=told.copies, k=told.k, m=told.m)))
        return
    request = Request(call="policy", copies=0 if wanted.k else wanted.copies, k=wanted.k, m=wanted.m)
    hosts.changed(paths, request, json)
