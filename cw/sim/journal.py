"""The journal: what becomes of each request, as its gateway sees it.

Written by the gateways of the simulated world, read by `report.py`. Instants are virtual time,
which is cluster time. A request's record is dropped when it ends, unless someone wants to look at
each of them afterwards (`keep_records`); what it adds up to stays in the tally.
"""

from collections.abc import Callable

import attrs

from cw.messages import NO_DEADLINE_NS, ExecutorId, RequestId
from cw.sim.bound import BoundMeter
from cw.sim.tally import End, Tally

__all__ = ["End", "Journal", "RequestRecord"]


@attrs.define(eq=False, kw_only=True)
class RequestRecord:
    """One request."""

    request_id: RequestId
    model: int
    """The model's index."""
    arrival_ns: int
    deadline_ns: int
    tenant: int = 0
    promised_ns: int | None = None
    """When its gateway heard of the promise."""
    predicted_finish_ns: int = 0
    """What the last word on it said."""
    decided_at_arrival: bool = False
    """The controller decided in the same instant in which it heard of the request."""
    attempts: int = 1
    """How many were made; the last one is the current one."""
    executors: tuple[str, ...] = ()
    """Where its attempts were assigned."""
    end: End | None = None
    reason: str = ""
    """Why it was refused, broken or failed."""
    ended_ns: int = 0
    on: ExecutorId | None = None
    """Where its gateway has sent its inputs, until that attempt fails."""
    ask_next: Callable[["RequestRecord"], None] | None = None
    """Of a client that waits for the answer before it asks again: told of the end."""

    @property
    def is_best_effort(self) -> bool:
        """Whether it has no deadline: it is counted apart, and no checker judges it by time."""
        return self.deadline_ns == NO_DEADLINE_NS


@attrs.define(eq=False)
class Journal:
    """What happened in a run, and what it adds up to."""

    requests: dict[RequestId, RequestRecord] = attrs.field(factory=dict)
    """In the order of their arrival: those that are open; all of them where records are kept."""
    keep_records: bool = True
    unanswered: int = 0
    infer_busy_ns: int = 0
    """Time in which executors ran INFERs, since the traffic began."""
    load_busy_ns: int = 0
    loads: int = 0
    infers: int = 0
    tally: Tally = attrs.field(factory=Tally)
    bound: BoundMeter | None = None
    """Learns of what was offered."""

    def add(self, record: RequestRecord) -> None:
        """Take in a request that has just arrived."""
        assert record.request_id not in self.requests, f"{record.request_id} arrived twice"
        self.requests[record.request_id] = record
        self.unanswered += 1
        if self.bound is not None and not record.is_best_effort:
            self.bound.add(record.arrival_ns, record.deadline_ns, record.model)

    def close(self, record: RequestRecord, end: End, reason: str, *, now_ns: int) -> None:
        """Give a request its one end."""
        assert record.end is None, f"a second answer ({end.value}) to {record}"
        record.end, record.reason, record.ended_ns = end, reason, now_ns
        self.unanswered -= 1
        self.tally.ended(record)
        if not self.keep_records:
            del self.requests[record.request_id]

    def ran(self, infer: bool, *, busy_ns: int, ended_ns: int) -> None:
        """Count an INFER, or else a LOAD, that ran for so long of the traffic's time."""
        second = self.tally.second(ended_ns)
        if infer:
            self.infers += 1
            self.infer_busy_ns += busy_ns
            second.infer_busy_ns += busy_ns
        else:
            self.loads += 1
            self.load_busy_ns += busy_ns
            second.loads += busy_ns > 0  # else it was done after the traffic
            second.load_busy_ns += busy_ns
