"""The threat model names a test for each claim and answers every attack of the list: the tests exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
THREATS = ROOT / "contrib" / "docs" / "THREAT-MODEL.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def missing(text: str) -> list[str]:
    """Tests named in a text that are not there."""
    return [f"{file}::{name}" for file, name in NAMED.findall(text) if name not in functions(ROOT / file)]


def functions(path: Path) -> dict[str, str]:
    """Names and source, comments included."""
    if not path.exists():
        return {}
    text = path.read_text()
    lines = text.splitlines()
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in nodes}


ROW = re.compile(r"^\| (A\d\d) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", re.M)
INSIDE = re.compile(r"in the tests? (itself|themselves)")


def lacking(text: str) -> set[str]:
    """Attacks that have no row, or a row without a test and without a reason."""
    answered = {number for number, test, control in ROW.findall(text) if NAMED.search(test) or len(control) > 5}
    return {f"A{number:02}" for number in range(1, 48)} - answered


def unnumbered(text: str) -> list[str]:
    """Tests and controls of rows that do not say the number of the attack that they play."""
    return [
        f"{number}: {file}::{name}"
        for number, *columns in ROW.findall(text)
        for file, name in NAMED.findall(" ".join(columns))
        if number not in functions(ROOT / file).get(name, "")
    ]


def uncontrolled(text: str) -> list[str]:
    """Rows with a test that neither name a control nor have one in a test."""
    return [
        number
        for number, test, control in ROW.findall(text)
        if NAMED.search(test)
        and not NAMED.search(control)
        and not (
            INSIDE.search(control)
            and any("control" in functions(ROOT / file)[name].lower() for file, name in NAMED.findall(test))
        )
    ]


def test_every_attack_has_its_row():
    text = THREATS.read_text()
    assert lacking(text) == set()
    assert unnumbered(text) == []
    assert uncontrolled(text) == []


def test_control_a_row_that_says_nothing_is_missed():
    assert "A07" in lacking("| A07 | another vault | none | - |")
    assert "A07" not in lacking("| A07 | another vault | none | there are no vaults |")
    here = "`tests/security/test_documents.py::test_every_claim_has_its_test`"
    assert unnumbered(f"| A07 | x | {here} | none |")
    assert uncontrolled(f"| A07 | x | {here} | in the test itself |") == ["A07"]
    assert uncontrolled(f"| A07 | x | {here} | {here} |") == []


def test_every_claim_has_its_test():
    text = THREATS.read_text()
    assert len(NAMED.findall(text)) > 100
    assert missing(text) == []


def test_control_a_test_that_is_not_there_is_missed():
    assert missing("* A claim. `tests/security/test_documents.py::test_of_nothing`") != []
    assert missing("* A claim. `tests/nothing.py::test_of_nothing`") != []
