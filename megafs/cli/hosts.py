"""``megafs hosts``: the hosts of a mounted vault: what each holds, and changing which there are."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from megafs.cli import places, recovery, secrets, terminal
from megafs.cli.options import Copies, Json, Name, SecretsFile, Shards, StateDir, asked_policy, policy_text
from megafs.config import VaultPaths
from megafs.control.hostmessages import HostAsk, HostReport, Hosts, Planned, Secret, Tested
from megafs.control.messages import Done, Message, Request
from megafs.errors import HostError, MegaFSError, Usage
from megafs.model import Policy

COLUMNS = ("host", "state", "stored", "free", "objects", "commit", "latency")
ACTIONS = ("list", "add", "set", "remove", "drain", "test", "plan", "secrets")
NAMELESS = ("list", "test", "plan")
Answer = TypeVar("Answer", bound=Message)


ActionArgument = Annotated[str, typer.Argument(metavar=f"[{'|'.join(ACTIONS)}]", help="What to do.")]
HostArgument = Annotated[
    str, typer.Argument(metavar="[URL|LABEL]", help="Which host: a URL to add, else its label or URL.")
]
Label = Annotated[str | None, typer.Option(help="Of a host, with add and set: what it is called.", show_default=False)]
Operator = Annotated[
    str | None, typer.Option(help="Who runs the host. Copies spread over operators.", show_default=False)
]
Region = Annotated[str | None, typer.Option(help="Where it stands.", show_default=False)]
PriceStorage = Annotated[str | None, typer.Option(metavar="P", help="Per GiB and month.", show_default=False)]
PriceEgress = Annotated[str | None, typer.Option(metavar="P", help="Per GiB read.", show_default=False)]
Limit = Annotated[
    str | None, typer.Option(metavar="SIZE", help="The most to put there; 0: no limit.", show_default=False)
]
AppendOnly = Annotated[
    bool | None,
    typer.Option("--append-only/--no-append-only", help="Never delete there.", show_default=False),
]
RecoveryKeyFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--recovery-key-file",
        metavar="F",
        help="With add: the 24 words, so that the new host alone suffices for attach (-: standard input).",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="With remove: give up what is only there.")]


def run(
    name: Name,
    action: ActionArgument = "list",
    host: HostArgument = "",
    label: Label = None,
    operator: Operator = None,
    region: Region = None,
    price_storage: PriceStorage = None,
    price_egress: PriceEgress = None,
    limit: Limit = None,
    append_only: AppendOnly = None,
    recovery_key_file: RecoveryKeyFile = None,
    secrets_file: SecretsFile = None,
    copies: Copies = None,
    shards: Shards = "",
    force: Force = False,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Show or change the hosts of a mounted vault.

    list: state, bytes, objects, newest commit, latency and last error of each. add: a new host takes its share. set:
    change what you said of a host, its operator for instance. drain: a host is emptied onto the others. remove: a
    drained one leaves (--force: at once). test: write, read, measure and delete a probe. plan: what goes where, what a
    month costs, what may be lost (--copies, --shards: with another policy). secrets: give this device the secret of a
    host; it is used from the next mount on.
    """
    paths = places.vault(state_dir, name)
    if action not in ACTIONS:
        raise Usage(f"hosts takes one of {', '.join(ACTIONS)}, not {action!r}")
    if not host and action not in NAMELESS:
        raise Usage(f"hosts {action} needs a host")
    said = asked_host(
        host,
        label=label,
        operator=operator,
        region=region,
        price_storage=price_storage,
        price_egress=price_egress,
        limit_bytes=limit,
        append_only=append_only,
    )
    words = " ".join(recovery.key(recovery_key_file).words()) if recovery_key_file else ""
    asked = replace(said, force=force, recovery_key=words)
    if action == "list":
        _list(paths, json)
    elif action == "plan":
        _plan(paths, asked_policy(copies, shards), json)
    elif action == "test":
        _test(paths, asked, json)
    elif action == "secrets":
        _secrets(paths, host, secrets_file)
    else:
        given = with_secrets(asked, secrets_file) if action == "add" else asked
        made = places.missing_folders([host]) if action == "add" else []
        changed(paths, Request(call=action, host=given), json)
        for folder in made:
            terminal.note(f"made the folder {folder}")


def asked_host(name: str, *, limit_bytes: str | None, append_only: bool | None, **texts: str | None) -> HostAsk:
    """What was said of a host; None: not said. Raises Usage."""
    given = [field for field, text in texts.items() if text is not None]
    given += ["limit_bytes"] * (limit_bytes is not None) + ["append_only"] * (append_only is not None)
    return HostAsk(
        name=name,
        limit_bytes=terminal.size_bytes(limit_bytes) if limit_bytes else 0,
        append_only=bool(append_only),
        given=tuple(given),
        label=texts["label"] or "",
        operator=texts["operator"] or "",
        region=texts["region"] or "",
        price_storage=texts["price_storage"] or "",
        price_egress=texts["price_egress"] or "",
    )


def with_secrets(asked: HostAsk, file: Path | None) -> HostAsk:
    """The same with what the new host needs to be opened."""
    from megafs.hosts.url import checked_url  # brings trio, which most commands do without

    told = secrets.gathered([asked.name], file)
    row = told.by_url.get(checked_url(asked.name).text, {})
    given = tuple(Secret(name=name, value=value) for name, value in row.items())
    return replace(asked, secrets=given, secrets_typed=told.typed)


def answer_to(paths: VaultPaths, request: Request, kind: type[Answer]) -> Answer:
    """Ask the daemon; its answer if it is of this kind."""
    from megafs.control import client

    with terminal.progress_bar(request.call) as show:
        told = client.ask(paths.root, request, show)
    if not isinstance(told, kind):
        raise MegaFSError("the daemon answered something else than it was asked")
    return told


