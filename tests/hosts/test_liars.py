"""HTTP hosts that answer what no honest server does: nothing foreign is followed, believed or kept without bound."""

import gzip
import time
from contextlib import aclosing
from typing import ClassVar

import httpx
import pytest
import trio

from megafs.errors import HostError, HostFailing, HostFull, HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts import http, open_host, s3, webdav
from megafs.hosts.wrappers import Timed
from tests.contracts.host import NAME, listed
from tests.support.liar import Liar, Lie

DATA = bytes(range(256)) * 8
KINDS = {
    "s3": ("s3://KEY@127.0.0.1:{port}/bucket/folder?tls=off", {"secret_key": "hunter2"}),
    "webdav": ("webdav://user@127.0.0.1:{port}/folder", {"password": "hunter2"}),
}


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return request.param


@pytest.fixture
async def lied_to(kind):
    """``host, liar``: what the liar answers is set by the test."""
    url, secrets = KINDS[kind]
    async with Liar.running(lambda asked: Lie(body=DATA)) as liar:
        host = open_host(url.format(port=liar.port), secrets=secrets, label="liar")
        yield host, liar
        await host.aclose()


async def test_an_ignored_range_is_cut_here(lied_to) -> None:
    host, liar = lied_to
    assert await host.get(NAME, 10, 20) == DATA[10:20]
    assert await host.get(NAME, 10) == DATA[10:]
    assert liar.asked[0].headers["range"] == "bytes=10-19"
    liar.answer = lambda asked: Lie(body=DATA[10:20], headers=(("content-range", "bytes 10-19/2048"),))
    assert await host.get(NAME, 10, 20) == DATA[10:20]
    with pytest.raises(HostRefused):
        await host.get(NAME, 5, 20)


async def test_an_endless_answer_is_left(lied_to, monkeypatch) -> None:
    monkeypatch.setattr(http, "OBJECT_BYTES", 1 << 20)
    host, liar = lied_to
    liar.answer = lambda asked: Lie(status=206, body=bytes(65_536), endless=True)
    with trio.fail_after(20):
        assert await host.get(NAME, 0, 100) == bytes(100)
        with pytest.raises(ObjectMissing):
            await host.get(NAME)
        with pytest.raises(HostError):
            await listed(host)
        liar.answer = lambda asked: Lie(status=500, body=bytes(65_536), endless=True)
        with pytest.raises(HostUnreachable):
            await host.put(NAME, b"x")
    assert liar.sent_bytes < 64 << 20


async def test_an_object_that_says_it_is_huge_is_no_object(lied_to) -> None:
    host, liar = lied_to
    liar.answer = lambda asked: Lie(length=1 << 50)
    with pytest.raises(ObjectMissing):
        await host.head(NAME)


async def test_a_redirect_is_not_followed(lied_to) -> None:
    host, liar = lied_to
    async with Liar.running(lambda asked: Lie(body=b"elsewhere")) as elsewhere:
        place = f"http://localhost:{elsewhere.port}/x"
        for status in (301, 302, 307, 308):
            liar.answer = lambda asked, status=status: Lie(status=status, headers=(("location", place),))
            for request in (host.get(NAME, 0, 9), host.put(NAME, b"ciphertext")):
                with pytest.raises(HostRefused):
                    await request
        assert elsewhere.asked == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, HostRefused),
        (401, HostRefused),
        (403, HostRefused),
        (405, (HostRefused, HostFailing)),  # the second to a put by WebDAV
        (408, HostUnreachable),
        (429, HostUnreachable),
        (500, HostUnreachable),
        (502, HostUnreachable),
        (503, HostUnreachable),
        (504, HostUnreachable),
        (507, HostFull),
    ],
)
async def test_each_status_has_its_error_and_shows_no_secret(lied_to, status, error) -> None:
    host, liar = lied_to
    liar.answer = lambda asked: Lie(status=status, body=b"\x1b[31mowned\n")
    for request in (host.put(NAME, DATA), host.get(NAME, 0, 9), host.head(NAME), host.delete(NAME)):
        with pytest.raises(error) as raised:
            await request
        text = str(raised.value)
        assert text.startswith("liar: ")
        assert text.isprintable()
        assert "hunter2" not in text


async def test_full_is_found_in_the_words_of_s3(lied_to, kind) -> None:
    host, liar = lied_to
    body = b"<Error><Code>QuotaExceeded</Code><Message>no</Message></Error>"
    liar.answer = lambda asked: Lie(status=403 if kind == "s3" else 507, body=body)
    with pytest.raises(HostFull):
        await host.put(NAME, DATA)


