"""Nothing is asked of an executor that is gone, and none is given up without a cause."""

from collections.abc import Collection
from typing import Final

from cw.messages import Action, Assign, Decision, ExecutorId, Promise, RequestId
from cw.sim.checkers.checker import Checker, require
from cw.units import SECOND

_CAUSE_NS: Final = 30 * SECOND
"""A disturbance explains a cut-off until this long after its end: patience with actions that nobody
waits for by the millisecond is ten seconds, and one may stand behind another."""


class NothingOfTheLost(Checker):
    """No promise is made on an executor after its loss had to be noticed, and none without any.

    A death is noticed when the connection breaks, a stall when the silence has lasted too long;
    until then promises on it are honest mistakes. And the scheduler cuts an executor off only after
    something had disturbed the world: giving up one that works would break its promises by choice.
    """

    def __init__(self) -> None:
        self._noticed: dict[ExecutorId, int] = {}
        self._explained_until_ns = -1
        self._now_ns = 0

    def silenced(self, executor_id: ExecutorId, *, noticed_ns: int) -> None:
        """See `Checker`."""
        self._noticed[executor_id] = min(noticed_ns, self._noticed.get(executor_id, noticed_ns))

    def lost(self, executor_id: ExecutorId, displaced: Collection[RequestId]) -> None:
        """See `Checker`."""
        del displaced
        # Ids are never given twice, so that this grows with the executors' lives only.
        self._noticed[executor_id] = -1

    def decided(self, decision: Decision, *, on: ExecutorId | None, now_ns: int) -> None:
        """See `Checker`."""
        if isinstance(decision, Assign):
            self._still_there(decision.executor_id, decision, now_ns)
        elif isinstance(decision, Promise):
            require(on is not None, lambda: f"a promise without a place: {decision}")
            assert on is not None
            self._still_there(on, decision, now_ns)

    def sent(self, executor_id: ExecutorId, action: Action, *, now_ns: int) -> None:
        """See `Checker`."""
        self._now_ns = now_ns
        self._still_there(executor_id, action, now_ns)

    def disturbed(self, what: str, *, now_ns: int, until_ns: int) -> None:
        """See `Checker`."""
        del what, now_ns
        self._explained_until_ns = max(self._explained_until_ns, until_ns + _CAUSE_NS)

    def dropped(self, executor_id: ExecutorId, reason: str) -> None:
        """See `Checker`."""
        require(
            self._now_ns <= self._explained_until_ns,
            lambda: f"executor {executor_id} was cut off though nothing had disturbed it: {reason}",
        )

    def _still_there(self, executor_id: ExecutorId, what: Decision | Action, now_ns: int) -> None:
        noticed_ns = self._noticed.get(executor_id)
        require(
            noticed_ns is None or now_ns <= noticed_ns,
            lambda: f"executor {executor_id} was gone by {noticed_ns}, and yet at {now_ns}: {what}",
        )
