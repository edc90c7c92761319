"""The slot file is opened in a child; what comes of it comes back."""

import os

import pytest

from megafs import errors
from megafs.cli import apart
from megafs.crypto.opened import Opened

KEY, BODY = os.urandom(32), os.urandom(200_000)  # more than a pipe holds


def raising(error):
    def unlock():
        raise error

    return unlock


def test_what_was_opened_comes_back():
    pids = []

    def unlock():
        pids.append(os.getpid())
        return Opened(key=KEY, body=BODY)

    opened = apart.opened_by(unlock)
    assert (opened.key, opened.body) == (KEY, BODY)
    assert pids == []  # it was called elsewhere


@pytest.mark.parametrize(
    ("raised", "told", "sentence"),
    [
        (errors.WrongKey("The passphrase is wrong."), errors.WrongKey, "The passphrase is wrong."),
        (errors.Usage("no terminal"), errors.Usage, "no terminal"),
        (ZeroDivisionError(), errors.MegaFSError, "the key slot was not opened"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
)
def test_what_was_raised_is_raised(raised, told, sentence):
    with pytest.raises(told) as caught:
        apart.opened_by(raising(raised))
    assert type(caught.value) is told
    assert str(caught.value) == sentence
