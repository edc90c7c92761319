"""Negative controls: the comparison and the state machine notice a file system that is wrong in one small way."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.mounted.both import Both, Cases, Tally, look, tried
from tests.mounted.test_machine import Machine, Place, World, offsets, places
from tests.mounted.things import make
from tests.mounted.vault import repository

TABLE = repository / "contrib" / "docs" / "posix.md"

MISTAKES: dict[str, Callable[[Path], object]] = {
    "mode": lambda path: path.chmod(0o640),
    "size": lambda path: os.truncate(path, 3),
    "content": lambda path: path.write_bytes(b"contenT"),
    "link count": lambda path: os.link(path, path.with_name("second")),
    "errno": lambda path: path.unlink(),
    "name": lambda path: path.rename(path.with_name("other")),
    "attribute": lambda path: os.setxattr(path, "user.x", b""),
    "type": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture
def pair(tmp_path: Path) -> Both:
    """Two plain directories in the roles of mount and plain."""
    for name in ("mount", "plain"):
        (tmp_path / name).mkdir()
    return Both(mount=tmp_path / "mount", plain=tmp_path / "plain", tally=Tally())


def seen(path: Path) -> list[object]:
    """What tests commonly look at."""
    return [look(path), tried(path.read_bytes), tried(os.listxattr, path), sorted(os.listdir(path.parent))]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_difference_is_noticed(pair: Both, mistake: str) -> None:
    def operation(root: Path, *, wrong: bool = True) -> Cases:
        path = make("file", root / "file")
        if wrong and root.parent == pair.mount:
            MISTAKES[mistake](path)
        yield "seen", seen(path)

    pair(lambda root: operation(root, wrong=False))
    with pytest.raises(AssertionError, match="1 of 1 cases differ"):
        pair(operation)


def test_a_missing_or_raising_case_is_noticed(pair: Both) -> None:
    def shorter(root: Path) -> Cases:
        yield "first", 1
        if root.parent == pair.plain:
            yield "second", 2

    def raising(root: Path) -> Cases:
        yield "first", 1
        if root.parent == pair.mount:
            os.rmdir(root / "missing")
        yield "second", 2

    for operation in (shorter, raising):
        with pytest.raises(AssertionError):
            pair(operation)


def test_a_documented_difference_must_be_the_documented_one(pair: Both) -> None:
    def operation(root: Path) -> Cases:
        yield "side", root.parent.name

    pair.documented(operation, mount="mount", plain="plain", why="a control")
    for mount, plain in (("plain", "plain"), ("mount", "mount")):
        with pytest.raises(AssertionError):
            pair.documented(operation, mount=mount, plain=plain, why="a control")


class OffByOne(Machine):
    """Its mount truncates one byte too far."""

    @rule(path=places, size=offsets)
    def truncate(self, path: Place, size: int) -> None:
        self.agree(lambda root: os.truncate(self.at(root, path), size + (root == self.roots[0])))


@pytest.fixture
def plain_world(tmp_path: Path) -> Iterator[None]:
    """The machine between two plain directories."""
    tally, World.tally = World.tally, Tally()
    World.vault, World.mount, World.plain = None, tmp_path / "mount", tmp_path / "plain"
    World.mount.mkdir()
    World.plain.mkdir()
    yield
    World.tally = tally


@pytest.mark.usefixtures("plain_world")
def test_the_machine_notices_a_wrong_truncate() -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            OffByOne,
            settings=settings(
                max_examples=100,
                stateful_step_count=50,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            ),
        )


def test_the_table_of_suites_names_tests_that_exist() -> None:
    """contrib/docs/posix.md: ``file::test``, the file left out where the one before is meant."""
    here, found, file = Path(__file__).parent, 0, ""
    for name, test in re.findall(r"`([\w/]*?(?:test_\w+\.py)?)::(test_\w+)`", TABLE.read_text()):
        file = name or file
        source = repository / file if "/" in file else here / file
        assert f"def {test}(" in source.read_text(), f"{file}::{test}"
        found += 1
    assert found > 100
