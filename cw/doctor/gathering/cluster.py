"""Facts of a running cluster: asked of a gateway, and read from its executors' records."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import attrs
import trio

from cw.actors.clock import now_ns
from cw.actors.telemetry import ActionRecord
from cw.client import Client
from cw.doctor.cluster import ClusterFacts, RecordFacts
from cw.errors import CwError
from cw.messages import ClusterStatus, Outcome
from cw.records import files
from cw.records.files import Span, Tally
from cw.units import SECOND

ANSWER_WITHIN_S: Final = 5
SPAN_S: Final = 600
"""Records of the last ten minutes are judged: what was before may have been mended."""
READ_WITHIN_S: Final = 5
"""Some 300,000 records; what is not read by then is left out."""


Connect = Callable[[], AbstractAsyncContextManager[Client]]
"""Opens a connection to the gateway, with whatever key and certificates that takes."""


async def cluster(address: str, connect: Connect, *, folder: Path | None) -> ClusterFacts:
    """Ask a gateway, and read the records of its executors.

    Args:
        address: The gateway's, for people.
        connect: To it.
        folder: The cluster's; None if it is not on this machine.
    """
    facts = ClusterFacts(address=address)
    try:
        with trio.fail_after(ANSWER_WITHIN_S):
            async with connect() as client:
                begin_ns = now_ns()
                status = await client.status()
                facts = attrs.evolve(facts, status=status, answer_ns=now_ns() - begin_ns)
    except trio.TooSlowError:
        error = f"nothing came from {address} within {ANSWER_WITHIN_S} s"
        return attrs.evolve(facts, status=None, error=error)
    except (CwError, OSError) as exc:
        return attrs.evolve(facts, status=None, error=str(exc))
    if folder is None:
        return facts
    records = await trio.to_thread.run_sync(read_records, folder, status, abandon_on_cancel=True)
    return attrs.evolve(facts, records=records, span_s=SPAN_S)


async def http_error(url: str) -> str:
    """Try to connect to an HTTP door; say why it failed, or nothing."""
    where = urlsplit(url)
    try:
        with trio.fail_after(ANSWER_WITHIN_S):
            stream = await trio.open_tcp_stream(where.hostname or "", where.port or 0)
            await stream.aclose()
    except trio.TooSlowError:
        return f"no connection within {ANSWER_WITHIN_S} s"
    except OSError as exc:
        return str(exc)
    return ""


def read_records(folder: Path, status: ClusterStatus) -> tuple[RecordFacts, ...]:
    """Read what a cluster's executors wrote in the last minutes, in the present epochs.

    Args:
        folder: The cluster's.
        status: Says which epochs these are.
    """
    sums: dict[str, _Sum] = {}
    epochs = {status.epoch, *(cell.epoch for cell in status.cells)}
    ends_ns = time.monotonic_ns() + READ_WITHIN_S * SECOND
    for path in files.find(folder):
        latest = files.last(path)
        if latest is None or latest.epoch not in epochs:
            continue
        # Cluster time is some process's own, so the present is told by the date of a record.
        age_ns = time.time_ns() - latest.date_ns
        span = Span(latest.epoch, latest.end_ns + age_ns - SPAN_S * SECOND)
        for record in files.read([path], tally=Tally(), span=span):
            sums.setdefault(record.executor, _Sum()).add(record)
            if time.monotonic_ns() > ends_ns:
                break
    return tuple(sums[name].facts(name) for name in sorted(sums))


@attrs.define
class _Sum:
    """Sums up one executor's records as they come: ten minutes can hold hundreds of thousands."""

    runs: int = 0
    ids: set[int] = attrs.field(factory=set)
    overruns: Counter[str] = attrs.field(factory=Counter)
    clock_offset_ns: int = 0
    records: int = 0
    clock_error_sum_ns: int = 0

    def add(self, record: ActionRecord) -> None:
        """Count a record."""
        self.ids.add(record.executor_id)
        self.clock_offset_ns = record.clock_offset_ns
        self.records += 1
        self.clock_error_sum_ns += record.clock_error_ns
        if record.kind == "INFER" and record.slots and record.outcome == Outcome.OK.value:
            self.runs += 1
            if record.device_ns > record.expected_ns:
                self.overruns[record.model] += 1

    def facts(self, executor: str) -> RecordFacts:
        """Give what was counted."""
        return RecordFacts(
            executor=executor,
            joins=len(self.ids),
            clock_offset_ns=self.clock_offset_ns,
            clock_error_ns=self.clock_error_sum_ns // max(1, self.records),
            runs=self.runs,
            overruns=self.overruns.total(),
            worst_model=self.overruns.most_common(1)[0][0] if self.overruns else "",
        )
