"""The cluster's status on the wire."""

from typing import Any

from cw.messages import CellStatus, ClusterStatus, Epoch, ExecutorId, ExecutorStatus, Ledger
from cw.rpc.codec.binding import list_to_wire
from cw.rpc.codec.models import model_status_from_wire, model_status_to_wire


def executor_status_to_wire(status: ExecutorStatus, wire: Any) -> None:
    """Write an `ExecutorStatus`."""
    wire.executorId = status.executor_id
    wire.name = status.name
    wire.state = status.state
    wire.device = status.device
    wire.pagesTotal = status.pages_total
    wire.pagesFree = status.pages_free
    wire.resident = list(status.resident)
    wire.utilisation = status.utilisation


def executor_status_from_wire(wire: Any) -> ExecutorStatus:
    """Read an `ExecutorStatus`."""
    return ExecutorStatus(
        executor_id=ExecutorId(wire.executorId),
        name=wire.name,
        state=wire.state,
        device=wire.device,
        pages_total=wire.pagesTotal,
        pages_free=wire.pagesFree,
        resident=tuple(wire.resident),
        utilisation=wire.utilisation,
    )


def _count_to_wire(count: tuple[str, int], wire: Any) -> None:
    wire.name, wire.count = count


def _counts_from_wire(wire_list: Any) -> tuple[tuple[str, int], ...]:
    return tuple((it.name, it.count) for it in wire_list)


def ledger_to_wire(ledger: Ledger, wire: Any) -> None:
    """Write a `Ledger`."""
    wire.requests = ledger.requests
    wire.kept = ledger.kept
    list_to_wire(_count_to_wire, ledger.refused, wire.init("refused", len(ledger.refused)))
    list_to_wire(_count_to_wire, ledger.broken, wire.init("broken", len(ledger.broken)))
    list_to_wire(_count_to_wire, ledger.failed, wire.init("failed", len(ledger.failed)))


def ledger_from_wire(wire: Any) -> Ledger:
    """Read a `Ledger`."""
    return Ledger(
        requests=wire.requests,
        kept=wire.kept,
        refused=_counts_from_wire(wire.refused),
        broken=_counts_from_wire(wire.broken),
        failed=_counts_from_wire(wire.failed),
    )


def cell_status_to_wire(status: CellStatus, wire: Any) -> None:
    """Write a `CellStatus`."""
    wire.cell = status.cell
    wire.epoch = status.epoch
    wire.executors = list(status.executors)
    wire.queued = status.queued
    ledger_to_wire(status.ledger, wire.init("ledger"))


def cell_status_from_wire(wire: Any) -> CellStatus:
    """Read a `CellStatus`."""
    return CellStatus(
        cell=wire.cell,
        epoch=Epoch(wire.epoch),
        executors=tuple(wire.executors),
        queued=wire.queued,
        ledger=ledger_from_wire(wire.ledger),
    )


def cluster_status_to_wire(status: ClusterStatus, wire: Any) -> None:
    """Write a `ClusterStatus`."""
    wire.epoch = status.epoch
    wire.queued = status.queued
    list_to_wire(
        executor_status_to_wire, status.executors, wire.init("executors", len(status.executors))
    )
    list_to_wire(model_status_to_wire, status.models, wire.init("models", len(status.models)))
    ledger_to_wire(status.ledger, wire.init("ledger"))
    ledger_to_wire(status.best_effort, wire.init("bestEffort"))
    list_to_wire(cell_status_to_wire, status.cells, wire.init("cells", len(status.cells)))


def cluster_status_from_wire(wire: Any) -> ClusterStatus:
    """Read a `ClusterStatus`."""
    return ClusterStatus(
        epoch=Epoch(wire.epoch),
        queued=wire.queued,
        executors=tuple(executor_status_from_wire(it) for it in wire.executors),
        models=tuple(model_status_from_wire(it) for it in wire.models),
        ledger=ledger_from_wire(wire.ledger),
        best_effort=ledger_from_wire(wire.bestEffort),
        cells=tuple(cell_status_from_wire(it) for it in wire.cells),
    )
