"""Directory streams: types, dots, telldir and seekdir, rewinddir, and listing while names come and go.

The order and the positions are the file system's own; what must agree is which names are seen.
"""

import os
import random
from pathlib import Path

import pytest

from tests.mounted.both import Both, Cases, tried
from tests.mounted.calls import Directory
from tests.mounted.things import TYPES, directory, make

COUNT = 700  # several pages of every reader in between


def filled(place: Path, count: int = COUNT) -> Path:
    """A directory with ``count`` files."""
    directory(place)
    for number in range(count):
        os.mknod(place / f"f{number:04d}", 0o100644)
    return place


def names(stream: Directory) -> list[str]:
    """The rest of the stream, dots left out."""
    return [name for name, _, _ in stream.entries() if name not in {".", ".."}]


@pytest.mark.needs_root
def test_types_dots_and_numbers(both: Both) -> None:
    def operation(root: Path) -> Cases:
        place = directory(root / "place")
        for kind in TYPES:
            make(kind, place / kind)
        with Directory(place) as stream:
            found = {name: (kind, ino) for name, kind, ino in stream.entries()}
        yield "types", sorted((name, kind) for name, (kind, _) in found.items())
        yield "numbers", {name: ino == os.lstat(place / name).st_ino for name, (_, ino) in found.items()}

    both(operation)


def test_positions(both: Both) -> None:
    """Seeking to each position told gives the same rest of the directory again."""

    def operation(root: Path) -> Cases:
        with Directory(filled(root / "place")) as stream:
            seen, positions = [], []
            while True:
                positions.append(stream.tell())
                entry = next(stream.entries(), None)
                if entry is None:
                    break
                seen.append(entry[0])
            yield "seen", sorted(seen)
            for index in random.Random(7).sample(range(len(seen)), 100):
                stream.seek(positions[index])
                rest = [name for name, _, _ in stream.entries()]
                yield f"from {index}", rest == seen[index:]
            stream.seek(positions[-1])
            yield "from the end", names(stream)
            yield "positions differ", len(set(positions)) == len(positions)

    both(operation)


def test_positions_survive_removals(both: Both) -> None:
    """A position stays good when entries before, at and after it have gone, and when new ones have come."""

    def operation(root: Path) -> Cases:
        place = filled(root / "place")
        with Directory(place) as stream:
            entries = stream.entries()
            first = [next(entries)[0] for _ in range(300)]
            position = stream.tell()
            rest = [name for name, _, _ in entries]
            for name in (*first[2:200:2], *rest[::3]):
                if name not in {".", ".."}:
                    (place / name).unlink()
            gone = set(rest[::3])
            for number in range(50):
                os.mknod(place / f"new{number}", 0o100644)
            stream.seek(position)
            again = [name for name in names(stream) if not name.startswith("new")]
            yield (
                "the rest without the removed",
                again == [name for name in rest if name not in gone and name not in {".", ".."}],
            )

    both(operation)


def test_rewinding_sees_what_is_there(both: Both) -> None:
    def operation(root: Path) -> Cases:
        place = filled(root / "place", 10)
        with Directory(place) as stream:
            yield "first", sorted(names(stream))
            (place / "f0003").unlink()
            make("file", place / "new")
            stream.rewind()
            yield "second", sorted(names(stream))
            for name in os.listdir(place):
                (place / name).unlink()
            stream.rewind()
            yield "empty", sorted(name for name, _, _ in stream.entries())
            place.rmdir()
            stream.rewind()
            yield "removed", sorted(name for name, _, _ in stream.entries())

    both(operation)


def test_while_names_come_and_go(both: Both) -> None:
    """Names that stay are seen exactly once, whatever else is made, removed or renamed in the middle of the listing."""

    def operation(root: Path) -> Cases:
        place = filled(root / "place")
        lots = random.Random(11)
        staying = {f"f{number:04d}" for number in range(0, COUNT, 2)}
        changing = [f"f{number:04d}" for number in range(1, COUNT, 2)]
        seen: list[str] = []
        with Directory(place) as stream:
            for number, (name, _, _) in enumerate(stream.entries()):
                seen.append(name)
                victim = changing[lots.randrange(len(changing))]
                match number % 3:
                    case 0:
                        make("file", place / f"new{number}")
                    case 1:
                        tried(os.unlink, place / victim)
                    case 2:
                        tried(os.rename, place / victim, place / f"renamed{number}")
        yield "seen once", sorted(name for name in seen if name in staying) == sorted(staying)
        yield (
            "no name twice",
            len([name for name in seen if name.startswith("f")])
            == len({name for name in seen if name.startswith("f")}),
        )
        yield "what is there", [name in os.listdir(place) for name in sorted(staying)].count(True)

    both(operation)


def test_removing_what_is_listed(both: Both) -> None:
    """rm -r: each entry removed as soon as it is read."""

    def operation(root: Path) -> Cases:
        place = filled(root / "place", 1500)
        with os.scandir(place) as entries:
            for entry in entries:
                os.unlink(entry.path)
        yield "nothing left", [sorted(os.listdir(place)), tried(place.rmdir)]

    both(operation)


def test_renamed_over_while_listing(both: Both) -> None:
    """A name replaced by another file is still one name."""

    def operation(root: Path) -> Cases:
        place = filled(root / "place", 400)
        seen = []
        with Directory(place) as stream:
            for number, (name, _, _) in enumerate(stream.entries()):
                seen.append(name)
                make("file", root / f"replacement{number}").rename(place / f"f{(number * 7) % 400:04d}")
        yield "each once", sorted(seen)

    both(operation)


def test_two_streams(both: Both) -> None:
    def operation(root: Path) -> Cases:
        place = filled(root / "place", 300)
        with Directory(place) as one, Directory(place) as two:
            first, second = one.entries(), two.entries()
            merged = [(next(first)[0], next(second)[0]) for _ in range(150)]
            yield "together", all(a == b for a, b in merged)
            yield "rest", [len(list(first)), len(list(second))]

    both(operation)


def test_descriptor_is_shared(both: Both) -> None:
    """listdir of a descriptor starts again each time, also on a duplicate."""

    def operation(root: Path) -> Cases:
        place = filled(root / "place", 20)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        yield "twice", [sorted(os.listdir(fd)), sorted(os.listdir(fd))]
        make("file", place / "new")
        yield "with the new one", sorted(os.listdir(fd))
        place.rename(root / "moved")
        yield "moved", sorted(os.listdir(fd))
        yield (
            "relative",
            [tried(os.stat, "new", dir_fd=fd), tried(os.mkdir, "sub", dir_fd=fd), tried(os.unlink, "new", dir_fd=fd)],
        )
        os.close(fd)

    both(operation)
