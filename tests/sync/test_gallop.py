"""The newest head is found, also after all heads that no search needs were removed."""

import trio
from hypothesis import given
from hypothesis import strategies as st

from megafs.sync.gallop import landmarks, needed, newest


def found(existing: set[int], known: int = 0) -> tuple[int, int]:
    asked: list[int] = []

    async def exists(seq: int) -> bool:
        asked.append(seq)
        return seq in existing

    async def main() -> int:
        return await newest(exists, known)

    return trio.run(main), len(asked)


@given(st.integers(0, 5000))
def test_finds_the_newest(count: int) -> None:
    result, asked = found(set(range(1, count + 1)))
    assert result == count
    assert asked <= 2 * count.bit_length() + 2


@given(st.integers(1, 5000), st.integers(0, 300))
def test_finds_the_newest_from_a_known_one(known: int, more: int) -> None:
    result, asked = found(set(range(known + 1, known + more + 1)), known)
    assert result == known + more
    assert asked <= 2 * more.bit_length() + 3


@given(st.integers(1, 3000), st.integers(0, 3000))
def test_removed_heads_do_not_disturb_the_search(covered: int, more: int) -> None:
    kept = {seq for seq in range(1, covered + more + 1) if needed(seq, covered)}
    assert found(kept)[0] == covered + more
    assert len([seq for seq in kept if seq < covered]) <= 2 * covered.bit_length() + 1


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_removing_again_and_again_is_as_good(steps: list[int]) -> None:
    kept: set[int] = set()
    covered = 0
    for step in steps:
        kept |= set(range(covered + 1, covered + step + 1))
        looked_at = {*landmarks(covered), *range(covered, covered + step)}  # as sync.collect does
        covered += step
        kept -= {seq for seq in looked_at if not needed(seq, covered)}
        assert kept == {seq for seq in kept if needed(seq, covered)}
        assert found(kept)[0] == covered


def test_control_removing_all_old_heads_is_noticed() -> None:
    assert found(set(range(90, 101)))[0] != 100
