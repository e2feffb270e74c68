"""Nexus: a plan of fixed duty cycles from measured rates, and early drop where it does not hold.

The concept: every few seconds the models' rates are packed onto the devices (`squishy.py`), and
until the next plan each device goes round its sessions, a batch of each in turn. What random
arrivals make of the plan is mended by *early drop*: a window of the planned batch size slides over
the queue, and the heads that a full window cannot serve in time are dropped at once, so that those
behind them ride in full batches and not in the rump that the oldest one leaves time for.

Where it is good: steady rates, few changes. Where it is not: what comes in bursts waits for its
turn while others' turns pass, and models that the plan has no memory for are refused outright.

Simplified: a cycle that is done early begins anew at once. Replicas of a model share one queue. New
models are adopted by the device with the fewest sessions until the next plan. All devices are
planned for as if they were like the first one that knows the model.

Left out: splitting an SLO over a pipeline of models, and prefix batching.

Source: Nexus (SOSP 2019), sections 4.2, 6.1 and 6.3.
"""

from typing import Final

import attrs

from cw.core import admission, placement
from cw.core.books import ExecutorBooks, ModelBooks, Place, Stage
from cw.core.plan import PlannedBatch
from cw.core.policies.late import LatePolicy, cost_ns, is_warm
from cw.core.policies.squishy import Node, Session, pack
from cw.core.requests import Request
from cw.core.residency import Residency
from cw.messages import ExecutorId, ModelId, Refusal
from cw.units import MS, SECOND

FIRST_PLAN_NS: Final = 500 * MS
"""The first plan is made so long after the first arrival."""
PLAN_EVERY_NS: Final = 2 * SECOND
RATE_MEMORY: Final = 0.5
"""How much of a rate is what it was before the last period."""
FORGOTTEN_PER_NS: Final = 0.05 / SECOND
"""Models asked for less often are not planned for."""


@attrs.define(eq=False)
class Demand:
    """What is asked of one model."""

    model: ModelBooks
    count: int = 0
    rate_per_ns: float | None = None
    slo_ns: int = 1 << 62
    """The shortest that was asked for."""
    way_ns: int = 0
    """What was not left of the last one when it was heard of."""


@attrs.define(eq=False)
class Cycle:
    """What one executor goes round."""

    batches: dict[ModelId, int] = attrs.field(factory=dict)
    order: list[ModelId] = attrs.field(factory=list)
    turn: int = 0
    pages: int = 0

    def adopt(self, model: ModelBooks, count: int) -> None:
        """Take a model in at the end of the round."""
        self.batches[model.model_id] = count
        self.order.append(model.model_id)
        self.pages += model.spec.pages


