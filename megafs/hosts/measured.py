"""How a host does: latency, throughput, counts, health; and the breaker that stops asking a host that is down.

Answers (also "no such object", "refused", "full") show that the host lives; only HostUnreachable counts as a failure.
After ``failures`` of them in a row each request is answered HostUnreachable at once, until the probe time passes and
one request may find out whether the host is back; the probe time doubles, with jitter, while it is not.

A host that said it is full counts as full until it takes as much as it refused, or until it may have made room. If
what it says of its free space agreed with that, it is believed as well when it says that there is room again. Web
servers mostly do not say so but have an error of their own: who has it for FAILED_PUTS, none as large going well in
between, and answers other questions, is taken for full.
"""

import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from math import ceil
from typing import TypeVar

import trio

from megafs.errors import HostError, HostFailing, HostFull, HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts import pace
from megafs.hosts.protocol import Bytes, Host
from megafs.hosts.wrappers import Request, Wrapped, jittered
from megafs.model import Statistics, Usage

Result = TypeVar("Result")

SMALL_BYTES = 64 << 10  # up to here the time of a request is latency; sealed chunks of random writes included
FULL_S = 600.0  # a full host is tried again after this: its owner may have made room
FAILED_PUTS = 3
GIVEN_UP = 2  # reads in a row, none answered in between, each after GIVEN_UP_S: it hangs, or is too slow to be of use
GIVEN_UP_S = 1.0
HANGS_S = 120.0  # then it is tried again
LARGE_BYTES = 1 << 20  # from here on it is throughput
WEIGHT = 0.2  # of a new sample in a moving average
FAILING_WEIGHT = 0.02  # the share of failures is that of about the last fifty requests
SAMPLES = 128  # of reads of one size, for their p95
ENOUGH_SAMPLES = 20
SIZES = (SMALL_BYTES, 512 << 10, 2 << 20, 16 << 20)