async def test_a_drip_ends_at_the_limit(lied_to) -> None:
    host, liar = lied_to
    liar.answer = lambda asked: Lie(status=206, body=DATA, drip_s=0.02)
    started = trio.current_time()
    with pytest.raises(HostUnreachable):
        await Timed(host, label="liar", reply_s=0.3).get(NAME, 0, len(DATA))
    assert trio.current_time() - started < 3


async def test_compressed_answers_are_not_unpacked(lied_to) -> None:
    host, liar = lied_to
    bomb = gzip.compress(bytes(50 << 20))
    liar.answer = lambda asked: Lie(body=bomb, headers=(("content-encoding", "gzip"),))
    assert await host.get(NAME, 0, 1 << 20) == bomb
    assert liar.asked[0].headers["accept-encoding"] == "identity"


LISTINGS = {
    "no XML": b"hello",
    "cut": b"<?xml version='1.0'?><multistatus xmlns='DAV:'><response>",
    "bomb": b"<!DOCTYPE a [<!ENTITY b 'cc'><!ENTITY d '&b;&b;'>]><multistatus xmlns='DAV:'>&d;</multistatus>",
    "file": b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><multistatus xmlns='DAV:'>&b;</multistatus>",
    "wrong encoding": b"<?xml version='1.0' encoding='nonsense'?><a/>",
}


@pytest.mark.parametrize("listing", LISTINGS)
async def test_a_listing_that_is_none_is_an_error(lied_to, kind, listing) -> None:
    host, liar = lied_to
    liar.answer = lambda asked: Lie(status=207 if kind == "webdav" else 200, body=LISTINGS[listing])
    with pytest.raises((HostUnreachable, HostRefused)):
        await listed(host)


async def test_a_listing_that_never_ends_is_left() -> None:
    url, secrets = KINDS["s3"]
    page = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    async with Liar.running(lambda asked: Lie(body=f"{page}</ListBucketResult>".encode())) as liar:
        async with aclosing(open_host(url.format(port=liar.port), secrets=secrets)) as host:
            with pytest.raises(HostRefused, match="circle"):
                await listed(host)


async def test_a_signature_is_the_one_of_the_specification() -> None:
    """The example "GET Bucket (List Objects)" of the S3 API reference, which signs exactly our headers."""
    signer = s3.Signer(
        key="AKIAIOSFODNN7EXAMPLE", secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", region="us-east-1"
    )
    server, when = "examplebucket.s3.amazonaws.com", 1369353600.0
    headers = signer.headers("GET", server, "/", "max-keys=2&prefix=J", s3.EMPTY_HASH, when)
    assert headers["authorization"].endswith("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")


async def test_only_our_names_are_listed() -> None:
    url, secrets = KINDS["webdav"]
    good = f"/folder/{NAME[-1]}/{NAME}"
    names = {
        good: 7,
        f"{good}.partial-00": 8,
        f"/folder/{NAME[-1]}/../../etc/passwd": 9,
        f"/folder/{NAME[-1]}/x%0Ay": 1,
        f"http://[{good}": 6,  # not even a URL
        f"/folder/{NAME[-1]}/{'b' * 31}{NAME[-1]}": "9" * 5000,  # more digits than Python reads
    }

    def answer(asked):
        if not asked.path.endswith(f"/{NAME[-1]}/"):
            return Lie(status=207, body=b"<multistatus xmlns='DAV:'/>")
        entries = "".join(
            f"<response><href>{path}</href><propstat><prop><getcontentlength>{size}</getcontentlength></prop>"
            f"<status>HTTP/1.1 200 OK</status></propstat></response>"
            for path, size in names.items()
        )
        return Lie(status=207, body=f"<multistatus xmlns='DAV:'>{entries}</multistatus>".encode())

    async with Liar.running(answer) as liar:
        host = open_host(url.format(port=liar.port), secrets=secrets)
        assert await listed(host) == {NAME: 7}
        await host.aclose()


async def test_a_server_that_does_not_move_gets_plain_puts() -> None:
    url, secrets = KINDS["webdav"]
    async with Liar.running(lambda asked: Lie(status=405 if asked.method == "MOVE" else 201)) as liar:
        host = open_host(url.format(port=liar.port), secrets=secrets)
        await host.put(NAME, b"one")
        await host.put(NAME, b"two")
        await host.aclose()
    methods = [(asked.method, asked.path.endswith(NAME)) for asked in liar.asked]
    assert methods == [("PUT", False), ("MOVE", False), ("PUT", True), ("DELETE", False), ("PUT", True)]


