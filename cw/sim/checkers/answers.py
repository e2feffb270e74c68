"""One answer per request."""

from cw.messages import GatewayId, RequestId, gateway_of
from cw.sim.checkers.checker import Checker, require
from cw.sim.journal import RequestRecord


class OneAnswer(Checker):
    """Every request gets one answer: no gateway gives two, and none is forgotten.

    Gateways number their requests upwards, so that one number each tells new ones from old.
    """

    def __init__(self) -> None:
        self._open: dict[RequestId, RequestRecord] = {}
        self._last: dict[GatewayId, RequestId] = {}

    def arrived(self, record: RequestRecord) -> None:
        """See `Checker`."""
        gateway_id = gateway_of(record.request_id)
        last = self._last.get(gateway_id, -1)
        require(record.request_id > last, lambda: f"{record.request_id} arrived after {last}")
        self._last[gateway_id] = record.request_id
        self._open[record.request_id] = record

    def answered(self, record: RequestRecord) -> None:
        """See `Checker`."""
        mine = self._open.pop(record.request_id, None)
        require(mine is record, lambda: f"a second answer, or one to nobody: {record}")
        require(record.end is not None, lambda: f"an answer that is none: {record}")
        require(
            record.arrival_ns <= record.ended_ns <= record.deadline_ns,
            lambda: f"answered before its arrival or after its deadline: {record}",
        )

    def finish(self) -> None:
        """See `Checker`."""
        some = list(self._open.values())[:3]
        require(not some, lambda: f"{len(self._open)} requests without an answer: {some}")