class Measured(Wrapped):
    """Measures a host and breaks the circuit. Owns its counters; everything else reads them."""

    def __init__(
        self,
        inner: Host,
        *,
        label: str,
        failures: int = 5,
        probe_s: float = 5.0,
        probe_most_s: float = 300.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        self._label = label
        self._failures_allowed = failures
        self._probe_first_s = probe_s
        self._probe_most_s = probe_most_s
        self._probe_s = probe_s
        self._closed_until = 0.0
        self._probing = False
        self._chance = chance
        self._failures_in_a_row = 0
        self._refusals_in_a_row = 0
        self._counts: Counter[str] = Counter()
        self._reads: dict[int, deque[float]] = {}  # by size_class
        self.failing = 0.0  # the share of recent requests that were not answered
        self.latency_s = 0.0  # 0: not measured yet
        self.upload_bytes_s = 0.0
        self.download_bytes_s = 0.0
        self.given_up = 0  # reads in a row, none answered in between
        self._overtaken_at = 0.0
        self._failed_puts: list[int] = []  # sizes, since the last one that went well and was as large
        self._refused_bytes = 0  # the smallest object that it had no room for; 0: none
        self._refused_at = 0.0
        self._says_when_full = False
        self.last_error = ""
        self.last_error_at = 0.0  # (trio's clock)
        self.on_failure: Callable[[], None] = lambda: None

    @property
    def healthy(self) -> bool:
        """Whether requests go to the host at all now."""
        return self._failures_in_a_row < self._failures_allowed

    @property
    def paused_s(self) -> float:
        """For how long it is not asked anything any more; 0: it is asked."""
        return 0.0 if self.healthy else max(0.0, self._closed_until - trio.current_time())

    def ask_now(self) -> None:
        """Somebody waits who may have put it right: the next request goes to it, and if that fails the pauses are short
        again."""
        self._closed_until = min(self._closed_until, trio.current_time())
        self._probe_s = self._probe_first_s

    @property
    def answers(self) -> bool:
        """Whether the last request was answered with what was asked for, or with a reason that is not the host's."""
        return not self._failures_in_a_row and not self.refusing

    @property
    def refusing(self) -> bool:
        """Whether it answers, and refuses whatever it is asked: of no more use than one that is down."""
        return self._refusals_in_a_row >= self._failures_allowed

    @property
    def hangs(self) -> bool:
        """Whether readers had to give it up again and again just now. No failure: it may only be slow."""
        return self.given_up >= GIVEN_UP and trio.current_time() < self._overtaken_at + HANGS_S

    @property
    def full(self) -> bool:
        """Whether it had no room for the last large thing."""
        return self._refused_bytes > 0 and trio.current_time() < self._refused_at + FULL_S

    def p95_s(self, count: int = SMALL_BYTES) -> float:
        """What 95 % of the last reads of about this many bytes took at most; 0: too few reads to say. Of sizes not read
        yet, a smaller one's and the time that the other bytes take on top."""
        for size in range(size_class(count), -1, -1):
            samples = self._reads.get(size, ())
            if len(samples) >= ENOUGH_SAMPLES:
                ordered = sorted(samples)
                more = 0.0 if size == size_class(count) else self.expected_s(count) - self.latency_s
                return ordered[ceil(0.95 * len(ordered)) - 1] + more
        return 0.0

    def expected_s(self, count: int) -> float:
        """How long a read of this many bytes should take; what readers compare hosts by."""
        return self.latency_s + (count / self.download_bytes_s if self.download_bytes_s else 0.0)

    def statistics(self) -> Statistics:
        return {
            **self._counts,
            "healthy": int(self.healthy),
            "full": int(self.full),
            "latency_s": self.latency_s,
            "p95_s": self.p95_s(),
            "upload_bytes_s": self.upload_bytes_s,
            "download_bytes_s": self.download_bytes_s,
            "last_error": self.last_error,
        }

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        is_probe = self._admit()
        started = trio.current_time()
        self._counts["requests"] += request.verb != "list"  # passes once per entry
        try:
            result = await work()
        except HostUnreachable as error:
            self._failed(error)
            raise
        except HostError as error:
            self._answered(request)
            self._note(error)
            if isinstance(error, HostRefused):
                self._refusals_in_a_row += request.verb != "delete"  # append-only credentials refuse just these
                self.on_failure()
            elif isinstance(error, HostFull):
                self._note_full(request.sent_bytes)
            raise
        except trio.Cancelled:
            # A read that was given up is a sample too: it takes at least this long. Else a host that is always
            # overtaken by another one would look fast for ever.
            if request.verb == "get":
                self._sample(request, trio.current_time() - started, 0, is_whole=False)
                if trio.current_time() - started >= GIVEN_UP_S:
                    self.given_up, self._overtaken_at = self.given_up + 1, trio.current_time()
            raise
        finally:
            if is_probe:
                self._probing = False
        self._answered(request)
        self._refusals_in_a_row = 0
        received = len(result) if isinstance(result, bytes) else 0
        self._counts["sent_bytes"] += request.sent_bytes
        self._counts["received_bytes"] += received
        self._sample(request, trio.current_time() - started, received, is_whole=True)
        if request.verb == "put" and request.sent_bytes >= self._refused_bytes:
            self._refused_bytes = 0
        if request.verb == "put" and request.sent_bytes >= min(self._failed_puts, default=0):
            self._failed_puts.clear()
        if isinstance(result, Usage) and result.free_bytes is not None:
            self._hear(result.free_bytes)
        return result

    async def put(self, name: str, data: Bytes) -> None:
        try:
            await super().put(name, data)
        except HostFailing as error:
            try:
                await self.head(name)
            except ObjectMissing:  # it lives
                self._failed_puts.append(len(data))
            if len(self._failed_puts) < FAILED_PUTS:
                raise
            self._note_full(len(data))
            self.last_error = f"{error}, {len(self._failed_puts)} times, though it answers otherwise: taken for full"
            self.last_error_at = trio.current_time()
            raise HostFull(self.last_error) from error

    def _note_full(self, count: int) -> None:
        smallest = min(self._refused_bytes, count) if self.full else count
        self._refused_bytes, self._refused_at = max(1, smallest), trio.current_time()

    def _hear(self, free_bytes: int) -> None:
        """One that knows only of its disk and not of a quota says all the time that there is room."""
        if free_bytes < self._refused_bytes:
            self._says_when_full = True
        elif self._says_when_full:
            self._refused_bytes, self._says_when_full = 0, False

    def _admit(self) -> bool:
        """Whether this request is the probe; raises HostUnreachable while the circuit is broken."""
        if self.healthy:
            return False
        if self._probing or trio.current_time() < self._closed_until:
            self._counts["refused_at_once"] += 1
            raise HostUnreachable(f"{self._label}: down, not asked again yet ({self.last_error})")
        self._probing = True
        return True

    def _failed(self, error: HostUnreachable) -> None:
        self._counts["failures"] += 1
        self._failures_in_a_row += 1
        self.failing += FAILING_WEIGHT * (1 - self.failing)
        self._note(error)
        self.on_failure()
        if not self.healthy:
            self._closed_until = trio.current_time() + jittered(self._probe_s, self._chance)
            self._probe_s = min(2 * self._probe_s, self._probe_most_s)

    def _answered(self, request: Request) -> None:
        if request.verb != "list":  # passes once per entry
            self.failing -= FAILING_WEIGHT * self.failing
        self._failures_in_a_row = self.given_up = 0
        self._probe_s = self._probe_first_s

    def _note(self, error: HostError) -> None:
        if isinstance(error, ObjectMissing):
            self._counts["missing"] += 1
        else:
            self.last_error, self.last_error_at = str(error), trio.current_time()

    def _sample(self, request: Request, all_s: float, received: int, *, is_whole: bool) -> None:
        """``all_s``: with the waiting for our own limits of rate, which hedging has to expect; the host is not slower
        for it."""
        moved, took_s = request.sent_bytes + received, all_s - pace.current().waited_s
        if moved <= SMALL_BYTES and request.verb != "list" and (is_whole or took_s > self.latency_s):
            self.latency_s = _moved_towards(self.latency_s, took_s)
        if request.verb == "get":
            size = size_class(max(moved, request.wanted_bytes or 0))
            self._reads.setdefault(size, deque(maxlen=SAMPLES)).append(all_s)
        if moved >= LARGE_BYTES:
            rate = moved / max(took_s - self.latency_s, 1e-4)
            if received:
                self.download_bytes_s = _moved_towards(self.download_bytes_s, rate)
            else:
                self.upload_bytes_s = _moved_towards(self.upload_bytes_s, rate)


def size_class(count: int) -> int:
    """Reads that compare: up to 64 KiB, up to 512 KiB, up to 2 MiB, up to 16 MiB, more."""
    return next((number for number, most in enumerate(SIZES) if count <= most), len(SIZES))


def _moved_towards(average: float, sample: float) -> float:
    return sample if not average else average + WEIGHT * (sample - average)
