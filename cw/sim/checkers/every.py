"""All checkers together: each is shown only what it watches."""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from cw.messages import Action, Decision, ExecutorId, ModelId, RequestId
from cw.sim.checkers.answers import OneAnswer
from cw.sim.checkers.checker import Checker
from cw.sim.checkers.decisions import DecisionsStand
from cw.sim.checkers.lanes import LanesAreSerial
from cw.sim.checkers.losses import NothingOfTheLost
from cw.sim.checkers.pages import PagesSuffice
from cw.sim.checkers.promises import PromisesHold
from cw.sim.checkers.shares import SharesHonoured
from cw.sim.checkers.windows import WindowsHold
from cw.sim.journal import RequestRecord

if TYPE_CHECKING:
    from cw.sim.executor import Pending, SimExecutor, SimLane
    from cw.sim.scenario import Scenario

_SLACK_PARTS = 4
"""Noise that adds up to less than this part of the margin must not break a promise: the rest of it
is for messages, clocks and the way back."""
_JITTERS = 20
"""More than so many times its mean a message's jitter is once in 5 * 10^8 times."""


def checkers_for(scenario: "Scenario") -> "Checkers":
    """Make the checkers of a run."""
    each: list[Checker] = [
        OneAnswer(),
        DecisionsStand(),
        LanesAreSerial(),
        WindowsHold(),
        PagesSuffice(),
        NothingOfTheLost(),
    ]
    margin_ns = scenario.settings.margin_ns
    slack_ns = margin_ns // _SLACK_PARTS
    # Where messages alone can eat the margin, luck decides which promises hold, at least until it
    # was learnt how long answers are on their way.
    network = scenario.network
    messages_ns = network.delay_ns + network.jitter_ns * _JITTERS
    if not network.bytes_per_second and messages_ns + slack_ns <= margin_ns:
        each.append(PromisesHold(slack_ns=slack_ns))
    if scenario.shares is not None:
        each.append(
            SharesHonoured(
                scenario.shares,
                tenants=[model.tenant for model in scenario.models],
                costs_ns=[scenario.table_of(model)[1] for model in scenario.models],
                executors=scenario.executors,
            )
        )
    return Checkers(each)


class Checkers(Checker):
    """Shows everything to all of them.

    Args:
        each: In the order in which they look.
    """

    def __init__(self, each: Sequence[Checker]) -> None:
        def watching(name: str) -> tuple[Callable[..., None], ...]:
            base: Any = getattr(Checker, name)
            return tuple(
                getattr(checker, name)
                for checker in each
                if getattr(type(checker), name) is not base
            )

        self._arrived = watching("arrived")
        self._decided = watching("decided")
        self._answered = watching("answered")
        self._sent = watching("sent")
        self._started = watching("started")
        self._ended = watching("ended")
        self._pages_claimed = watching("pages_claimed")
        self._pages_freed = watching("pages_freed")
        self._disturbed = watching("disturbed")
        self._silenced = watching("silenced")
        self._dropped = watching("dropped")
        self._lost = watching("lost")
        self._finish = watching("finish")

    def arrived(self, record: RequestRecord) -> None:
        """See `Checker`."""
        for look in self._arrived:
            look(record)

    def decided(self, decision: Decision, *, on: ExecutorId | None, now_ns: int) -> None:
        """See `Checker`."""
        for look in self._decided:
            look(decision, on=on, now_ns=now_ns)

    def answered(self, record: RequestRecord) -> None:
        """See `Checker`."""
        for look in self._answered:
            look(record)

    def sent(self, executor_id: ExecutorId, action: Action, *, now_ns: int) -> None:
        """See `Checker`."""
        for look in self._sent:
            look(executor_id, action, now_ns=now_ns)

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        for look in self._started:
            look(executor, lane, pending, now_ns=now_ns)

    def ended(self, executor: "SimExecutor", lane: "SimLane", pending: "Pending") -> None:
        """See `Checker`."""
        for look in self._ended:
            look(executor, lane, pending)

    def pages_claimed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """See `Checker`."""
        for look in self._pages_claimed:
            look(executor, model_id, pages)

    def pages_freed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """See `Checker`."""
        for look in self._pages_freed:
            look(executor, model_id, pages)

    def disturbed(self, what: str, *, now_ns: int, until_ns: int) -> None:
        """See `Checker`."""
        for look in self._disturbed:
            look(what, now_ns=now_ns, until_ns=until_ns)

    def silenced(self, executor_id: ExecutorId, *, noticed_ns: int) -> None:
        """See `Checker`."""
        for look in self._silenced:
            look(executor_id, noticed_ns=noticed_ns)

    def dropped(self, executor_id: ExecutorId, reason: str) -> None:
        """See `Checker`."""
        for look in self._dropped:
            look(executor_id, reason)

    def lost(self, executor_id: ExecutorId, displaced: Collection[RequestId]) -> None:
        """See `Checker`."""
        for look in self._lost:
            look(executor_id, displaced)

    def finish(self) -> None:
        """See `Checker`."""
        for look in self._finish:
            look()