async def test_a_kept_connection_that_was_just_closed_is_not_the_hosts_failure(lied_to) -> None:
    host, liar = lied_to
    broken = [True]

    def answer(asked):
        if broken.pop() if broken else False:
            raise trio.BrokenResourceError  # ends the connection without an answer
        return Lie(body=DATA)

    liar.answer = answer
    assert await host.get(NAME) == DATA
    broken += [True, True]
    with pytest.raises(HostUnreachable):
        await host.get(NAME)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_a_document_type_is_refused_in_any_encoding(encoding) -> None:
    """Entities that expand to gigabytes need one; UTF-16 would hide the word from who looks for it in ASCII (A43)."""
    bomb = (
        f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
        "<a>&c;&c;</a>"
    )
    with pytest.raises(HostError):
        http.parsed_xml(bomb.encode(encoding), "liar")
    assert http.parsed_xml("<a>ä</a>".encode(), "liar").text == "ä"


def test_entries_with_impossible_sizes_are_left_out() -> None:
    entries = "".join(
        f"<Contents><Key>p/{NAME[:-1]}{last}</Key><Size>{size}</Size></Contents>"
        for last, size in (("a", "7"), ("b", "9" * 5000), ("c", "-1"), ("d", "\u0663"), ("e", "1e3"), ("f", ""))
    )
    root = http.parsed_xml(f"<ListBucketResult>{entries}</ListBucketResult>".encode(), "s3")
    assert s3.page_of(root, "p/", "s3") == ([(f"{NAME[:-1]}a", 7)], "")


async def test_no_cookie_is_kept(lied_to) -> None:
    """A host would know a device again by it, and choose bytes of later requests."""
    host, liar = lied_to
    liar.answer = lambda asked: Lie(body=DATA, headers=(("set-cookie", "known=again; Path=/"),))
    for _ in range(2):
        await host.get(NAME)
    assert not any("cookie" in asked.headers for asked in liar.asked)
    async with httpx.AsyncClient() as client:  # the control: any other client gives it back
        for _ in range(2):
            await client.get(f"http://127.0.0.1:{liar.port}/")
    assert liar.asked[-1].headers["cookie"] == "known=again"


def cpu_s(work) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def test_a_listing_costs_no_more_than_reading_it() -> None:
    """Responses within responses: a megabyte of them kept the whole daemon busy for minutes."""
    nested = b"<response><propstat>" * 8000 + b"</propstat></response>" * 8000
    text = b"<multistatus xmlns='DAV:'>" + nested + b"</multistatus>"
    read_s = min(cpu_s(lambda: http.parsed_xml(text, "dav")) for _ in range(3))
    root = http.parsed_xml(text, "dav")

    def anywhere() -> None:
        for response in root.iter("{DAV:}response"):
            for _ in response.iter("{DAV:}propstat"):
                pass

    assert webdav.listing_of(root) == []
    assert min(cpu_s(lambda: webdav.listing_of(root)) for _ in range(3)) < 5 * read_s
    assert cpu_s(anywhere) > 5 * read_s, "the control: looking for them anywhere"


async def test_an_answer_about_free_space_is_short() -> None:
    url, secrets = KINDS["webdav"]
    entry = b"<response><href>/x</href></response>"
    async with Liar.running(lambda asked: Lie(status=207, body=entry * 100, endless=True)) as liar:
        async with aclosing(open_host(url.format(port=liar.port), secrets=secrets)) as host:
            with pytest.raises(HostError):
                await host.usage()
    assert liar.sent_bytes < 32 << 20


class Generous:
    """A file of an SFTP server that answers each read with more than was asked for."""

    asked: ClassVar[list[int]] = []

    def open(self, path, mode, block_size):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        return None

    async def read(self, size, offset):
        self.asked.append(size)
        return bytes(max(size, 0) + 1)


async def test_an_sftp_server_that_gives_more_than_asked_is_refused() -> None:
    """What was left to read fell below 0, which asks for everything there is, again and again."""

    async def no_wait(count):
        assert len(Generous.asked) < 5, "it goes on"

    async with aclosing(open_host("sftp://user@127.0.0.1/folder", secrets={}, label="liar")) as host:
        with pytest.raises(HostRefused, match="more than was asked for"):
            await host._get(Generous(), "/folder/x", 0, 1000, 1000, no_wait)
    assert Generous.asked == [1000]
