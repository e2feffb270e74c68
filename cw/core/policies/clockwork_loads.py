"""Clockwork's load tracker: which model has more demand than its copies can serve?

The concept: demand is device time, weighed by urgency. A request of a model that takes e for one
adds ``e C / time to its deadline`` to the model's *execution* demand, until it ends, and
``e C / w`` to its *load* demand, until it is sent or too old (w) for a LOAD to help it; C is the
default SLO. Execution demand is spread over the executors that hold the model in proportion to
their weight ``C / load``, where a load is 1 ms and all that is spread there. A model's priority is
its load demand less what its copies serve of it::

    p(m) = D(m) - sum over its copies g of  D(m) W(g) / sum W  *  C / load(g)

and all of D(m) if there is no copy. Each executor loads the model with the highest priority that it
has not. A model's spread and priority are brought up to date when its own demand changes, not when
its neighbours' does.

Kept: w is at most 25 ms, so only the young are loaded for. It is why this loader does not collapse
under overload as one would that loads for all who wait: most of what it loads for can be saved.
Kinder than the original: only a priority above 0 is loaded for. The original means to test that but
compares the wrong thing, and so replicates for ever while there is any demand.

Source: Clockwork (OSDI 2020) section 5.3 and the load tracker of its public code.
"""

import heapq
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from cw.core.books import Books, ExecutorBooks, ModelBooks, Place
from cw.core.requests import Request
from cw.messages import ExecutorId, ModelId, RequestId
from cw.units import MS

CAPACITY_NS: Final = 100 * MS
"""C: the original's default SLO."""
LOAD_URGENCY_MAX_NS: Final = 25 * MS
LEAST_LOAD_NS: Final = 1 * MS


@attrs.define(eq=False)
class Demand:
    """What is asked of one model, as device time weighed by urgency (ns)."""

    model: ModelBooks
    execution: float = 0.0
    arrived: float = 0.0
    sent: float = 0.0
    expired: float = 0.0
    spread: dict[ExecutorId, float] = attrs.field(factory=dict)
    """How much of `execution` weighs on each executor that holds it."""

    @property
    def load(self) -> float:
        """The demand for a LOAD.

        The old are not told from the sent: whichever of both counts is larger is taken off.
        """
        return self.arrived - max(self.sent, self.expired)


