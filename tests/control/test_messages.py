"""Lines of the control socket: every message comes back as it was, everything else is refused."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs import errors
from megafs.control.hostmessages import HostReport, Hosts
from megafs.control.messages import (
    Failure,
    Progress,
    Request,
    Status,
    Synced,
    error_of,
    failure,
    line,
    message,
)

REPORT = HostReport(label="b", url="file:///b", state="ok", stored_bytes=7, objects=1, newest_commit=3)
SAID = [
    Request(call="status"),
    Request(call="sync", local=True),
    Progress(done_bytes=1, total_bytes=2, waiting_for=("a", "ü")),
    Hosts(hosts=(REPORT,)),
    Synced(bytes=4, newest_commit=5),
    Failure(kind="Busy", sentence='a "quoted" sentence: with a colon\nand a newline'),
    Status(
        vault="v",
        mountpoint="/m",
        files=1,
        bytes=2,
        unshipped_bytes=3,
        unshipped_commits=4,
        newest_commit=5,
        cache_bytes=6,
        cache_limit_bytes=7,
        hosts=(REPORT, REPORT),
    ),
]


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_comes_back_as_it_was(said):
    spelled = line(said)
    assert spelled.count(b"\n") == 1
    assert spelled.endswith(b"\n")
    assert message(spelled[:-1]) == said


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_refuses_every_cut_and_every_extra_byte(said):
    spelled = line(said)[:-1]
    for stop in range(len(spelled)):
        with pytest.raises(errors.Corrupt):
            message(spelled[:stop])
    for extra in (b" ", b"}", b"x", b"\0"):
        with pytest.raises(errors.Corrupt):
            message(spelled + extra)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_noise_is_refused_with_a_sentence(text):
    with pytest.raises(errors.Corrupt):
        message(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"request":{"call":"status","local":false,"more":1}}',  # a field of a newer version
        b'{"request":{"call":"status"}}',  # a field missing
        b'{"request":{"call":1,"local":false}}',
        b'{"request":{"call":"status","local":0}}',
        b'{"request" :{"call":"status","local":false}}',
        b'{"nothing":{}}',
        b'{"request":[]}',
    ],
)
def test_other_versions_are_refused(text):
    with pytest.raises(errors.Corrupt):
        message(text)


def test_an_error_crosses_with_class_sentence_and_status():
    back = error_of(failure(errors.Incomplete("two packs are not on b")))
    assert type(back) is errors.Incomplete
    assert str(back) == "two packs are not on b"
    assert back.status == 7
    refused = error_of(failure(errors.Refused(errno.ENOTEMPTY)))
    assert refused.code == errno.ENOTEMPTY


@pytest.mark.parametrize("kind", ["NoSuchClass", "errno", "EXIT_STATUSES", "__doc__"])
def test_an_unknown_class_becomes_the_root(kind):
    assert type(error_of(Failure(kind=kind, sentence="s"))) is errors.MegaFSError
