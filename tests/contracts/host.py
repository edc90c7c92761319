"""What every host does, whatever it is made of. A subclass has one fixture, ``host``, and gets all of these tests."""

import os
from contextlib import aclosing

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megafs.errors import ObjectMissing
from megafs.model import Usage

NAME = "abcdefghijklmnopqrstuvwxyz234567"
OTHER = "bbcdefghijklmnopqrstuvwxyz234567"
SMALL = bytes(range(256)) * 4

same_host = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def listed(host) -> dict[str, int]:
    found = {}
    async with aclosing(host.list()) as entries:
        async for name, size in entries:
            assert name not in found, "listed twice"
            found[name] = size
    return found


class HostContract:
    """Subclasses define the async fixture ``host``: a prepared, empty host."""

    async def test_what_was_put_is_got(self, host) -> None:
        data = os.urandom((1 << 20) + 17)
        await host.put(NAME, data)
        assert await host.get(NAME) == data
        assert await host.head(NAME) == len(data)

    async def test_an_empty_object_is_an_object(self, host) -> None:
        await host.put(NAME, b"")
        assert await host.get(NAME) == b""
        assert await host.get(NAME, 0, 10) == b""
        assert await host.head(NAME) == 0

    async def test_ranges_are_half_open_and_cut_at_the_end(self, host) -> None:
        await host.put(NAME, SMALL)

        @same_host
        @given(start=st.integers(0, len(SMALL) + 9), more=st.none() | st.integers(0, len(SMALL) + 9))
        def ask(start: int, more: int | None) -> None:
            stop = None if more is None else start + more
            assert trio.from_thread.run(host.get, NAME, start, stop) == SMALL[start:stop]

        await trio.to_thread.run_sync(ask)

    async def test_a_missing_object_is_told_as_missing(self, host) -> None:
        await host.put(OTHER, b"x")
        with pytest.raises(ObjectMissing):
            await host.get(NAME)
        with pytest.raises(ObjectMissing):
            await host.get(NAME, 3, 5)
        with pytest.raises(ObjectMissing):
            await host.head(NAME)

    async def test_put_again_changes_nothing(self, host) -> None:
        await host.put(NAME, SMALL)
        await host.put(NAME, SMALL)
        assert await host.get(NAME) == SMALL
        assert await listed(host) == {NAME: len(SMALL)}

    async def test_delete_can_be_repeated(self, host) -> None:
        await host.delete(NAME)
        await host.put(NAME, SMALL)
        await host.put(OTHER, b"stays")
        await host.delete(NAME)
        await host.delete(NAME)
        with pytest.raises(ObjectMissing):
            await host.get(NAME)
        assert await host.get(OTHER) == b"stays"

    async def test_a_name_can_be_used_again_after_delete(self, host) -> None:
        await host.put(NAME, b"damaged")
        await host.delete(NAME)
        await host.put(NAME, SMALL)
        assert await host.get(NAME) == SMALL

    async def test_names_of_any_length_that_begin_or_end_alike_are_different(self, host) -> None:
        names = ["a", "aa", "aaa", "2", "7a", "a" * 63, "a" * 64, NAME]
        for name in names:
            await host.put(name, name.encode())
        for name in names:
            assert await host.get(name) == name.encode()
        assert await listed(host) == {name: len(name) for name in names}

    async def test_list_is_what_is_there(self, host) -> None:
        assert await listed(host) == {}
        await host.put(NAME, SMALL)
        await host.put(OTHER, b"")
        assert await listed(host) == {NAME: len(SMALL), OTHER: 0}
        await host.delete(NAME)
        assert await listed(host) == {OTHER: 0}

    async def test_a_list_may_be_left_early(self, host) -> None:
        for name in (NAME, OTHER):
            await host.put(name, b"x")
        async with aclosing(host.list()) as entries:
            await anext(entries)
        assert set(await listed(host)) == {NAME, OTHER}

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    async def test_any_buffer_can_be_put_and_changed_afterwards(self, host, kind) -> None:
        buffer = bytearray(SMALL)
        await host.put(NAME, kind(buffer))
        buffer[:] = bytes(len(buffer))
        answer = await host.get(NAME)
        assert type(answer) is bytes
        assert answer == SMALL

    async def test_many_at_once(self, host) -> None:
        contents = {NAME[:-2] + a + b: os.urandom(5000) for a in "abcd" for b in "2345"}
        async with trio.open_nursery() as nursery:
            for name, data in contents.items():
                nursery.start_soon(host.put, name, data)
        answers = {}

        async def fetch(name: str) -> None:
            answers[name] = await host.get(name)

        async with trio.open_nursery() as nursery:
            for name in contents:
                nursery.start_soon(fetch, name)
        assert answers == contents

    async def test_a_cancelled_put_leaves_the_whole_object_or_none(self, host) -> None:
        data = os.urandom(1 << 20)
        for limit_s in (0.0, 0.0005, 0.002, 0.01):
            with trio.move_on_after(limit_s):
                await host.put(NAME, data)
            try:
                assert await host.get(NAME) == data
            except ObjectMissing:
                assert NAME not in await listed(host) or await host.head(NAME) == len(data)
        await host.put(NAME, data)
        assert await host.get(NAME) == data

    async def test_prepare_again_keeps_what_is_there(self, host) -> None:
        await host.put(NAME, SMALL)
        await host.prepare()
        assert await host.get(NAME) == SMALL

    async def test_usage_is_none_or_numbers(self, host) -> None:
        usage = await host.usage()
        assert isinstance(usage, Usage)
        assert all(count is None or count >= 0 for count in (usage.free_bytes, usage.used_bytes))
