"""What the CLI asks of a running daemon about alarms: all of them, those that are open, the checkpoint phrase."""

import time
from collections.abc import AsyncGenerator, Mapping

from megafs.control.messages import Alarmed, AlarmReport, Message, Request
from megafs.control.server import Handler
from megafs.crypto.phrase import Phrase
from megafs.daemon.engine import Engine
from megafs.errors import Usage
from megafs.model import Alarm
from megafs.sync.told import sentence


def reports(engine: Engine) -> tuple[AlarmReport, ...]:
    """Every alarm, in words too."""
    labels = {spec.id: spec.label for spec in engine.vault.hosts()}

    def report(alarm: Alarm) -> AlarmReport:
        return AlarmReport(
            n=alarm.n,
            kind=alarm.kind.value,
            host=next((label for host, label in labels.items() if host == alarm.host), ""),
            device=alarm.device,
            known_seq=alarm.known_seq,
            known_hash=alarm.known_hash,
            shown_seq=alarm.shown_seq,
            shown_hash=alarm.shown_hash,
            since_s=alarm.since_s,
            acknowledged_s=alarm.acknowledged_s,
            sentence=sentence(alarm, labels),
        )

    return tuple(report(alarm) for alarm in engine.alarms.all())


def still_open(engine: Engine) -> tuple[AlarmReport, ...]:
    """Those that nobody has acknowledged."""
    return tuple(report for report in reports(engine) if not report.acknowledged_s)


def phrase(engine: Engine) -> str:
    """Of the newest commit of this device that a host has confirmed, or of the one that it goes on from."""
    newest = engine.alarms.newest_witness(engine.device.number)
    if newest is None:
        others = [head for head in engine.ledger.heads() if head.device != engine.device.number]
        if not others:
            return ""
        base = max(others, key=lambda head: head.device)
        return Phrase.of(engine.device.keyring.vault, base.device, base.seq, base.hash).text()
    return Phrase.of(engine.device.keyring.vault, newest.device, newest.seq, newest.hash).text()


class AlarmCalls:
    """The handler of one mount."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def handlers(self) -> Mapping[str, Handler]:
        return {"alarms": self.alarms}

    async def alarms(self, request: Request) -> AsyncGenerator[Message, None]:
        """Acknowledge those that are asked for, durably, and tell all."""
        engine = self._engine
        known = {alarm.n for alarm in engine.alarms.all()}
        unknown = [n for n in request.acknowledge if n not in known]
        if unknown:
            raise Usage(f"there is no alarm {unknown[0]}; megafs alarms NAME lists them")
        for n in request.acknowledge:
            engine.alarms.acknowledge(n, int(time.time()))
        if request.acknowledge:
            await engine.commits.durable_now()
        yield Alarmed(alarms=reports(engine))
