"""What ``megafs devices`` shows and refuses before anything is asked of a daemon."""

import pytest

from megafs.cli import devices, main, terminal
from megafs.control.messages import DeviceReport
from megafs.crypto.ticket import TicketCode

REPORT = DeviceReport(
    number=7, label="", enrolled_s=0, last_seq=0, seen_s=0, is_this=False, is_revoked=True, is_writing=False
)


def test_a_code_is_a_square_that_holds_the_words(capsys):
    """Rows and quiet zone of a QR code of version 3; the capitals in it are words of the same ticket."""
    code = TicketCode.generate()
    words = " ".join(code.words())
    devices.show_code(words)
    told = capsys.readouterr()
    rows = told.err.split("\n")[:-1]
    assert told.out == ""
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == (len(rows[0]) + 1) // 2 >= (29 + 8) // 2, "two rows of modules a line"
    assert set(told.err) <= set("█▀▄ \n")
    assert TicketCode.from_text(words.upper()).secret == code.secret


def test_cells_of_what_is_not_known():
    assert devices.cells(REPORT) == ("7", "-", "-", "none", "-", "revoked")


def test_paths_of_any_bytes_are_one_line_and_say_nothing_to_the_terminal():
    assert terminal.shown(b"a\n\xff\xc3\xa4") == "a\\n\\xffä"
    assert terminal.shown(b"\x1b[2J\xc2\x85\r") == "\\x1b[2J\\xc2\\x85\\r"
    assert terminal.shown(b"\\n") == "\\\\n", "another than that with a line feed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["revoke"], "needs the number"),
        (["list", "3"], "needs the number"),
        (["revoke", "3"], "--recovery-key-file"),
        (["marry"], "takes one of"),
    ],
)
def test_refused(vault, phrase_file, capsys, arguments, said):
    command = ["devices", "v", *arguments, "--state-dir", str(vault.root.parent), "--passphrase-file", str(phrase_file)]
    assert main(command) == 2
    assert said in capsys.readouterr().err


def test_rotate_needs_the_words(vault, phrase_file, capsys):
    command = ["rotate", "v", "--state-dir", str(vault.root.parent), "--passphrase-file", str(phrase_file)]
    assert main(command) == 2
    assert "--recovery-key-file" in capsys.readouterr().err
