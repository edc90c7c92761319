"""Names: 255 bytes, any bytes, look-alikes that must stay apart, and many of them in one directory."""

import os
import unicodedata
from pathlib import Path

import pytest

from tests.mounted.both import Both, Cases, look, tried
from tests.mounted.things import directory

MANY = 5_000


def test_lengths(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for length in (1, 2, 127, 128, 143, 200, 254, 255, 256, 257, 300, 1000):
            name = "x" * length
            yield (
                f"{length}",
                [
                    tried((root / name).mkdir),
                    tried((root / name / name).write_bytes, b"c"),
                    tried(os.link, root / name / name, root / ("l" * length)),
                    tried(os.symlink, name, root / ("s" * length)),
                    tried((root / name / name).rename, root / ("r" * length)),
                    look(root / name),
                ],
            )
            yield f"{length} wide", tried((root / ("ü" * length)).mkdir)
        yield "listing", sorted(os.listdir(root))

    both(operation)


def test_any_bytes(both: Both) -> None:
    names = [
        b"\xff",
        b"\xff\xfe\x00"[:2],
        b"\x80" * 255,
        b"new\nline",
        b"tab\t",
        b"bell\x07",
        b"\x1b[31mred",
        b" ",
        b" leading",
        b"trailing ",
        b"...",
        b"..x",
        b"-rf",
        b"*",
        b"?",
        b"\\",
        b"\\0",
        b'"quoted"',
        b"'",
        b"$(x)",
        b"%s%n",
        b"CON",
        b"a:b",
        b"a.b.",
        "NFC: é".encode(),
        unicodedata.normalize("NFD", "NFD: é").encode(),
        "\u202egnp.exe".encode(),
        "\U0001d518".encode(),
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b".fuse_hidden0001",
        b"lost+found",
    ]

    def operation(root: Path) -> Cases:
        here = os.fsencode(root) + b"/"
        for name in names:
            with open(here + name, "wb") as file:
                file.write(name)
            yield repr(name), [look(here + name), name in os.listdir(here)]
        for name in names:
            with open(here + name, "rb") as file:
                yield f"{name!r} content", file.read() == name
            os.rename(here + name, here + name[:200] + b"~")
        yield "renamed", sorted(os.listdir(here))
        os.mkdir(here + b"d")
        yield "below", [tried(os.mkdir, here + b"d/" + name) for name in names] + sorted(os.listdir(here + b"d"))

    both(operation)


def test_look_alikes_stay_apart(both: Both) -> None:
    groups = [
        ("a", "A"),
        ("é", "e\u0301"),
        ("ß", "SS", "ss"),
        ("ﬁ", "fi"),
        ("K", "\u212a"),
        ("x", "x ", "x."),
        ("\u0131", "i", "I", "İ"),
    ]

    def operation(root: Path) -> Cases:
        for number, group in enumerate(groups):
            place = directory(root / str(number))
            for name in group:
                (place / name).write_text(name)
            yield f"group {number}", [sorted(os.listdir(place)), [(place / name).read_text() for name in group]]

    both(operation)


def test_a_deep_tree(both: Both) -> None:
    def operation(root: Path) -> Cases:
        here = os.open(".", os.O_RDONLY)
        os.chdir(root)
        depth = 100
        try:
            for _ in range(depth):
                os.mkdir("d" * 250)
                os.chdir("d" * 250)
            yield "bottom", [tried(os.getcwd), tried(os.listdir, "..")]
            Path("file").write_bytes(b"deep")
            yield "file", [Path("file").read_bytes(), look("file")]
            os.unlink("file")
            for level in range(depth):
                os.chdir("..")
                yield f"up {level}", tried(os.rmdir, "d" * 250)
        finally:
            os.fchdir(here)
            os.close(here)
        yield "empty", sorted(os.listdir(root))

    both(operation)


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_many_entries(both: Both, order: str) -> None:
    """Enough for many pages of readdir; listed, counted, partly removed, listed again."""

    def operation(root: Path) -> Cases:
        place = directory(root / "place")
        numbers = range(MANY) if order == "forward" else range(MANY - 1, -1, -1)
        for number in numbers:
            os.mknod(place / f"entry-{number:06d}", 0o100600)
        yield "all", names_in(place)
        for number in numbers:
            if number % 3:
                (place / f"entry-{number:06d}").unlink()
        yield "a third", names_in(place)
        yield "not empty", tried(place.rmdir)
        for name in os.listdir(place):
            (place / name).unlink()
        yield "empty", [names_in(place), tried(place.rmdir)]

    both(operation)


def names_in(place: Path) -> tuple[int, int, str]:
    """How many entries, how many different ones, and all of them."""
    names = os.listdir(place)
    return len(names), len(set(names)), ",".join(sorted(names))
