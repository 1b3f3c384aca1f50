"""What a worker says of itself: metrics, whether it lives, whether it is ready."""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from infra.metrics import Family, Metric, Sample, exposition, one
from infra.metrics_server import Told
from infra.stop_request import StopRequest
from streams.group import Group
from streams.lag import Lags
from streams.patience import NotNowError
from streams.settings import StreamSettings
from streams.sink import Sink

log = logging.getLogger("rentroll.ingest")

LOOK_S = 5.0
STUCK_S = 30.0
"""The loop looks every `LOOK_S`: one that has not for so long is blocked for good."""

LAG_EVENTS = Metric("ingest_lag_events", "gauge", "Records of the log that are not in the ledger.")
LAG_SECONDS = Metric(
    "ingest_lag_seconds", "gauge", "How long the oldest record has waited for the ledger."
)
ROWS = Metric("ingest_rows_total", "counter", "Rows that were inserted.")
RECORDS = Metric("ingest_records_total", "counter", "Records whose range is in the ledger.")
REFUSED = Metric("ingest_refused_records_total", "counter", "Records sent to the dead letters.")
RANGES = Metric("ingest_ranges_total", "counter", "Ranges that were promised and written.")
RETRIES = Metric("ingest_retries_total", "counter", "Calls to broker or ledger made again.")
REPLAYED = Metric(
    "ingest_replayed_ranges_total", "counter", "Promises of an earlier owner that were kept again."
)
COMMITS = Metric("ingest_commits_total", "counter", "Commits that the group took.")
FENCED = Metric("ingest_fenced_partitions_total", "counter", "Partitions lost during a write.")
REBALANCES = Metric(
    "ingest_rebalances_total", "counter", "Times that all partitions were given up."
)
LOST = Metric(
    "ingest_lost_offsets_total", "counter", "Offsets that retention took before they were read."
)
INSERT = Metric("ingest_insert_seconds", "histogram", "One insert, from its call to its answer.")
DECODE = Metric("ingest_decode_seconds_total", "counter", "Time spent in decoding.")
PARTITIONS = Metric("ingest_partitions", "gauge", "Partitions that this worker owns.")
READY = Metric("ingest_ready", "gauge", "1 where /readyz says yes.")
RSS = Metric("process_resident_bytes", "gauge", "Memory of the process that is in RAM.")

METRICS = (
    LAG_EVENTS, LAG_SECONDS, ROWS, RECORDS, REFUSED, RANGES, RETRIES, REPLAYED, COMMITS, FENCED,
    REBALANCES, LOST, INSERT, DECODE, PARTITIONS, READY, RSS,
)  # fmt: skip


@dataclass(slots=True)
class _Answers:
    """When somebody last did what it is there for, by the monotonic clock; 0.0 for never."""

    broker_s: float = 0.0
    ledger_s: float = 0.0
    progress_s: float = 0.0
    looked_s: float = 0.0


class IngestWatch:
    """Looks at a worker from its loop, and answers from other threads by what it saw last."""

    def __init__(
        self,
        group: Group,
        sink: Sink,
        ask_ledger: Callable[[], None],
        settings: StreamSettings,
    ) -> None:
        self._group = group
        self._sink = sink
        self._ask_ledger = ask_ledger
        self._within_s = settings.ingest_ready_s
        self._lags = Lags()
        self._answers = _Answers(looked_s=monotonic())
        self._assigned = False
        self._ranges = 0
        self._asking: threading.Thread | None = None
        self._ended = StopRequest()

    @property
    def told(self) -> Told:
        """For the server of metrics."""
        return Told(lambda: exposition(self.families()), self.unhealthy, self.unready)

    async def look(self, *, joined: bool) -> None:
        """See where the log ends, and whether anything was written since; from a timer.

        Args:
            joined: Whether the worker has ever been given partitions.
        """
        self._answers.looked_s = monotonic()
        if self._asking is None:
            self._asking = threading.Thread(target=self._keep_asking, name="ask", daemon=True)
            self._asking.start()
        self._assigned = joined and self._group.settled and bool(self._group.assignment())
        if self._assigned:
            await self._look_at_log()
        now_s = monotonic()
        if self._sink.counters.ranges != self._ranges or not self._behind():
            self._ranges, self._answers.progress_s = self._sink.counters.ranges, now_s

    def end(self) -> None:
        """Ask the ledger nothing more."""
        self._ended.set()

    def families(self) -> list[Family]:
        """All metrics of this moment."""
        counters, written = self._sink.counters, self._sink.positions()
        events = self._lags.events(written)
        lag = Family(
            LAG_EVENTS,
            [
                Sample(count, (("topic", topic), ("partition", str(partition))))
                for (topic, partition), count in sorted(events.items())
            ],
        )
        totals = {
            ROWS: counters.rows,
            RECORDS: counters.records,
            REFUSED: counters.refused_records,
            RANGES: counters.ranges,
            RETRIES: counters.retries,
            REPLAYED: counters.replayed_ranges,
            COMMITS: counters.commits,
            FENCED: counters.fenced_partitions,
            REBALANCES: counters.rebalances,
            LOST: counters.lost_offsets,
            DECODE: counters.decode_ns / 1e9,
            PARTITIONS: len(self._lags.places),
            READY: int(not self.unready()),
            RSS: resident_bytes(),
        }
        return [
            lag,
            one(LAG_SECONDS, self._lags.seconds(written, monotonic())),
            Family(INSERT, self._sink.insert_times.samples()),
            *(one(metric, value) for metric, value in totals.items()),
        ]

    def unhealthy(self) -> list[str]:
        """What only a restart mends."""
        wrong = []
        if self._sink.failure is not None:
            wrong.append(f"ingest failed: {type(self._sink.failure).__name__}")
        silent_s = monotonic() - self._answers.looked_s
        if silent_s > STUCK_S:
            wrong.append(f"the loop is blocked for {silent_s:.0f} s")
        return wrong

    def unready(self) -> list[str]:
        """What keeps events from going into the ledger."""
        wrong = self.unhealthy()
        if not self._assigned:
            wrong.append("no partition is assigned")
        now_s = monotonic()
        for what, since_s in (
            ("the broker does not answer", self._answers.broker_s),
            ("ClickHouse does not answer", self._answers.ledger_s),
            ("there is a lag, and nothing is written", self._answers.progress_s),
        ):
            if now_s - since_s > self._within_s or not since_s:
                wrong.append(f"{what} within {self._within_s} s")
        return wrong

    def _behind(self) -> bool:
        return any(self._lags.events(self._sink.positions()).values())

    async def _look_at_log(self) -> None:
        places = self._group.assignment()
        try:
            async with asyncio.timeout(LOOK_S):
                ends = await self._group.log_ends(places)
        except (NotNowError, TimeoutError) as error:
            log.info("the broker does not say where the log ends", extra={"why": repr(error)})
            return
        self._answers.broker_s = monotonic()
        self._lags.saw(ends, self._sink.positions(), self._answers.broker_s)

    def _keep_asking(self) -> None:
        """On a thread that ends with the process: a ledger that hangs must hang nothing else."""
        self._ask()
        while not self._ended.wait(LOOK_S):
            self._ask()

    def _ask(self) -> None:
        try:
            self._ask_ledger()
        except NotNowError as error:
            log.info("ClickHouse does not answer", extra={"why": str(error)[:1_000]})
        else:
            self._answers.ledger_s = monotonic()


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1_024
    except OSError:
        return 0
    return 0
