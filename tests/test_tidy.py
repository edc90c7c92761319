"""The code's own shape, checked like any other behaviour."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "megafs"
LAYERS = [  # a module imports only from rows above its own; names sharing a row are strangers, but for the first row
    {"errors", "model", "config", "hours", "canonical", "process", "wiping", "__version__"},
    {"index", "crypto", "packs", "placement", "hosts"},
    {"store", "slotfile"},
    {"files"},
    {"sync"},
    {"fuse", "control"},
    {"daemon"},
    {"cli"},
    {"__main__", "__init__"},
]
FENCES = {  # who may import a library
    "pyfuse3": {"fuse", "daemon"},
    "apsw": {"index"},
    "cryptography": {"crypto"},
    "shamir_mnemonic": {"crypto"},
    "zstandard": {"packs", "sync"},
    "pyeclib": {"packs"},
    "opendal": {"hosts"},
    "asyncssh": {"hosts"},
    "typer": {"cli"},
}
NO_TRIO = LAYERS[0] | {"index", "crypto", "packs", "placement", "files.ranges"}
PURE = NO_TRIO - {"index"}  # index is synchronous, but owns its file
IMPURE = {"asyncio", "shutil", "socket", "subprocess", "tempfile", "threading", "time"}  # tasks, clock, disk, network
ANY_AND_CAST = {"index.database", "fuse"}
MODULES = sorted(ROOT.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            assert node.names[0].name != "*", "no star imports"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def row(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name.split(".")[0] in layer)


def check_place(name: str, targets: set[str]) -> None:
    """Layers, fences and purity of a module called ``name`` that imports ``targets``."""
    top = name.split(".")[0]
    for target in targets:
        head, _, rest = target.partition(".")
        if head == "megafs" and rest and rest.split(".")[0] != top:
            is_base_layer = row(name) == 0 and row(rest) == 0
            assert row(rest) < row(name) or is_base_layer, f"{name} may not import {rest}"
        assert top in FENCES.get(head, {top}), f"{head} does not belong in {name}"
        assert head != "trio" or not {name, top} & NO_TRIO, f"{name} is synchronous"
        assert head not in IMPURE or not {name, top} & PURE, f"{name} is pure"
        if target in ("typing.Any", "typing.cast"):
            assert {name, top} & ANY_AND_CAST, f"{name} hides its types behind {target}"


def check_shape(tree: ast.Module, text: str) -> None:
    """Sizes, docstring, and what may not stand in any module."""
    assert ast.get_docstring(tree), "a module says what flows through it"
    assert len(text.splitlines()) <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
        if isinstance(node, ast.With) and "transaction" in ast.unparse(node.items[0]):
            assert not any(isinstance(n, ast.Await) for n in ast.walk(node)), node.lineno
        if isinstance(node, ast.ExceptHandler):
            assert node.type, f"bare except in line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_keeps_its_place(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    check_shape(tree, text)
    check_place(dotted(path), imports(tree))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("packs.format", "from megafs.crypto.seal import seal"),
        ("index.inodes", "from megafs.store import writer"),
        ("errors", "import megafs.index.database"),
        ("files.ranges", "import trio"),
        ("index.database", "from trio import to_thread"),
        ("placement", "import time"),
        ("store.reader", "from apsw import Connection"),
        ("hosts.url", "import pyfuse3"),
        ("sync.ship", "from typing import Any"),
    ],
)
def test_a_module_out_of_place_is_noticed(name: str, line: str) -> None:
    with pytest.raises(AssertionError):
        check_place(name, imports(ast.parse(line)))


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        '"""Long."""\n' + "x = 1\n" * 400,
        '"""A long function."""\ndef f():\n' + "    x = 1\n" * 60,
        '"""Awaits inside."""\nasync def f():\n    with index.transaction():\n        await g()',
        '"""Catches all."""\ntry:\n    f()\nexcept:\n    pass',
    ],
    ids=["no docstring", "long", "long function", "await in a transaction", "bare except"],
)
def test_a_module_out_of_shape_is_noticed(text: str) -> None:
    with pytest.raises(AssertionError):
        check_shape(ast.parse(text), text)
