"""The threat model names a test for each claim and answers every attack of the list: the tests exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def missing(text: str) -> list[str]:
    """Tests named in a text that are not there."""
    return [f"{file}::{name}" for file, name in NAMED.findall(text) if name not in functions(ROOT / file)]


def functions(path: Path) -> set[str]:
    if not path.exists():
        return set()
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


ROW = re.compile(r"^\| (A\d\d) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", re.M)


def lacking(text: str) -> set[str]:
    """Attacks that have no row, or a row without a test and without a reason."""
    answered = {number for number, test, control in ROW.findall(text) if NAMED.search(test) or len(control) > 5}
    return {f"A{number:02}" for number in range(1, 48)} - answered


def test_every_attack_has_its_row():
    assert lacking((ROOT / "contrib" / "docs" / "THREAT-MODEL.md").read_text()) == set()


def test_control_a_row_that_says_nothing_is_missed():
    assert "A07" in lacking("| A07 | another vault | none | - |")
    assert "A07" not in lacking("| A07 | another vault | none | there are no vaults |")


def test_every_claim_has_its_test():
    text = (ROOT / "contrib" / "docs" / "THREAT-MODEL.md").read_text()
    assert len(NAMED.findall(text)) > 100
    assert missing(text) == []


def test_control_a_test_that_is_not_there_is_missed():
    assert missing("* A claim. `tests/security/test_documents.py::test_of_nothing`") != []
    assert missing("* A claim. `tests/nothing.py::test_of_nothing`") != []
