"""The command line: one file per subcommand, one row here for each. What is heavy is imported inside the subcommand."""

import sys
import traceback
from typing import Annotated

import typer

from megafs import __version__, process
from megafs.cli import (
    alarms,
    attach,
    check,
    create,
    devices,
    doctor,
    fetch,
    hosts,
    lock,
    mount,
    pin,
    policy,
    recovery_key,
    rotate,
    scrub,
    slots,
    status,
    sync,
    unlock,
    unmount,
    unpin,
)
from megafs.cli.options import EPILOG
from megafs.cli.outcome import one_error
from megafs.errors import MegaFSError

app = typer.Typer(
    name="megafs",
    help="A drive that encrypts itself and lives on hosts that you choose.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: readable in a pipe, and it spares importing rich
    pretty_exceptions_enable=False,
)
COMMANDS = [create, mount, status, sync, lock, unlock, unmount, attach, hosts, devices, rotate, policy]
for command in (*COMMANDS, pin, unpin, fetch, check, scrub, alarms, doctor):
    app.command(command.__name__.rpartition(".")[2], epilog=EPILOG)(command.run)
app.command("recovery-key", epilog=EPILOG)(recovery_key.run)
app.command("passphrase", epilog=EPILOG)(slots.run)  # the module of this name says where one comes from


def _version(asked: bool) -> None:
    if asked:
        print(f"megafs {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the subcommand; the callback of each does the work."""


INTERRUPTED = 130  # as shells report an end by SIGINT


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is what happened, also inside the groups that nurseries raise."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_interrupt(each) for each in error.exceptions)
    return isinstance(error, KeyboardInterrupt)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; the exit status of ``errors.EXIT_STATUSES``, after one sentence on stderr if it failed."""
    process.harden()
    try:
        with one_error():
            return app(arguments, prog_name="megafs", standalone_mode=False) or 0
    except MegaFSError as error:
        return _failed(str(error), error.status)
    except typer.TyperException as error:
        return _misused(error)
    except typer.Abort:
        return _failed("stopped", 1)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _failed(f"{error.strerror or type(error).__name__}{where}", 1)
    except BaseException as error:
        if is_interrupt(error):
            return _failed("stopped", INTERRUPTED)
        if not isinstance(error, Exception):
            raise
        traceback.print_exc()
        return _failed(f"this is a bug in MegaFS ({type(error).__name__}); the lines above say where", 1)


def _misused(error: typer.TyperException) -> int:
    said = error.format_message()
    if "\n" in said:  # no subcommand was given: the help is the message
        print(said, file=sys.stderr)
        return error.exit_code
    context = getattr(error, "ctx", None)
    command = "megafs" if context is None else context.command_path
    return _failed(f"{said.rstrip('.')} (see {command} --help)", error.exit_code)


def _failed(sentence: str, status: int) -> int:
    print(f"megafs: {sentence}", file=sys.stderr)
    return status
