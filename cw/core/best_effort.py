"""Best effort: requests without an SLO, run in lane time that nobody with an SLO wants.

The concept: they stand in lines of their own, which no policy ever sees, and are looked at when the
policy has chosen nothing and nothing else is due on an executor. So what they can cost the others
is bounded by what can't be taken back: one batch that has begun (`best_effort_longest_ns`), or one
LOAD. Three rules:

1. *Only a gap.* No batch runs while a request with an SLO could run there instead, or waits for
   pages there, nor one that would make a promised batch late or reach over the end of a LOAD that
   somebody waits for.
2. *Only free seats.* A batch that is padded runs for as long with a rider in place of the padding:
   such seats are given to those of its gateways, whose inputs come with the others'.
3. *Only idle pages.* A cold model is LOADed where the LOAD lane is idle, into free pages, or those
   of models that nobody with an SLO has asked for lately.

Lines are one per model and tenant, and bounded: who finds no room is refused `queueFull`. Between
tenants, the one whose best-effort requests had the least device time goes first; who comes anew
begins where those stood who were served last, so that nobody saves up.

Neighbours: `scheduler.py` asks after the policy, `lifecycle.py` takes out and puts back.

Source: start-time fair queueing (Goyal et al., 1996) between tenants; design/0018.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Final

import attrs

from cw.core import placement
from cw.core.books import Books, ExecutorBooks, Place, Stage
from cw.core.plan import PlannedBatch
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.core.timeline import NEVER_NS
from cw.messages import NO_DEADLINE_NS, ModelId, Refusal, RefusalReason, RequestId, TenantId
from cw.units import MS, SECOND

TRIES_MAX: Final = 5
"""A request whose attempts failed so often fails: it may be what makes executors die."""
IDLE_NS: Final = 10 * SECOND
"""Pages of a model that nobody with an SLO has asked for in so long may be taken."""
TAKE_OVER_NS: Final = 1 * SECOND
"""Pages of a model that others wait for without an SLO, too, if these came so much later: models
whose requests wait take turns, but not at every batch."""
LOOK_NS: Final = 20 * MS
"""How often an idle lane with somebody in line is looked at, where no event brings it about."""
MODELS_LOOKED_AT: Final = 256
"""For one choice. Where more wait, those that were looked at in vain go to the end."""
PLACES_WOKEN: Final = 8
"""Executors looked at for a newcomer; the others find it when they have a gap."""
TENANTS_REMEMBERED: Final = 4096
"""What more had is forgotten once nobody waits."""
SEATS_LOOKED_AT: Final = 32
"""Requests looked at for the free seats of one batch."""

Line = dict[RequestId, Request]
"""Those of one model and tenant who wait, oldest first."""


@attrs.define(eq=False)
class BestEffort:
    """All lines. Instants are cluster time, ns."""

    books: Books
    waiting: dict[ModelId, dict[TenantId, Line]] = attrs.field(factory=dict)
    """Models with somebody in line."""
    count: int = 0
    _served_ns: dict[TenantId, float] = attrs.field(factory=dict)
    """Device time that each tenant's best-effort requests had; of those who wait, and who waited
    last."""
    _turn_ns: float = 0.0
    """What those had had who were served last, before that."""
    _lines_of: Counter[TenantId] = attrs.field(factory=Counter)
    """How many lines of each tenant have somebody in them."""

    # --- lines ------------------------------------------------------------------------------------

    def take_in(self, request: Request) -> Refusal | None:
        """Let a new request wait, or say why there is no room for it."""
        settings = self.books.settings
        line = self.waiting.get(request.model.model_id, {}).get(request.tenant_id, {})
        if (
            len(line) < settings.max_best_effort_per_line
            and self.count < settings.max_best_effort_total
        ):
            self.put_back(request)
            return None
        return Refusal(
            reason=RefusalReason.QUEUE_FULL,
            message=f"{len(line)} best-effort requests of this tenant wait for "
            f"{request.model.spec.name} and {self.count} in all (bounds: "
            f"{settings.max_best_effort_per_line} and {settings.max_best_effort_total}); "
            "wait for some answers before you ask for more, or ask with an SLO",
        )

    def put_back(self, request: Request) -> None:
        """Let a request wait, whatever the bounds."""
        model, tenant_id = request.model, request.tenant_id
        lines = self.waiting.setdefault(model.model_id, {})
        line = lines.get(tenant_id)
        if line is None:
            line = lines[tenant_id] = {}
            self._enter(tenant_id)
        line[request.request_id] = request
        self.count += 1
        places = model.serving or list(model.places.values())
        for place in places[:PLACES_WOKEN]:
            executor = place.executor
            if executor.wake_ns is None or executor.wake_ns > executor.due_ns:
                self.books.dirty[executor.executor_id] = executor

    def take_out(self, request: Request) -> None:
        """Take a request out of its line; it must be there."""
        model_id, tenant_id = request.model.model_id, request.tenant_id
        lines = self.waiting[model_id]
        del lines[tenant_id][request.request_id]
        self.count -= 1
        if not lines[tenant_id]:
            del lines[tenant_id]
            self._lines_of[tenant_id] -= 1
            if not self._lines_of[tenant_id]:
                del self._lines_of[tenant_id]
            if not lines:
                del self.waiting[model_id]

    def of_model(self, model_id: ModelId) -> list[Request]:
        """List those who wait for a model."""
        lines = self.waiting.get(model_id, {})
        return [request for line in lines.values() for request in line.values()]

    def _enter(self, tenant_id: TenantId) -> None:
        """Begin where those stood who were served last, or as far as it has come itself."""
        if not self._lines_of and len(self._served_ns) > TENANTS_REMEMBERED:
            self._served_ns.clear()
            self._turn_ns = 0.0
        had_ns = self._served_ns.get(tenant_id, 0.0)
        self._served_ns[tenant_id] = max(had_ns, self._turn_ns)
        self._lines_of[tenant_id] += 1

    # --- batches ----------------------------------------------------------------------------------

    def fill(self, batch: PlannedBatch) -> None:
        """Give the free seats of a batch that is about to be sent to those in line."""
        lines = self.waiting.get(batch.place.model.model_id)
        count = len(batch.requests)
        free = batch.costs.size_for[count] - count
        if not lines or not free:
            return
        gateways = {request.gateway_id for request in batch.requests}
        near = (
            request
            for request in islice(self._in_turn(lines), SEATS_LOOKED_AT)
            if request.gateway_id in gateways
        )
        self._ride(batch, list(islice(near, free)), 0)

    def next_batch(self, executor: ExecutorBooks, now_ns: int) -> PlannedBatch | None:
        """Choose what fills a gap on an INFER lane that is soon free; None if it is no gap."""
        start_ns = executor.start_ns(now_ns)
        room_ns = self._gap_end_ns(executor, start_ns) - start_ns
        if room_ns <= 0:
            return None
        chosen = self._next_in_turn(executor)
        if chosen is None:
            return None
        place, lines = chosen
        overhead_ns, costs = executor.pipe.overhead_ns, place.costs
        spare_ns = executor.plan.least_spare_ns(start_ns, overhead_ns, now_ns)
        room_ns = min(room_ns, spare_ns) - overhead_ns
        most_ns = min(room_ns, self.books.settings.best_effort_longest_ns)
        count = min(sum(map(len, lines.values())), costs.largest)
        while count > 1 and costs.by_count[count] > most_ns:
            count -= 1
        below = costs.below(count)
        if below and below * costs.by_count[count] > count * costs.by_count[below]:
            count = below  # what would be padding runs denser alone
        if costs.by_count[count] > room_ns:
            return None
        batch = PlannedBatch(place, costs, NO_DEADLINE_NS, place.warm_ns)
        riders = list(islice(self._in_turn(lines), count))
        self._ride(batch, riders, costs.by_count[count] + overhead_ns)
        if place.model.model_id in self.waiting:  # behind the others who wait
            self.waiting[place.model.model_id] = self.waiting.pop(place.model.model_id)
        return batch

    def _gap_end_ns(self, executor: ExecutorBooks, start_ns: int) -> int:
        """Say until when nobody with an SLO wants a lane's time; not after `start_ns`: now."""
        if executor.bring_up or executor.quiescing:
            return start_ns
        is_loading = executor.load.outstanding and not executor.device.shared_lanes
        if self.books.waiting and executor.wanted and not is_loading:
            return start_ns  # somebody waits for weights: for pages, or for this very lane
        end_ns = NEVER_NS
        for place in executor.waiting.values():
            if place.residency is not Residency.LOADING:
                return start_ns
            end_ns = min(end_ns, place.warm_ns)
        return end_ns

    def _next_in_turn(self, executor: ExecutorBooks) -> tuple[Place, dict[TenantId, Line]] | None:
        """Find the model here of whose tenants one had the least; of equals, who came first."""
        best: tuple[Place, dict[TenantId, Line]] | None = None
        least = (0.0, 0)
        looked_at = list(islice(self.waiting.items(), MODELS_LOOKED_AT))
        for model_id, lines in looked_at:
            place = executor.places.get(model_id)
            if place is None or not place.serves or place.residency is not Residency.WARM:
                continue
            first = next(self._in_turn(lines))
            key = (self._served_ns[first.tenant_id], first.arrival_ns)
            if best is None or key < least:
                best, least = (place, lines), key
        if best is None and len(self.waiting) > MODELS_LOOKED_AT:
            for model_id, _ in looked_at:
                self.waiting[model_id] = self.waiting.pop(model_id)
        return best

    def _in_turn(self, lines: dict[TenantId, Line]) -> Iterator[Request]:
        """Go through a model's lines: the tenant's first that had least, each oldest first."""
        served_ns = self._served_ns
        for tenant_id in sorted(lines, key=lambda each: (served_ns[each], each)):
            yield from lines[tenant_id].values()

    def _ride(self, batch: PlannedBatch, riders: list[Request], cost_ns: int) -> None:
        if cost_ns:
            self._turn_ns = self._served_ns[riders[0].tenant_id]
        for request in riders:
            self._served_ns[request.tenant_id] += cost_ns / len(riders)
            self.take_out(request)
            request.tries += 1
            request.move(RequestState.PLANNED)
            request.batch = batch
            batch.add(request)

    # --- LOADs ------------------------------------------------------------------------------------

    def next_load(self, executor: ExecutorBooks, now_ns: int) -> Place | None:
        """Choose whose weights to load into idle pages of an executor, if anyone's."""
        if executor.load.outstanding or (self.books.waiting and executor.wanted):
            return None
        start_ns = executor.start_ns(now_ns)
        room_ns = NEVER_NS
        if executor.device.shared_lanes:
            spare_ns = executor.plan.least_spare_ns(start_ns, executor.pipe.overhead_ns, now_ns)
            room_ns = min(self._gap_end_ns(executor, start_ns) - start_ns, spare_ns)
        for model_id, lines in islice(self.waiting.items(), MODELS_LOOKED_AT):
            place = executor.places.get(model_id)
            if place is None or place.stage is not Stage.READY or place.model.serving:
                continue
            load_ns = self.books.profiles.load_ns(executor.device, place.model.spec.image_bytes)
            first = next(self._in_turn(lines))
            if load_ns <= room_ns and self._has_idle_pages(place, first.arrival_ns, now_ns):
                return place
        return None

    def _has_idle_pages(self, place: Place, since_ns: int, now_ns: int) -> bool:
        """Say whether a cold model's weights fit without those of anybody who asks lately."""
        victims = placement.choose_victims(self.books, place)
        if victims is None:
            return False
        return all(self._is_idle(model_id, since_ns, now_ns) for model_id in victims)

    def _is_idle(self, model_id: ModelId, since_ns: int, now_ns: int) -> bool:
        if now_ns - self.books.models[model_id].rate.last_ns < IDLE_NS:
            return False
        lines = self.waiting.get(model_id)
        return not lines or next(self._in_turn(lines)).arrival_ns > since_ns + TAKE_OVER_NS

    def look_ns(self, executor: ExecutorBooks, now_ns: int) -> int | None:
        """Say when to look for a gap again on an idle lane; None if an event will tell."""
        if executor.infer.outstanding or executor.load.outstanding:
            return None  # its result is an event
        looked_at = islice(self.waiting, MODELS_LOOKED_AT)
        return now_ns + LOOK_NS if any(each in executor.places for each in looked_at) else None
