"""Counts what an engine does between two switches of tasks: statements, CPU time, turns of tasks, syncs of files."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw
import pytest
import trio

from tests.security.rig import Drive, Rig

BEATS = ("megafs.sync.scrub.", "megafs.sync.mirror.")  # tasks, with all that they start


def is_beat(task: trio.lowlevel.Task | None) -> bool:
    """Whether it belongs to the heartbeat: it or who started it does."""
    while task is not None:
        if task.name.startswith(BEATS):
            return True
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task
    return False


class Steps(trio.abc.Instrument):
    """Statements between two switches of tasks, and how often tasks run; those of BEATS apart."""

    def __init__(self) -> None:
        self.statements = self.most = self.all = self.aside = self.woken = self.beats = 0
        self.cpu_ms: list[float] = []  # of this thread, of each step: what else the machine does is not in it
        self.ours: trio.lowlevel.Task | None = None
        self._is_beat = False
        self._began_s = time.thread_time()

    def note(self, event: dict[str, object]) -> None:
        sql = str(event["sql"])
        if not sql.startswith("PRAGMA") and "'main'." not in sql:  # the session's own, 2 µs a changed row
            self.statements += 1
            self.all += not self._is_beat

    def note_aside(self, event: dict[str, object]) -> None:
        self.aside += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.statements = 0
        self._is_beat = is_beat(task)
        self.beats += task.name.startswith(BEATS) and task.name.endswith(".run")
        self.woken += task is not self.ours and not self._is_beat
        self._began_s = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.cpu_ms.append((time.thread_time() - self._began_s) * 1000)
        self.most = max(self.most, self.statements)

    def within_ms(self, of_100: int = 99) -> float:
        """So many of 100 steps take no longer."""
        return sorted(self.cpu_ms)[len(self.cpu_ms) * of_100 // 100]


@contextmanager
def counted(drive: Drive) -> Iterator[Steps]:
    """Statements of the engine's connection while the body runs, and those of the other one, for threads, apart."""
    steps, database = Steps(), drive.engine.database
    steps.ours = trio.lowlevel.current_task()
    with database.side() as side:
        side.trace_v2(apsw.SQLITE_TRACE_STMT, steps.note_aside)
    database.connection.trace_v2(apsw.SQLITE_TRACE_STMT, steps.note)
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)
        database.connection.trace_v2(0)
        side.trace_v2(0)


@contextmanager
def synced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often anybody in this process has a file synced while the body runs."""
    syncs: Counter[str] = Counter()

    def counting(name: str, original: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            syncs[name] += 1
            original(descriptor)

        return sync

    with monkeypatch.context() as patched:
        for name in ("fsync", "fdatasync"):
            patched.setattr(os, name, counting(name, getattr(os, name)))
        yield syncs


def put(rig: Rig, since: int = 0) -> list[tuple[str, int]]:
    """(name, bytes) of what hosts got, behind the first ``since``."""
    return [(seen.name, len(seen.data)) for seen in rig.brain.transcript[since:] if seen.verb == "put"]
