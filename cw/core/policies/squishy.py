"""Squishy bin packing: how many requests of which models share a device, from their rates.

The concept: a *session* is one model with its rate and its SLO. A session that fills devices gets
whole ones, at the largest batch with ``2 l(b) <= SLO``: a request that just missed a batch waits
for one and rides in the next. What is left of each is packed: a session of rate r that gathers b
requests takes ``b / r``, its *duty cycle*, and needs ``l(b) + b / r <= SLO``. Sessions share a
device when they can do so in the shortest of their cycles: with each batch squeezed to what comes
in that time, all batches fit into it, and each is still in time. Best fit, most occupied first.

Nexus takes as many devices as that needs. Here they are given: what does not fit is *squeezed in*,
where the least is to do, as long as the weights fit; then the cycle takes longer than planned and
early drop sheds the load. Spare devices repeat the fullest nodes.

Pure arithmetic on rates. Neighbours: `nexus.py` measures these and carries the plan out.

Source: Nexus (SOSP 2019), section 6.1, algorithm 1.
"""

import math
from collections.abc import Sequence

import attrs

from cw.messages import ModelId


@attrs.frozen(kw_only=True)
class Session:
    """One model's demand."""

    model_id: ModelId
    rate_per_ns: float
    budget_ns: int
    """From arrival to end: the SLO, less what lies on the way."""
    costs_ns: Sequence[int]
    """Index n: how long a batch of n takes."""
    pages: int = 0

    @property
    def largest(self) -> int:
        """The largest batch there is."""
        return len(self.costs_ns) - 1

    @property
    def sizes(self) -> list[int]:
        """The batches that no larger one costs as little as: others are these, padded."""
        return [
            count
            for count in range(1, self.largest + 1)
            if count == self.largest or self.costs_ns[count] < self.costs_ns[count + 1]
        ]

    def saturating_batch(self) -> int:
        """Say which batch a device that does nothing else runs."""
        fitting = [size for size in self.sizes if 2 * self.costs_ns[size] <= self.budget_ns]
        return fitting[-1] if fitting else 1

    def residual(self) -> tuple[int, int]:
        """Say which batch it gathers when it does not fill a device, and in which duty cycle."""
        for count in reversed(self.sizes):
            duty_ns = int(count / self.rate_per_ns)
            if duty_ns + self.costs_ns[count] <= self.budget_ns:
                return count, duty_ns
        # It comes so seldom that one request is all that a cycle as long as may be brings.
        return 1, max(self.costs_ns[1], self.budget_ns - self.costs_ns[1])

    def batch_in(self, duty_ns: int) -> int:
        """Say how many come in a duty cycle."""
        return max(1, min(self.largest, math.ceil(self.rate_per_ns * duty_ns - 1e-9)))

    def padded(self, count: int) -> int:
        """Say how many a batch of `count` takes at the same cost."""
        while count < self.largest and self.costs_ns[count + 1] <= self.costs_ns[count]:
            count += 1
        return count


@attrs.define(eq=False)
class Node:
    """What one device does, over and over."""

    duty_ns: int
    sessions: list[Session] = attrs.field(factory=list)
    batches: dict[ModelId, int] = attrs.field(factory=dict)
    busy_ns: int = 0
    """How long one cycle's batches take."""
    pages: int = 0

    @property
    def occupancy(self) -> float:
        """The share of its cycle that it is busy; above 1 if more was squeezed in."""
        return self.busy_ns / self.duty_ns

    def with_(self, session: Session, duty_ns: int) -> "Node | None":
        """Merge a session in, if all are still in time."""
        shorter_ns = min(self.duty_ns, duty_ns)
        merged = Node(duty_ns=shorter_ns)
        if shorter_ns == self.duty_ns:
            merged.sessions, merged.batches = list(self.sessions), dict(self.batches)
            merged.busy_ns, merged.pages = self.busy_ns, self.pages
            newcomers = [session]
        else:
            newcomers = [*self.sessions, session]
        for each in newcomers:
            count = each.batch_in(shorter_ns)
            merged.add(each, count)
            in_time = each.costs_ns[count] + shorter_ns <= each.budget_ns
            if not in_time or merged.busy_ns > shorter_ns:
                return None
        return merged

    def add(self, session: Session, count: int) -> None:
        """Enter a session with its batch, whether it fits or not."""
        self.sessions.append(session)
        self.batches[session.model_id] = count
        self.busy_ns += session.costs_ns[count]
        self.pages += session.pages


def pack(sessions: Sequence[Session], *, devices: int, pages: int) -> list[Node]:
    """Plan what each device does.

    Args:
        sessions: All demand.
        devices: How many there are.
        pages: Of memory on each.

    Returns:
        At most one node a device. Sessions whose weights fit nowhere are in none.
    """
    nodes: list[Node] = []
    rest: list[tuple[float, Session, int, int]] = []
    for session in sessions:
        count = session.saturating_batch()
        throughput = count / session.costs_ns[count]
        whole = int(session.rate_per_ns / throughput)
        for _ in range(whole):
            node = Node(duty_ns=session.costs_ns[count])
            node.add(session, count)
            nodes.append(node)
        rate_per_ns = session.rate_per_ns - whole * throughput
        if rate_per_ns > 0:
            left = attrs.evolve(session, rate_per_ns=rate_per_ns)
            batch, duty_ns = left.residual()
            rest.append((left.costs_ns[batch] / duty_ns, left, batch, duty_ns))
    nodes = nodes[:devices]
    rest.sort(key=lambda entry: (-entry[0], entry[1].model_id))
    for _, session, batch, duty_ns in rest:
        _place(nodes, session, batch, duty_ns, devices=devices, pages=pages)
    return nodes


def _place(
    nodes: list[Node], session: Session, batch: int, duty_ns: int, *, devices: int, pages: int
) -> None:
    """Put a residual session where it fits best, on a device of its own, or squeeze it in."""
    best: tuple[float, int, Node] | None = None
    for index, node in enumerate(nodes):
        if node.pages + session.pages > pages:
            continue
        merged = node.with_(session, duty_ns)
        if merged is not None and (best is None or merged.occupancy > best[0]):
            best = merged.occupancy, index, merged
    if best is not None:
        nodes[best[1]] = best[2]
        return
    if len(nodes) < devices:
        node = Node(duty_ns=max(1, duty_ns))
        node.add(session, batch)
        nodes.append(node)
        return
    roomy = [node for node in nodes if node.pages + session.pages <= pages]
    # What has a device of its own runs the largest batch already: it just falls behind.
    if roomy and not any(session.model_id in node.batches for node in nodes):
        min(roomy, key=lambda node: node.occupancy).add(session, batch)
