"""Windows are respected."""

from typing import TYPE_CHECKING

from cw.messages import Action, ActionId, ExecutorId, Infer, Unload
from cw.sim.checkers.checker import Checker, require

if TYPE_CHECKING:
    from cw.sim.executor import Pending, SimExecutor, SimLane


class WindowsHold(Checker):
    """Nothing starts outside of its window; actions are numbered upwards and make sense."""

    def __init__(self) -> None:
        self._last = ActionId(0)

    def sent(self, executor_id: ExecutorId, action: Action, *, now_ns: int) -> None:
        """See `Checker`."""

        def where() -> str:
            return f"executor {executor_id}, action {action.action_id}"

        require(action.action_id > self._last, lambda: f"{where()}: sent after action {self._last}")
        self._last = action.action_id
        if isinstance(action, Unload):
            return
        window = action.window
        require(
            window.earliest_ns <= window.latest_ns and window.latest_ns >= now_ns,
            lambda: f"{where()}: sent at {now_ns} for a window that nothing can start in: {window}",
        )
        if isinstance(action, Infer):
            require(
                len(action.slots) <= action.batch_size,
                lambda: f"{where()}: {len(action.slots)} slots in a batch of {action.batch_size}",
            )
            require(
                len({slot.request_id for slot in action.slots}) == len(action.slots),
                lambda: f"{where()}: a request has two slots: {action}",
            )

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        del lane
        action = pending.action
        if not isinstance(action, Unload):
            window = action.window
            require(
                window.earliest_ns <= now_ns <= window.latest_ns,
                lambda: (
                    f"{executor.name}: action {action.action_id} started at {now_ns}, outside of "
                    f"{window}"
                ),
            )
