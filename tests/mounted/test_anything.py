"""System calls at random by root and three users, with ACLs and set-id bits: every outcome and the tree after it as
ext4 has them. ``-m fuzz`` runs a hundred more seeds.
"""

from pathlib import Path

import pytest

from tests.mounted.anything import Anything
from tests.mounted.both import Both, Cases, Facts, cases_of, differences
from tests.mounted.test_acl import extended, minimal

pytestmark = pytest.mark.needs_root

ACLS = (
    minimal(),
    minimal(6, 4, 0),
    extended(),
    extended(mask=4),
    extended(owner=6, other=7),
    extended(group=0, mask=6),
)
STEPS = 400


@pytest.mark.parametrize(
    "seed", [*range(1, 7), *(pytest.param(seed, marks=pytest.mark.fuzz) for seed in range(100, 200))]
)
def test_outcomes(both: Both, seed: int) -> None:
    def operation(root: Path) -> Cases:
        return Anything(root, seed, ACLS).run(STEPS, timed=False)

    both(operation)


@pytest.mark.fuzz  # a busy machine may put a tick of the clock between two stamps of one side
@pytest.mark.parametrize("seed", range(300, 330))
def test_times(both: Both, seed: int) -> None:
    """Also which of mtime and ctime moved, of what was named and of the directories around it."""

    def operation(root: Path) -> Cases:
        return Anything(root, seed, ACLS).run(STEPS // 2, timed=True)

    both(operation)


def test_one_wrong_answer_is_noticed(plain_root: Path) -> None:
    """The control: the same on two plain directories, one of which loses one set-id bit, or one mode."""

    def found(name: str, **wrong: str) -> list[tuple[str, object]]:
        root = plain_root / f"control-{name}"
        root.mkdir()
        cases = cases_of(lambda root: Anything(root, 1, ACLS).run(STEPS, timed=False), root)
        for number, (label, value) in enumerate(cases):
            if isinstance(value, dict) and wrong:
                path = next(key for key, what in value.items() if isinstance(what, Facts))
                cases[number] = (label, {**value, path: wrong})
                break
        return cases

    right = found("right")
    assert differences(found("same"), right) == []
    assert len(differences(found("wrong", mode="0000"), right)) == 1