@attrs.define(eq=False)
class NexusPolicy(LatePolicy):
    """See the module's head."""

    _demand: dict[ModelId, Demand] = attrs.field(factory=dict)
    _cycles: dict[ExecutorId, Cycle] = attrs.field(factory=dict)
    _planned: set[ModelId] = attrs.field(factory=set)
    """Models that are in some cycle."""
    _plan_at_ns: int | None = None
    _counted_from_ns: int = 0

    def arrive(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Count it, plan anew if it is time to, and queue it if its model is in a cycle."""
        model = request.model
        self._count(request, now_ns)
        if self._plan_at_ns is None or self._cycles.keys() != self.books.executors.keys():
            self._adapt(now_ns)
        elif now_ns >= self._plan_at_ns:
            self._plan(now_ns)
        if model.model_id not in self._planned and not self._adopt(model):
            end_ns = admission.earliest_end_ns(self.books, model, now_ns)
            return admission.refusal_for(self.books, request, end_ns, now_ns)
        return super().arrive(request, now_ns=now_ns)

    def restore(self, request: Request, *, force: bool, now_ns: int) -> None:
        """Queue it, and see to it that its model is planned for."""
        super().restore(request, force=force, now_ns=now_ns)
        if self._cycles.keys() != self.books.executors.keys():
            self._adapt(now_ns)
        if request.model.model_id not in self._planned:
            self._adopt(request.model)

    def choose(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Run the next session of the round that has a batch to run."""
        cycle = self._cycles.get(executor.executor_id)
        if cycle is None:
            return None
        start_ns = executor.start_ns(now_ns)
        for step in range(len(cycle.order)):
            turn = (cycle.turn + step) % len(cycle.order)
            model_id = cycle.order[turn]
            place = executor.places.get(model_id)
            if place is None or not place.model.queue or not is_warm(place):
                continue
            riders = self._slide(place, cycle.batches[model_id], start_ns)
            if riders:
                cycle.turn = turn + 1
                return self.commit(place, riders)
        return None

    def choose_load(self, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
        """Load what the plan wants here and is not: what is waited for first."""
        cycle = self._cycles.get(executor.executor_id)
        if cycle is None:
            return None
        if not self.load_lane_is_due(executor, now_ns):
            return None
        best: Place | None = None
        for model_id in cycle.order:
            place = executor.places.get(model_id)
            if place is None or place.stage is not Stage.READY:
                continue
            if place.residency is not Residency.COLD or place.model.removed:
                continue
            if best is None or len(place.model.queue) > len(best.model.queue):
                best = place
        if best is None or placement.choose_victims(self.books, best) is None:
            return None
        return best

    # --- early drop -------------------------------------------------------------------------------

    def _slide(self, place: Place, window: int, start_ns: int) -> list[Request]:
        """Slide a window over the queue; drop the heads that a full one cannot serve."""
        queue = place.model.queue
        heads = 0
        while heads < len(queue):
            count = min(window, len(queue) - heads)
            if start_ns + cost_ns(place, count) <= queue[heads].due_ns:
                break
            heads += 1
        self.books.given_up += queue.first(heads)
        return queue.first(heads + window)[heads:]

    # --- planning ---------------------------------------------------------------------------------

    def _count(self, request: Request, now_ns: int) -> None:
        model = request.model
        demand = self._demand.get(model.model_id)
        if demand is None:
            demand = self._demand[model.model_id] = Demand(model)
        demand.count += 1
        demand.slo_ns = min(demand.slo_ns, request.due_ns - request.arrival_ns)
        demand.way_ns = now_ns - request.arrival_ns

    def _adapt(self, now_ns: int) -> None:
        """Begin, or go on with other executors than before."""
        if self._plan_at_ns is None:
            self._plan_at_ns = now_ns + FIRST_PLAN_NS
            self._counted_from_ns = now_ns
        executors = self.books.executors
        self._cycles = {each: self._cycles.get(each) or Cycle() for each in executors}
        self._planned = {each for cycle in self._cycles.values() for each in cycle.batches}
        if any(demand.rate_per_ns is not None for demand in self._demand.values()):
            self._assign(self._sessions())

    def _adopt(self, model: ModelBooks) -> bool:
        """Have a model that is in no cycle served by those with the least to do."""
        choices = [
            (not place.serves, len(cycle.order), executor_id, cycle)
            for executor_id, place in model.places.items()
            if place.stage is Stage.READY
            and (cycle := self._cycles.get(executor_id)) is not None
            and cycle.pages + model.spec.pages <= place.executor.pages.total
        ]
        if not choices:
            return False
        cycle = min(choices, key=lambda choice: choice[:3])[3]
        demand = self._demand.get(model.model_id)
        budget_ns = demand.slo_ns if demand else 0
        costs_ns = next(iter(model.places.values())).costs.by_count
        session = Session(
            model_id=model.model_id, rate_per_ns=0.0, budget_ns=budget_ns, costs_ns=costs_ns
        )
        cycle.adopt(model, session.saturating_batch())
        self._planned.add(model.model_id)
        return True

    def _plan(self, now_ns: int) -> None:
        """Learn the rates of the period that is over, and pack."""
        period_ns = max(1, now_ns - self._counted_from_ns)
        self._plan_at_ns, self._counted_from_ns = now_ns + PLAN_EVERY_NS, now_ns
        for model_id, demand in list(self._demand.items()):
            rate_per_ns = demand.count / period_ns
            if demand.rate_per_ns is not None:
                rate_per_ns += RATE_MEMORY * (demand.rate_per_ns - rate_per_ns)
            demand.rate_per_ns, demand.count = rate_per_ns, 0
            if rate_per_ns < FORGOTTEN_PER_NS or demand.model.removed:
                del self._demand[model_id]
        self._assign(self._sessions())

    def _sessions(self) -> list[Session]:
        sessions = []
        for model_id, demand in self._demand.items():
            place = next(iter(demand.model.places.values()), None)
            if place is None or not demand.rate_per_ns:
                continue
            overhead_ns = place.executor.pipe.overhead_ns
            sessions.append(
                Session(
                    model_id=model_id,
                    rate_per_ns=demand.rate_per_ns,
                    budget_ns=demand.slo_ns - demand.way_ns - place.executor.pipe.delay_ns,
                    costs_ns=[0, *(cost + overhead_ns for cost in place.costs.by_count[1:])],
                    pages=demand.model.spec.pages,
                )
            )
        return sessions

    def _assign(self, sessions: list[Session]) -> None:
        """Pack, and give each node to the executor that has most of its weights already."""
        executors = list(self.books.executors.values())
        if not executors:
            return
        pages = min(executor.pages.total for executor in executors)
        nodes = pack(sessions, devices=len(executors), pages=pages)
        nodes.sort(key=lambda node: -node.occupancy)
        if nodes:
            spare = len(executors) - len(nodes)
            nodes += [nodes[index % len(nodes)] for index in range(spare)]
        cycles: dict[ExecutorId, Cycle] = {}
        for node in nodes:
            free = [each for each in executors if each.executor_id not in cycles]
            executor = max(free, key=lambda each: (_overlap(node, each), -each.executor_id))
            cycle = cycles[executor.executor_id] = Cycle()
            for session in node.sessions:
                if session.model_id not in executor.places:
                    continue  # Not prepared here: it is adopted where it is.
                count = session.padded(node.batches[session.model_id])
                cycle.adopt(self._demand[session.model_id].model, count)
        for executor in executors:
            cycles.setdefault(executor.executor_id, Cycle())
            self.books.dirty[executor.executor_id] = executor
        self._cycles = cycles
        self._planned = {each for cycle in cycles.values() for each in cycle.batches}
        for session in sessions:
            if session.model_id not in self._planned:
                self._adopt(self._demand[session.model_id].model)


def _overlap(node: Node, executor: ExecutorBooks) -> int:
    warm = 0
    for session in node.sessions:
        place = executor.places.get(session.model_id)
        warm += place is not None and place.residency is not Residency.COLD
    return warm
