"""contrib/bench: one failure costs one figure, nothing waits for ever, and what is printed is what was measured."""

import json
import multiprocessing
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parent.parent / "contrib/bench"
METRIC, OTHER = "request-create", "create-1"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    """Loads a program or a module of contrib/bench, whose modules are not left behind."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        path = BENCH / name
        loader = SourceFileLoader(path.stem, str(path))
        module = sys.modules[path.stem] = ModuleType(path.stem)
        module.__file__ = str(path)
        loader.exec_module(module)
        return module

    yield load
    for name in set(sys.modules) - before:
        if str(BENCH) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_a_system_that_fails_costs_the_figures_of_one_workload(bench, tmp_path: Path, capsys) -> None:
    run = bench("run")

    class Sick(run.SYSTEMS["native"]):
        def unmount(self) -> None:
            raise KeyError("does not end")

    def half(measured) -> None:
        measured.figures["append"] = 1.0
        raise RuntimeError("in the middle")

    run.WORKLOADS["appends"] = half
    assert run.measure(Sick(tmp_path / "sick"), "appends", None, 1.0) == {"append": 1.0}
    told = capsys.readouterr().err.splitlines()
    assert told == ["native, appends: RuntimeError: in the middle", "native did not end: KeyError: 'does not end'"]
    assert not (tmp_path / "sick").exists(), "the next workload finds nothing in its way"
    Sick.version = Sick.unmount
    assert run.version(Sick(tmp_path)) == "unknown"


def test_processes_that_fail_or_do_not_end_are_a_failure(bench) -> None:
    workloads = bench("workloads.py")
    never = multiprocessing.Event()
    stuck = multiprocessing.Process(target=never.wait)
    failing = multiprocessing.Process(target=os._exit, args=(3,))
    well = multiprocessing.Process(target=os.getpid)
    for process in (stuck, failing, well):
        process.start()
    failing.join()
    well.join()
    workloads.all_ended([well], 0)
    with pytest.raises(workloads.Failed, match="2 of 3 processes failed, 1 of them did not end"):
        workloads.all_ended([stuck, failing, well], 0)
    assert not stuck.is_alive()


def test_what_is_missing_or_fails_is_told(bench, tmp_path: Path, monkeypatch, capsys) -> None:
    workloads = bench("workloads.py")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("fio", "git", "rsync"):
        workloads.WORKLOADS[name](None)
        assert capsys.readouterr().err == f"without {name}: it is missing, and so are its figures\n"
    (tmp_path / "fio").write_text("#!/bin/sh\necho no such engine >&2\nexit 1\n")
    (tmp_path / "fio").chmod(0o755)
    system = workloads.System(tmp_path)
    material = workloads.Bench(system=system, corpus=None, scale=0.001)
    workloads.fio(material)
    assert not material.figures
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert told[0] == "native, fio-randread-buffered: fio ended with 1: no such engine"


def test_each_kind_of_request_is_measured_and_has_a_name(bench, tmp_path: Path, monkeypatch) -> None:
    workloads = bench("workloads.py")
    monkeypatch.setattr(workloads, "drop_caches", lambda: True)  # other tests use the machine, too
    system = workloads.System(tmp_path)
    system.mountpoint = tmp_path
    measured = workloads.Bench(system=system, corpus=None, scale=0.0001)
    workloads.requests(measured)
    assert set(measured.figures) == {name for name in workloads.METRICS if name.startswith("request-")}
    measured.figures.clear()
    workloads.operations(measured)
    assert set(measured.figures) <= set(workloads.METRICS)
    assert {"create-1", "unlink-8"} <= set(measured.figures)


def test_each_label_of_the_plot_has_room(bench) -> None:
    plot = bench("plot.py")
    assert all(10 + plot.LETTER * len(metric.what) <= plot.LEFT for metric in plot.METRICS.values())


def entry(commit: str, median: float, scale: float = 1.0) -> str:
    medians = {METRIC: {"megafs": median, "native": 1.0}, OTHER: {"megafs": 100.0}}
    told = {"commit": commit, "scale": scale, "when": "then", "load": [2.0], "machine": {"processor": "P"}}
    return json.dumps({**told, "medians": medians})


def test_an_earlier_run_stands_beside_todays(bench, tmp_path: Path) -> None:
    results, diary = bench("results.py"), tmp_path / "diary"
    foreign = json.dumps({"commit": "abc", "files": 1_000_000})
    diary.write_text("\n".join([entry("abcd", 3.0), entry("abcd", 6.0), foreign, entry("ef", 9.0)]))
    assert results.newest_of("0123", 1.0, diary) is None
    earlier = results.newest_of("abc", 1.0, diary)
    rows = results.rows({"megafs": {METRIC: [3.0, 2.0, 4.0], OTHER: [200.0]}}, "megafs")
    table = results.table(rows, ["megafs"], "megafs", earlier)
    assert "megafs at abcd" in table.splitlines()[0]
    cells = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in table.splitlines()}
    assert cells["create, 5,000 times"] == "6 (2.00)"
    assert cells["create, 1 process"] == "100 (2.00)", "half as many a second cost twice as much"
    assert results.told_of(earlier) == "megafs at abcd: then, load 2, P"
    small = results.newest_of("abc", 0.1, diary)
    assert "6 |" in " ".join(results.table(rows, ["megafs"], "megafs", small).split()), "seconds do not compare"
    assert "100 (2.00)" in results.table(rows, ["megafs"], "megafs", small)
    assert "only figures a second" in results.told_of(small)


def test_each_line_of_the_diary_tells_when_and_of_what(bench) -> None:
    results = bench("results.py")
    assert set(results.stamp({})) == {"when", "commit", "machine", "load", "versions"}
    assert set(results.stamp({})) < set(results.record({}, {}, scale=1, reference="native", note=""))


def test_scale_tells_what_is_missed(bench, tmp_path: Path, capsys) -> None:
    scale = bench("scale")
    report = scale.Report(tmp_path / "scale.json", {"megafs": "1"})
    report.begin(1_000_000)
    for name, rate, cost_s in (("10,000", 1000.0, 0.5), ("1,000,000", 790.0, 1.4)):
        report.add(f"files created a second, at {name}", rate, "/s")
        report.add(f"shipping one file more, at {name}", cost_s, "s")
        report.add(f"status, at {name}", 4 * cost_s if "," in name[3:] else cost_s, "s")
    report.keep("fill")
    assert not report.missed
    again = scale.Report(tmp_path / "scale.json", {"megafs": "1"})
    scale.compared(5, again)
    assert again.missed == ["late to early rate of creating", "status, late to early"]
    assert again.figures["shipping one file more, late to early"] == 2.8
    assert "at least 0.8: missed" in capsys.readouterr().out
    again.add("at the limit", 400, "MB", under=400)
    assert again.missed[-1] == "at the limit"


def test_mounts_are_seen_without_asking_who_serves_them(bench, tmp_path: Path) -> None:
    systems = bench("systems.py")
    assert not systems.is_mounted(tmp_path)
    assert systems.is_mounted(Path("/proc"))


@pytest.mark.parametrize("program", ["run", "scale", "latency", "hosts", "options"])
def test_programs_explain_themselves(program: str) -> None:
    env = {**os.environ, "MEGAFS_VENV": sys.prefix}
    told = subprocess.run(
        [sys.executable, BENCH / program, "--help"], capture_output=True, text=True, env=env, check=True
    )
    assert "usage:" in told.stdout
