"""Each tenant gets its share.

A share is of device time: a tenant of weight w among weights of W in all owns w/W of every
executor. What "a tenant that asks for no more than its share" means must not depend on luck, so it
is said request by request, by comparison with a machine that does not exist:

    The tenant's *own machine* has w/W of the cluster's speed and no other user. It takes requests
    in the order of their arrival, one at a time and never in batches; a request of cost c (its
    model's duration at batch size 1) is done c * W / (w * executors) after it was begun. Those that
    it could finish `slack_ns` and one more c before their deadline *conform*, and it does them. All
    others it leaves undone, at no cost.

Conforming requests are what the tenant could have had without any company. Packet-by-packet fair
queueing finishes each of them no later than that machine does, plus the one batch that cannot be
interrupted; `slack_ns` has room for that batch, messages and margin. So a cluster that honours
shares can answer all of them whatever the others ask, and what the checker asserts is:

    Of one tenant's requests that arrived in one window of time, those that were kept cost together
    at least `at_least` times what those that conform cost together.

For a tenant that stays within its share all requests conform, so that this is the share of its work
that is kept. Of a tenant that asks for more it is the least that it gets; which of its requests are
answered is then the cluster's choice, since the own machine's is no better than another.

Windows that a disturbance touches are not judged, and nothing is after the loss of an executor. By
its definition the verdict depends on the arrivals and the answers alone: no statistics, hence no
failure by chance. The models must fit into memory together, since the own machine never LOADs.

Source: Parekh and Gallager (1993), theorem 1, for the bound on packets' delay.
"""

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Final

import attrs

from cw.errors import ConfigError
from cw.messages import ExecutorId, RequestId
from cw.sim.checkers.checker import Checker, InvariantBroken
from cw.sim.journal import End, RequestRecord
from cw.units import SECOND

_AFTERMATH_NS: Final = 1 * SECOND
"""So long after a disturbance its backlog may still be felt."""


def _are_weights(
    _: object, attribute: "attrs.Attribute[Mapping[int, int]]", value: Mapping[int, int]
) -> None:
    if min(value.values(), default=0) < 1:
        raise ConfigError(
            f"{attribute.name}: expected a weight of at least 1 for each tenant, got {value}"
        )


@attrs.frozen(kw_only=True)
class ShareRule:
    """What a scenario expects of its tenants' shares."""

    weights: Mapping[int, int] = attrs.field(validator=_are_weights)
    """By tenant, all of those that ask for anything."""
    slack_ns: int
    """The longest batch of any model, and what messages and margins take."""
    at_least: float = 0.99
    window_ns: int = 1 * SECOND
    learning_ns: int = 0
    """Windows that begin within this time of the first request are not judged: nobody can know yet
    who asks for how much."""

    def speed(self, tenant: int, executors: int) -> Fraction:
        """Say how fast a tenant's own machine is, in executors."""
        return Fraction(self.weights[tenant] * executors, sum(self.weights.values()))


@attrs.define(eq=False)
class _Window:
    """The requests of one tenant that arrived in one window, by what they cost."""

    begin_ns: int
    asked_ns: int = 0
    conforming_ns: int = 0
    kept_ns: int = 0
    open: int = 0
    void: bool = False


@attrs.define(eq=False)
class _OwnMachine:
    """One tenant's machine, and the windows that are not judged yet."""

    speed: Fraction
    free_ns: int = 0
    windows: dict[int, _Window] = attrs.field(factory=dict)

    def takes(self, record: RequestRecord, cost_ns: int, slack_ns: int) -> bool:
        """Say whether it can do a request in time, and have it do it."""
        end_ns = max(self.free_ns, record.arrival_ns) + int(cost_ns / self.speed)
        if end_ns + cost_ns + slack_ns > record.deadline_ns:
            return False
        self.free_ns = end_ns
        return True


class SharesHonoured(Checker):
    """Whoever asks for no more than its share gets it; see the module's head.

    Args:
        rule: What is expected.
        tenants: By model's index, whose it is.
        costs_ns: By model's index, its duration at batch size 1.
        executors: How many share the work.
    """

    def __init__(
        self,
        rule: ShareRule,
        *,
        tenants: Sequence[int],
        costs_ns: Sequence[int],
        executors: int,
    ) -> None:
        self._rule: Final = rule
        self._tenants: Final = tenants
        self._costs_ns: Final = costs_ns
        self._machines: Final = {
            tenant: _OwnMachine(rule.speed(tenant, executors)) for tenant in rule.weights
        }
        self._windows: Final[dict[RequestId, _Window]] = {}
        """Of the open requests."""
        self._void_until_ns = -1
        self._begun = False
        self._over = False

    def arrived(self, record: RequestRecord) -> None:
        """See `Checker`."""
        if self._over:
            return
        if not self._begun and self._rule.learning_ns:
            learnt_ns = record.arrival_ns + self._rule.learning_ns
            self._void_until_ns = max(self._void_until_ns, learnt_ns)
        self._begun = True
        tenant = self._tenants[record.model]
        machine, cost_ns = self._machines[tenant], self._costs_ns[record.model]
        self._judge(tenant, before_ns=record.arrival_ns)
        number = record.arrival_ns // self._rule.window_ns
        window = machine.windows.get(number)
        if window is None:
            begin_ns = number * self._rule.window_ns
            window = _Window(begin_ns, void=begin_ns <= self._void_until_ns)
            machine.windows[number] = window
        window.open += 1
        window.asked_ns += cost_ns
        if machine.takes(record, cost_ns, self._rule.slack_ns):
            window.conforming_ns += cost_ns
        self._windows[record.request_id] = window

    def answered(self, record: RequestRecord) -> None:
        """See `Checker`."""
        window = self._windows.pop(record.request_id, None)
        if window is not None:
            window.open -= 1
            if record.end is End.KEPT:
                window.kept_ns += self._costs_ns[record.model]

    def disturbed(self, what: str, *, now_ns: int, until_ns: int) -> None:
        """See `Checker`."""
        del what, now_ns
        self._void_until_ns = max(self._void_until_ns, until_ns + _AFTERMATH_NS)
        for machine in self._machines.values():
            for window in machine.windows.values():
                window.void = True

    def lost(self, executor_id: ExecutorId, displaced: Collection[RequestId]) -> None:
        """See `Checker`."""
        del executor_id, displaced
        self._over = True
        for machine in self._machines.values():
            machine.windows.clear()

    def finish(self) -> None:
        """See `Checker`."""
        for tenant in self._machines:
            self._judge(tenant, before_ns=None)

    def _judge(self, tenant: int, *, before_ns: int | None) -> None:
        """Judge the windows of a tenant that are over, with all their requests answered."""
        windows = self._machines[tenant].windows
        for number, window in list(windows.items()):
            over = before_ns is None or window.begin_ns + self._rule.window_ns <= before_ns
            if window.open or not over:
                continue
            del windows[number]
            least_ns = int(self._rule.at_least * window.conforming_ns)
            if not window.void and window.kept_ns < least_ns:
                raise InvariantBroken(
                    f"tenant {tenant} asked for {window.asked_ns} ns of device time in the window "
                    f"from {window.begin_ns} on, of which {window.conforming_ns} ns were within "
                    f"its share of {dict(self._rule.weights)}; expected {least_ns} ns to be kept "
                    f"at least, got {window.kept_ns}"
                )
