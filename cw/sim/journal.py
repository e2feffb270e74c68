"""The journal: what became of each request, as its gateway saw it, and what disturbed the plan.

Written by the gateways of the simulated world, read by `report.py` and `checkers.py`. Instants are
virtual time, which is cluster time.
"""

import enum

import attrs

from cw.messages import RequestId


class End(enum.Enum):
    """How a request ended."""

    KEPT = "kept"
    REFUSED = "refused"
    BROKEN = "broken"
    """Promised, then late or failed."""
    FAILED = "failed"
    """Never promised, and neither served nor refused."""


@attrs.define(eq=False, kw_only=True)
class RequestRecord:
    """One request."""

    request_id: RequestId
    model: int
    """The model's index."""
    arrival_ns: int
    deadline_ns: int
    promised_ns: int | None = None
    """When its gateway heard of the promise."""
    predicted_finish_ns: int = 0
    """What the last word on it said."""
    decided_at_arrival: bool = False
    """The controller decided in the same instant in which it heard of the request."""
    attempts: int = 1
    executors: list[str] = attrs.field(factory=list)
    """Where its attempts were assigned."""
    end: End | None = None
    reason: str = ""
    """Why it was refused, broken or failed."""
    ended_ns: int = 0


@attrs.frozen
class Disturbance:
    """Something outside the plan: what may break a promise without anybody's fault."""

    at_ns: int
    until_ns: int
    """Its end; the same instant where it has no length."""
    what: str


@attrs.define(eq=False)
class Journal:
    """All requests of a run, in the order of their arrival, and all disturbances."""

    requests: dict[RequestId, RequestRecord] = attrs.field(factory=dict)
    disturbances: list[Disturbance] = attrs.field(factory=list)
    unanswered: int = 0
    infer_busy_ns: int = 0
    """Time in which executors ran INFERs, since the traffic began."""
    load_busy_ns: int = 0
    loads: int = 0
    infers: int = 0

    def disturb(self, what: str, *, at_ns: int, for_ns: int = 0) -> None:
        """Note a disturbance."""
        self.disturbances.append(Disturbance(at_ns, at_ns + for_ns, what))

    def add(self, record: RequestRecord) -> None:
        """Take in a request that has just arrived."""
        assert record.request_id not in self.requests, f"{record.request_id} arrived twice"
        self.requests[record.request_id] = record
        self.unanswered += 1

    def close(self, record: RequestRecord, end: End, reason: str, *, now_ns: int) -> None:
        """Give a request its one end."""
        assert record.end is None, f"a second answer ({end.value}) to {record}"
        record.end, record.reason, record.ended_ns = end, reason, now_ns
        self.unanswered -= 1
