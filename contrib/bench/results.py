"""From figures to what is shown: medians, ratios to a reference, a table, JSON, and a line in the diary."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systems import REPOSITORY
from workloads import METRICS

DIARY = Path(__file__).resolve().parent / "diary.jsonl"
SUBJECT = "megafs"  # whose earlier figures are shown beside today's
HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
Runs = dict[str, dict[str, list[float]]]  # system -> metric -> one value a round


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric: a median for each system, and how many times the reference's time (or cost) each needs."""

    metric: str
    medians: Mapping[str, float]
    ratios: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A line of the diary, MegaFS's medians in it, and whether sizes and counts were those of today."""

    entry: Mapping[str, Any]
    medians: Mapping[str, float]
    alike: bool

    @property
    def commit(self) -> str:
        return str(self.entry["commit"])


def multiple(metric: str, value: float, base: float) -> float:
    """What ``value`` costs as a multiple of ``base``; below 1 is faster."""
    if METRICS[metric].unit == "s":
        return value / base
    return base / value if value else float("inf")


def rows(runs: Runs, reference: str) -> list[Row]:
    found = []
    for metric in METRICS:
        medians = {name: statistics.median(values[metric]) for name, values in runs.items() if values.get(metric)}
        if not medians:
            continue
        base = medians.get(reference)
        ratios = {}
        if base:
            for name, value in medians.items():
                ratios[name] = multiple(metric, value, base)
        found.append(Row(metric=metric, medians=medians, ratios=ratios))
    return found


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def before(row: Row, earlier: Earlier) -> str:
    """Its cell of the last column."""
    then, now = earlier.medians.get(row.metric), row.medians.get(SUBJECT)
    if then is None:
        return "-"
    compares = earlier.alike or METRICS[row.metric].unit != "s"
    return number(then) + (f" ({multiple(row.metric, then, now):.2f})" if now and compares else "")


def newest_of(name: str, scale: float, diary: Path = DIARY) -> Earlier | None:
    """The diary's last run of a commit with MegaFS in it, as seen from a run of this scale; ``name`` may be the
    beginning of the commit's."""
    newest = None
    for line in diary.read_text().splitlines():
        entry = json.loads(line)
        medians = {
            metric: values[SUBJECT] for metric, values in entry.get("medians", {}).items() if values.get(SUBJECT)
        }
        if medians and entry["commit"].startswith(name):
            newest = Earlier(entry=entry, medians=medians, alike=entry["scale"] == scale)
    return newest


def told_of(earlier: Earlier) -> str:
    """What to know before comparing with it."""
    entry = earlier.entry
    load, processor = entry["load"], entry["machine"]["processor"]
    told = f"{SUBJECT} at {earlier.commit}: {entry['when']}, load {load[0]:g}, {processor}"
    if not earlier.alike:
        told += f"; at {entry['scale']:g} of the sizes, so that only figures a second compare"
    return told


def table(found: Sequence[Row], systems: Sequence[str], reference: str, earlier: Earlier | None = None) -> str:
    """Markdown. In brackets: time or cost as a multiple of the reference's; below 1 is faster than it. With an earlier
    run of MegaFS, a last column has its medians, and in brackets what they are as a multiple of today's."""
    heads = ["", "unit", *systems, *([f"{SUBJECT} at {earlier.commit}"] if earlier else [])]
    lines = [heads, ["-" * max(3, len(head)) for head in heads]]
    for row in found:
        cells = [METRICS[row.metric].what, METRICS[row.metric].unit]
        for name in systems:
            text = number(row.medians[name]) if name in row.medians else "-"
            if name in row.ratios and name != reference:
                text += f" ({row.ratios[name]:.2f})"
            cells.append(text)
        if earlier:
            cells.append(before(row, earlier))
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def machine() -> dict[str, object]:
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor,
        "processors": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        # 0 in a virtual machine: an idle processor halts at once, and every request pays for waking it.
        "halt_poll_ns": int(HALT_POLL.read_text()) if HALT_POLL.exists() else None,
    }


def commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def stamp(versions: Mapping[str, str]) -> dict[str, object]:
    """When, of what and on what something was measured: a part of each line of the diary."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": machine(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "versions": dict(versions),
    }


def record(runs: Runs, versions: Mapping[str, str], *, scale: float, reference: str, note: str) -> dict[str, object]:
    """Everything that a later reader needs to judge the figures."""
    return {
        **stamp(versions),
        "note": note,
        "scale": scale,
        "reference": reference,
        "medians": {row.metric: {n: round(v, 4) for n, v in row.medians.items()} for row in rows(runs, reference)},
        "ratios": {row.metric: {n: round(v, 3) for n, v in row.ratios.items()} for row in rows(runs, reference)},
        "runs": {n: {m: [round(v, 4) for v in vs] for m, vs in values.items()} for n, values in runs.items()},
    }


def append_to_diary(entry: Mapping[str, object], diary: Path = DIARY) -> None:
    with open(diary, "a") as file:
        file.write(json.dumps(entry, sort_keys=True) + "\n")