def changed(paths: VaultPaths, request: Request, json: bool) -> None:
    """Ask for a change and tell what was done."""
    done = answer_to(paths, request, Done)
    if json:
        terminal.answer_json(asdict(done))
    else:
        for sentence in done.sentences:
            terminal.answer(sentence)


def _list(paths: VaultPaths, json: bool) -> None:
    told = answer_to(paths, Request(call="hosts"), Hosts)
    if json:
        terminal.answer_json([asdict(host) for host in told.hosts])
        return
    for text in lines(told.hosts):
        terminal.answer(text)


def _test(paths: VaultPaths, asked: HostAsk, json: bool) -> None:
    told = answer_to(paths, Request(call="test", host=asked), Tested)
    if json:
        terminal.answer_json([asdict(each) for each in told.hosts])
    else:
        rows = [("host", "latency", "up", "down", "deletes", "lists")]
        for each in told.hosts:
            found = (
                f"{each.latency_us / 1000:.1f} ms",
                f"{terminal.size_text(each.upload_bytes_s)}/s",
                f"{terminal.size_text(each.download_bytes_s)}/s",
                "yes" if each.can_delete else "no",
                "yes" if each.can_list else "no",
            )
            rows.append((each.label, *(("failed", each.error, "", "", "") if each.error else found)))
        for text in table(rows):
            terminal.answer(text)
    failed = [each for each in told.hosts if each.error]
    if failed:
        raise HostError(f"{len(failed)} of {len(told.hosts)} hosts failed the test: {failed[0].error}")


def _plan(paths: VaultPaths, policy: Policy | None, json: bool) -> None:
    request = Request(call="plan")
    if policy is not None:
        request = Request(call="plan", copies=0 if policy.k else policy.copies, k=policy.k, m=policy.m)
    told = answer_to(paths, request, Planned)
    if json:
        terminal.answer_json(asdict(told))
        return
    size = terminal.size_text
    rows = [("host", "gets", "a month", "", "because of")]
    rows += [
        (each.label, size(each.stored_bytes), each.month_price, each.obstacle, each.reasons) for each in told.hosts
    ]
    rows.append(("all", size(told.stored_bytes), told.month_price, "", ""))
    for text in table(rows):
        terminal.answer(text)
    terminal.answer(
        "order: can take it; spread over operators, regions; is there already; health, room, price, latency"
    )
    wanted = policy_text(Policy(copies=told.copies, k=told.k, m=told.m))
    terminal.answer(f"policy: {wanted} of {size(told.plain_bytes)}; reading all of it costs {told.read_price}")
    terminal.answer(
        f"survives the loss of {told.survives_hosts} hosts, {told.survives_operators} operators, "
        f"{told.survives_regions} regions at once"
    )
    for remark in told.remarks:
        terminal.answer(remark)


def _secrets(paths: VaultPaths, url: str, file: Path | None) -> None:
    given = secrets.gathered([url], file)
    if not given.by_url:
        raise Usage("this host has no secret, or none was given: use --secrets-file")
    from megafs.daemon.secrets import keep_locked

    keep_locked(paths, given)
    terminal.note("kept on this device; used from the next mount on")


def lines(hosts: Sequence[HostReport]) -> list[str]:
    """A table with a heading, and under a host since when it is away, its last error, and what scrub found."""
    text = table([COLUMNS, *(cells(host) for host in hosts)])
    found = text[:1]
    for host, line in zip(hosts, text[1:], strict=True):
        found.append(line)
        if about := about_text(host):
            found.append(f"  {about}")
        if host.retained_bytes:
            found.append(
                f"  {terminal.size_text(host.retained_bytes)} of it were deleted and are kept for the retention"
            )
        if host.away_since_s:
            found.append(f"  away since {terminal.time_text(host.away_since_s)}")
        if host.scrubbed_s:
            found.append(f"  scrubbed {terminal.time_text(host.scrubbed_s)}: {scrub_text(host)}")
        if host.asks_again_s:
            found.append(f"  asks again at {terminal.clock_text(host.asks_again_s)}")
        if host.last_error:
            when = f" {terminal.time_text(host.last_error_s)}" if host.last_error_s else ""
            found.append(f"  last error{when}{', over' if host.is_over else ''}: {host.last_error}")
    return found


def about_text(host: HostReport) -> str:
    """What its owner said of a host."""
    told = [f"operator {host.operator}"] * bool(host.operator) + [f"region {host.region}"] * bool(host.region)
    if host.price_storage != "0" or host.price_egress != "0":
        told.append(f"{host.price_storage} a GiB and month, {host.price_egress} a GiB read")
    return ", ".join([*told, *["append-only"] * host.append_only])


def scrub_text(host: HostReport) -> str:
    """What scrub has come to on one host."""
    found = f"{host.scrub_checked} objects checked, {host.scrub_bad} bad"
    return f"{found}, {host.scrub_repaired} repaired" if host.scrub_bad else found


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with even columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def cells(host: HostReport) -> tuple[str, ...]:
    """One host as the cells of COLUMNS."""
    limit = f" of {terminal.size_text(host.limit_bytes)}" if host.limit_bytes else ""
    return (
        f"{host.label} {host.url}" if host.label != host.url else host.url,
        host.state,
        terminal.size_text(host.stored_bytes) + limit,
        terminal.size_text(host.free_bytes) if host.free_bytes >= 0 else "?",
        str(host.objects),
        str(host.newest_commit) if host.newest_commit else "-",
        f"{host.latency_ms} ms",
    )
