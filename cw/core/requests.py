"""Requests: where each open one stands, as a table.

The concept: an open request is in exactly one place: waiting in its model's queue, planned in a
batch of one executor, committed in an action that was sent, or ran and not yet settled by its
gateway. The table below is the whole lifecycle; a step that is not in it is a bug.

::

    WAITING   held: neither promised nor refused yet; or promised and without a place, after its
              executor was lost
    PLANNED   promised, in a batch of some executor's plan
    COMMITTED promised, its action sent
    RAN       its action ran; only the gateway knows whether the answer was in time

Knows nothing of how places are chosen. Neighbours: `scheduler.py` alone moves requests.
"""

import enum
from typing import TYPE_CHECKING, Final

import attrs

from cw.messages import Attempt, GatewayId, RequestId, TenantId

if TYPE_CHECKING:
    from cw.core.books import ModelBooks
    from cw.core.plan import PlannedBatch
    from cw.core.shares import Account
    from cw.core.timeline import Committed
    from cw.core.work import Work


class RequestState(enum.Enum):
    """Where an open request stands; see the module's head."""

    following: "tuple[RequestState, ...]"
    """What a request may move to from here: its line of `TRANSITIONS`."""

    WAITING = "waiting"
    PLANNED = "planned"
    COMMITTED = "committed"
    RAN = "ran"


TRANSITIONS: Final[dict[RequestState, frozenset[RequestState]]] = {
    RequestState.WAITING: frozenset({RequestState.PLANNED}),
    # Back to WAITING: the executor was lost and no other has room yet.
    RequestState.PLANNED: frozenset({RequestState.COMMITTED, RequestState.WAITING}),
    # Back to WAITING: the attempt failed and the deadline allows another.
    RequestState.COMMITTED: frozenset({RequestState.RAN, RequestState.WAITING}),
    # Back to WAITING: it ran but its outputs were lost on the way.
    RequestState.RAN: frozenset({RequestState.WAITING}),
}
for _state, _following in TRANSITIONS.items():
    # Each request asks several times: an enum's member is found in a tuple without hashing it.
    _state.following = tuple(_following)


@attrs.define(eq=False)
class Request:
    """One open request. Instants are cluster time."""

    request_id: RequestId
    gateway_id: GatewayId
    model: "ModelBooks"
    arrival_ns: int
    deadline_ns: int
    due_ns: int
    """What is planned for: the deadline less the margin, or what was promised if that is sooner."""
    hold_until_ns: int
    attempt: Attempt
    tenant_id: TenantId = TenantId(0)
    promised: bool = False
    state: RequestState = RequestState.WAITING
    batch: "PlannedBatch | None" = None
    committed: "Committed[Work] | None" = None
    account: "Account | None" = None
    """What is counted of those who ask as it does: see `shares.py`."""
    is_best_effort: bool = False
    """It has no SLO, and stands in a line of `best_effort.py` while it waits."""
    tries: int = 0
    """How many batches a best-effort request was sent in."""
    ended_ns: int = 0
    """When its action ended, if it RAN."""
    predicted_ns: int = 0
    """What the gateway was told last."""
    executor_lost: bool = False
    """Some attempt was lost with its executor."""
    cause: str = ""
    """Why it would be late, if it is: see `ledger.py`."""
    history: list[object] = attrs.field(factory=list)
    """Flat, three entries a step: when, what, and what to put into its ``%``."""

    def move(self, state: RequestState) -> None:
        """Take one step of the lifecycle."""
        assert state in self.state.following, f"{self.state} -> {state}: {self.story()}"
        self.state = state

    def note(self, now_ns: int, what: str, detail: object = None) -> None:
        """Remember a step for `story`.

        Args:
            now_ns: Cluster time.
            what: In words, with one ``%`` for `detail`, which is put in when somebody asks.
            detail: None if there is no ``%``.
        """
        self.history += now_ns, what, detail

    def story(self) -> list[str]:
        """Tell what happened so far, one line a step, times since the arrival."""
        steps = zip(*[iter(self.history)] * 3, strict=True)
        return [
            f"{(at_ns - self.arrival_ns) / 1e6:+.3f} ms {_in_words(what, detail)}"
            for at_ns, what, detail in steps
        ]


def _in_words(what: str, detail: object) -> str:
    if detail is None:
        return what
    return what % (detail.value if isinstance(detail, enum.Enum) else detail)
