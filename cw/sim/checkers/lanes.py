"""Lanes are serial."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from cw.messages import ActionId, ExecutorId, RequestId
from cw.sim.checkers.checker import Checker, require

if TYPE_CHECKING:
    from cw.sim.executor import Pending, SimExecutor, SimLane


class LanesAreSerial(Checker):
    """No two actions run at once on one lane; executors that share lanes have one."""

    def __init__(self) -> None:
        self._running: dict[ExecutorId, dict[str, ActionId]] = {}

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        del now_ns
        running = self._running.setdefault(executor.executor_id, {})
        action_id = pending.action.action_id
        require(
            lane.name not in running,
            lambda: (
                f"{executor.name}: action {action_id} started on lane {lane.name} beside "
                f"{running.get(lane.name)}"
            ),
        )
        running[lane.name] = action_id

    def ended(self, executor: "SimExecutor", lane: "SimLane", pending: "Pending") -> None:
        """See `Checker`."""
        ended = self._running.get(executor.executor_id, {}).pop(lane.name, None)
        action_id = pending.action.action_id
        require(ended == action_id, lambda: f"{executor.name}: {action_id} ended while {ended} ran")

    def lost(self, executor_id: ExecutorId, displaced: Collection[RequestId]) -> None:
        """See `Checker`."""
        del displaced
        self._running.pop(executor_id, None)