@attrs.define(eq=False)
class LoadTracker:
    """Keeps demand, loads and priorities. Instants are cluster time, ns."""

    books: Books
    _demand: dict[ModelId, Demand] = attrs.field(factory=dict)
    _load: dict[ExecutorId, float] = attrs.field(factory=dict)
    """Per executor, what is spread there."""
    _execution: dict[RequestId, float] = attrs.field(factory=dict)
    _for_load: dict[RequestId, float] = attrs.field(factory=dict)
    """What each request added, as long as that counts."""
    _expiries: list[tuple[int, RequestId, ModelId, float]] = attrs.field(factory=list)
    """When load demand becomes too old."""
    _ends: list[tuple[int, RequestId, ModelId]] = attrs.field(factory=list)
    """When execution demand ends at the latest."""
    _wanted: dict[ModelId, float] = attrs.field(factory=dict)

    def arrived(self, request: Request, deadline_ns: int, now_ns: int) -> None:
        """Count a request in; `deadline_ns` is its internal deadline."""
        self._advance(now_ns)
        model = request.model
        place = next(iter(model.places.values()), None)
        if place is None:
            return
        one_ns = place.costs.by_count[1]
        urgency_ns = self._urgency_ns(request, place)
        execution = one_ns * CAPACITY_NS / max(1, deadline_ns - request.arrival_ns)
        load = one_ns * CAPACITY_NS / urgency_ns
        demand = self._demand.get(model.model_id)
        if demand is None:
            demand = self._demand[model.model_id] = Demand(model)
        demand.execution += execution
        demand.arrived += load
        self._execution[request.request_id] = execution
        self._for_load[request.request_id] = load
        expiry_ns = request.arrival_ns + urgency_ns
        heapq.heappush(self._expiries, (expiry_ns, request.request_id, model.model_id, load))
        heapq.heappush(self._ends, (deadline_ns, request.request_id, model.model_id))
        self._update(demand)

    def sent(self, requests: Iterable[Request], end_ns: int, now_ns: int) -> None:
        """Take the load demand of requests off that are dispatched together until `end_ns`."""
        self._advance(now_ns)
        demand: Demand | None = None
        for request in requests:
            demand = self._demand.get(request.model.model_id)
            if demand is not None:
                demand.sent += self._for_load.pop(request.request_id, 0.0)
                entry = (end_ns, request.request_id, request.model.model_id)
                heapq.heappush(self._ends, entry)
        if demand is not None:
            self._update(demand)

    def ended(self, request: Request, now_ns: int) -> None:
        """Take the execution demand of a request off that is answered or refused."""
        self._advance(now_ns)
        demand = self._demand.get(request.model.model_id)
        if demand is not None and self._end(request.request_id, demand):
            self._update(demand)

    def wanted(self, now_ns: int) -> Mapping[ModelId, float]:
        """List the models with more demand than their copies serve, with how much more."""
        self._advance(now_ns)
        return self._wanted

    # --- details ----------------------------------------------------------------------------------

    def _urgency_ns(self, request: Request, place: Place) -> int:
        settings = self.books.settings
        buffer_ns, ahead_ns = settings.clockwork_buffer_ns, settings.clockwork_ahead_ns
        load_ns = self.books.profiles.load_ns(place.executor.device, place.model.spec.image_bytes)
        needed_ns = load_ns + place.costs.by_count[1] + buffer_ns + ahead_ns
        slo_ns = request.deadline_ns - request.arrival_ns
        least_ns = max(1, ahead_ns + buffer_ns)
        return max(min(LOAD_URGENCY_MAX_NS, slo_ns - needed_ns), least_ns)

    def _advance(self, now_ns: int) -> None:
        """Take off what has become too old or has ended."""
        changed: dict[ModelId, Demand] = {}
        while self._expiries and self._expiries[0][0] < now_ns:
            _, request_id, model_id, load = heapq.heappop(self._expiries)
            self._for_load.pop(request_id, None)
            demand = self._demand.get(model_id)
            if demand is not None:
                demand.expired += load
                changed[model_id] = demand
        while self._ends and self._ends[0][0] < now_ns:
            _, request_id, model_id = heapq.heappop(self._ends)
            demand = self._demand.get(model_id)
            if demand is not None and self._end(request_id, demand):
                changed[model_id] = demand
        for demand in changed.values():
            self._update(demand)

    def _end(self, request_id: RequestId, demand: Demand) -> bool:
        execution = self._execution.pop(request_id, None)
        if execution is None:
            return False
        demand.execution -= execution
        return True

    def _update(self, demand: Demand) -> None:
        """Spread a model's demand anew over its copies, and find its priority."""
        model_id = demand.model.model_id
        for executor_id, share in demand.spread.items():
            self._load[executor_id] = self._load.get(executor_id, 0.0) - share
        copies = [place.executor for place in demand.model.serving]
        weights = [CAPACITY_NS / self._load_of(copy) for copy in copies]
        total = sum(weights)
        demand.spread = {
            copy.executor_id: demand.execution * weight / total
            for copy, weight in zip(copies, weights, strict=True)
        }
        for executor_id, share in demand.spread.items():
            self._load[executor_id] = self._load.get(executor_id, 0.0) + share
        served = sum(
            demand.load * weight / total * CAPACITY_NS / self._load_of(copy)
            for copy, weight in zip(copies, weights, strict=True)
        )
        priority = demand.load - served
        # Sums of floats: what is left of nothing is not quite nothing.
        if demand.load > 1.0 and priority > 0.0:
            self._wanted[model_id] = priority
        else:
            self._wanted.pop(model_id, None)
        if demand.execution < 1.0 and demand.expired >= demand.arrived - 1.0:
            for executor_id, share in demand.spread.items():
                self._load[executor_id] -= share
            del self._demand[model_id]

    def _load_of(self, executor: ExecutorBooks) -> float:
        return LEAST_LOAD_NS + max(0.0, self._load.get(executor.executor_id, 0.0))
