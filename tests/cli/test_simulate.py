"""contrib/simulate: repeatable, orders policies as it must, agrees with the exact chain where that applies."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from megafs.config import Settings
from megafs.sync import scrub

SCRIPT = Path(__file__).parent.parent.parent / "contrib" / "simulate"


def simulated(*options):
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, options)], capture_output=True, text=True, check=True, timeout=100
    )
    rows = [line.replace(" copies", "-copies").replace(" copy", "-copy").split() for line in done.stdout.splitlines()]
    return {row[0]: (float(row[2].strip("<%")) / 100, float(row[3]), float(row[5])) for row in rows[1:]}


def test_a_seed_repeats_and_more_parts_lose_less(tmp_path):
    plot = tmp_path / "plot.svg"
    rows = simulated("--vaults", 200, "--svg", plot)
    assert rows == simulated("--vaults", 200)
    assert rows != simulated("--vaults", 200, "--seed", 2)
    assert rows["1-copy"][0] > rows["2-copies"][0] > rows["3-copies"][0]
    for better, worse in (("2+2", "2+1"), ("3+3", "2+2"), ("3-copies", "2-copies"), ("6+3", "4+2")):
        assert rows[better][1] < rows[worse][1]
    assert rows["2+2"][2] == pytest.approx(rows["2-copies"][2], rel=0.2), "the same space costs the same"
    texts = [element.text for element in ElementTree.fromstring(plot.read_text()).iter() if element.text]
    assert {"2 copies", "2+2", "6+3"} <= set(texts)


def test_it_agrees_with_the_chain_of_hosts_alone():
    world = ("--decay-share", 0, "--operator-years", 1e9, "--years-to-failure", 0.5, "--years", 2)
    rows = simulated("--vaults", 1000, *world)
    for policy in ("1-copy", "2-copies", "2+1"):
        share, probability, _ = rows[policy]
        assert share == pytest.approx(probability, rel=0.25)


def test_its_defaults_are_what_the_code_does():
    shown = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    told = dict(re.findall(r"--([a-z-]+) N +default ([0-9.e+-]+)", shown))
    assert float(told["scrub-a-day"]) == scrub.A_DAY
    assert float(told["gone-days"]) * 86_400 == Settings().host_gone_s


def test_less_scrubbing_and_later_repair_lose_more():
    world = ("--vaults", 200, "--gib", 20, "--decay-share", 1e-3)
    base = simulated(*world)
    assert simulated(*world, "--scrub-a-day", 1)["2+2"][0] > 2 * base["2+2"][0]
    assert simulated(*world, "--gone-days", 60)["2+2"][1] > 10 * base["2+2"][1]
