"""Both ends of the control socket together, over a real Unix socket."""

import os
import socket
import stat
from contextlib import asynccontextmanager, suppress
from os import urandom

import pytest
import trio
import trio.testing

from megafs import config, errors
from megafs.control import client, server
from megafs.control.address import reachable
from megafs.control.messages import Done, Failure, Progress, Request, Synced, line, message
from megafs.crypto.opened import Opened


async def syncing(request):
    assert request.call == "sync"
    for done in range(3):
        yield Progress(done_bytes=done, total_bytes=3)
    yield Synced(bytes=3, newest_commit=9)


async def failing(request):
    yield Progress(done_bytes=0, total_bytes=1)
    raise errors.Incomplete("one pack is not on b")


HANDLERS = {"sync": syncing, "fail": failing}


@asynccontextmanager
async def opened(directory):
    with reachable(directory) as name:
        stream = trio.SocketStream(trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM))
        await stream.socket.connect(name)
    async with stream:
        yield stream


async def whole_answer(stream):
    text = b""
    while part := await stream.receive_some(65_536):
        text += part
    return text


async def test_progress_then_the_answer(tmp_path):
    seen = []
    async with server.serving(tmp_path, HANDLERS):
        told = await trio.to_thread.run_sync(client.ask, tmp_path, Request(call="sync"), seen.append)
    assert told == Synced(bytes=3, newest_commit=9)
    assert [step.done_bytes for step in seen] == [0, 1, 2]


async def test_a_failure_is_raised_as_it_was(tmp_path):
    async with server.serving(tmp_path, HANDLERS):
        with pytest.raises(errors.Incomplete, match="one pack is not on b"):
            await trio.to_thread.run_sync(client.ask, tmp_path, Request(call="fail"))


async def test_an_unknown_call_says_to_remount(tmp_path):
    async with server.serving(tmp_path, HANDLERS):
        with pytest.raises(errors.Usage, match="mount again"):
            await trio.to_thread.run_sync(client.ask, tmp_path, Request(call="future"))


async def test_path_longer_than_a_socket_address(tmp_path):
    deep = tmp_path.joinpath(*["d" * 50] * 6)
    deep.mkdir(parents=True)
    async with server.serving(deep, HANDLERS):
        told = await trio.to_thread.run_sync(client.ask, deep, Request(call="sync"))
        assert isinstance(told, Synced)
        pid = await trio.to_thread.run_sync(client.daemon_pid, deep)
    assert pid == os.getpid()


async def test_mode_is_0600_whatever_the_umask_and_a_dead_socket_is_replaced(tmp_path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "control"))
    dead.close()
    before = os.umask(0)
    try:
        async with server.serving(tmp_path, HANDLERS):
            assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not (tmp_path / "control").exists()


def test_nobody_listens(tmp_path):
    with pytest.raises(errors.NotMounted):
        client.ask(tmp_path, Request(call="status"))
    with pytest.raises(errors.NotMounted):
        client.ask(tmp_path / "absent", Request(call="status"))


@pytest.mark.parametrize("allowed", [True, False])
async def test_only_the_users_given_are_answered(tmp_path, allowed):
    us = os.geteuid()
    answer = b""
    async with server.serving(tmp_path, HANDLERS, users={us if allowed else us + 1}), opened(tmp_path) as stream:
        with suppress(trio.BrokenResourceError):  # closed with our request still unread: the kernel resets
            await stream.send_all(line(Request(call="sync")))
            answer = await whole_answer(stream)
    assert bool(answer) is allowed


@pytest.mark.parametrize(
    "text", [b"\n", b"hello\n", b'{"request":{}}\n', line(Synced(bytes=0, newest_commit=0)), b"\xff" * 99 + b"\n"]
)
async def test_what_is_no_request_gets_a_sentence(tmp_path, text):
    async with server.serving(tmp_path, HANDLERS), opened(tmp_path) as stream:
        await stream.send_all(text)
        assert isinstance(message((await whole_answer(stream))[:-1]), Failure)


OPENED = Opened(key=urandom(32), body=urandom(3000))


@pytest.mark.parametrize("cut", [0, 1, 5, 40, 2000])
async def test_an_opened_slot_follows_the_line_raw(tmp_path, cut):
    """However the kernel divides what is sent; and no text made of it is ever parsed."""
    given = []

    async def unlocking(request):
        given.append((request.opened.key, request.opened.body))
        yield Done(sentences=())

    packed = OPENED.packed()
    sent = line(Request(call="unlock", opened_bytes=len(packed))) + packed
    assert OPENED.key.hex().encode() not in sent
    async with server.serving(tmp_path, {"unlock": unlocking}), opened(tmp_path) as stream:
        for part in (sent[: len(sent) - cut], sent[len(sent) - cut :]):
            await stream.send_all(part)
            await trio.testing.wait_all_tasks_blocked()
        assert message((await whole_answer(stream))[:-1]) == Done(sentences=())
    assert given == [(OPENED.key, OPENED.body)]


@pytest.mark.parametrize(("said", "sent"), [(100, 99), (100, 101), (0, 1), (-1, 0), (config.OPENED_BYTES + 1, 1)])
async def test_an_opened_slot_of_another_length_is_refused(tmp_path, said, sent):
    text = line(Request(call="sync")).replace(b'"opened_bytes":0', b'"opened_bytes":%d' % said) + bytes(sent)
    async with server.serving(tmp_path, HANDLERS), opened(tmp_path) as stream:
        await stream.send_all(text)
        await stream.send_eof()
        assert isinstance(message((await whole_answer(stream))[:-1]), Failure)


async def test_a_line_without_end_is_cut_off(tmp_path):
    async with server.serving(tmp_path, HANDLERS), opened(tmp_path) as stream:
        with trio.move_on_after(5):
            try:
                for _ in range(64):
                    await stream.send_all(b"x" * (config.CONTROL_LINE_BYTES // 32))
            except trio.BrokenResourceError:
                return
        pytest.fail("the daemon took twice the limit")


async def test_a_silent_client_is_dropped(tmp_path, autojump_clock):
    async with server.serving(tmp_path, HANDLERS), opened(tmp_path) as stream:
        start = trio.current_time()
        assert await whole_answer(stream) == b""
        assert trio.current_time() - start == pytest.approx(config.CONTROL_REQUEST_S, abs=1)


async def test_hanging_up_cancels_the_handler(tmp_path):
    ended = trio.Event()

    async def endless(request):
        try:
            yield Progress(done_bytes=0, total_bytes=1)
            await trio.sleep_forever()
        finally:
            ended.set()

    async with server.serving(tmp_path, {"sync": endless}):
        async with opened(tmp_path) as stream:
            await stream.send_all(line(Request(call="sync")))
            await stream.receive_some(65_536)
        with trio.fail_after(5):
            await ended.wait()
        assert not await trio.to_thread.run_sync(lambda: (tmp_path / "absent").exists())


async def test_a_bug_in_a_handler_is_not_hidden(tmp_path):
    async def wrong(request):
        yield Progress(done_bytes=0, total_bytes=1)
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with server.serving(tmp_path, {"sync": wrong}):
            async with opened(tmp_path) as stream:
                await stream.send_all(line(Request(call="sync")))
                await whole_answer(stream)
            await trio.sleep_forever()
