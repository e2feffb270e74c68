"""What a checker is: something that watches a run and raises at the first contradiction."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from cw.messages import Action, Decision, ExecutorId, ModelId, RequestId
from cw.sim.journal import RequestRecord

if TYPE_CHECKING:
    from cw.sim.executor import Pending, SimExecutor, SimLane


class InvariantBroken(AssertionError):
    """Something happened that must never happen. A bug: the message says what, and to whom."""


def require(holds: bool, message: Callable[[], str]) -> None:
    """Have an invariant hold.

    Args:
        holds: Whether it does.
        message: Makes the words for when it does not: made for each thing that was looked at, they
            would cost more than all the rest of a run.

    Raises:
        InvariantBroken: It does not.
    """
    if not holds:
        raise InvariantBroken(message())


class Checker:
    """Watches; every method is a thing that it may see. Instants are cluster time.

    A checker must hold no more than what is open and a bounded past: runs are long.
    """

    def arrived(self, record: RequestRecord) -> None:
        """A request came to a gateway."""

    def decided(self, decision: Decision, *, on: ExecutorId | None, now_ns: int) -> None:
        """The controller decided about requests.

        Args:
            decision: As it is told to the gateway.
            on: The executor on which a promise is planned, if it is.
            now_ns: When.
        """

    def answered(self, record: RequestRecord) -> None:
        """A gateway gave a request its answer."""

    def sent(self, executor_id: ExecutorId, action: Action, *, now_ns: int) -> None:
        """The controller sent an action."""

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """A lane started an action; `now_ns` is on the executor's clock."""

    def ended(self, executor: "SimExecutor", lane: "SimLane", pending: "Pending") -> None:
        """A lane's action ended."""

    def pages_claimed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """An executor gave pages to a model."""

    def pages_freed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """An executor took pages back."""

    def disturbed(self, what: str, *, now_ns: int, until_ns: int) -> None:
        """Something outside of the plan began, and lasts until `until_ns` if it lasts."""

    def silenced(self, executor_id: ExecutorId, *, noticed_ns: int) -> None:
        """An executor does nothing any more, which is to be noticed by `noticed_ns`."""

    def dropped(self, executor_id: ExecutorId, reason: str) -> None:
        """The scheduler cut an executor off."""

    def lost(self, executor_id: ExecutorId, displaced: Collection[RequestId]) -> None:
        """The controller is told that an executor is gone, with the work of those `displaced`."""

    def finish(self) -> None:
        """The run is over."""
