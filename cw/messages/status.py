"""What `cw status` shows."""

import attrs

from cw.messages.ids import Epoch, ExecutorId
from cw.messages.models import ModelStatus


@attrs.frozen(kw_only=True)
class ExecutorStatus:
    """An executor as the controller sees it now."""

    executor_id: ExecutorId
    name: str
    state: str
    """``serving``, ``preparing`` or ``lost``."""
    device: str
    pages_total: int
    pages_free: int
    resident: tuple[str, ...]
    utilisation: float
    """Share of the last seconds in which its INFER lane ran actions."""


@attrs.frozen(kw_only=True)
class Ledger:
    """What became of all requests since the controller's start."""

    requests: int = 0
    kept: int = 0
    refused: tuple[tuple[str, int], ...] = ()
    broken: tuple[tuple[str, int], ...] = ()
    """By cause: ``executorLost``, ``ranLong``, ``preempted``, ``startedLate``, ``inputsLate``,
    ``deliveredLate``."""
    failed: tuple[tuple[str, int], ...] = ()


@attrs.frozen(kw_only=True)
class CellStatus:
    """A controller with its executors, as a gateway sees it now."""

    cell: int
    """Its number, from 0."""
    epoch: Epoch
    """0 while its controller can't be reached."""
    executors: tuple[str, ...]
    """Their names."""
    queued: int
    ledger: Ledger


@attrs.frozen(kw_only=True)
class ClusterStatus:
    """The answer to `cw status`."""

    epoch: Epoch
    queued: int
    executors: tuple[ExecutorStatus, ...]
    models: tuple[ModelStatus, ...]
    ledger: Ledger
    best_effort: Ledger = Ledger()
    """Of the requests without an SLO, which `ledger` leaves out. Its `kept` are those that were
    answered, whenever that was."""
    cells: tuple[CellStatus, ...] = ()
    """Where there are several; all else is then their sum, and the first one's epoch."""
