"""Cells of the simulated world: what `actors/cells.py` does, by the same rule (`core/cells.py`).

Each gateway is one `SimGateway` for each cell, and this router before them. Two things that
production does are left out, so that what a cell costs is rather told too high: a refused request
is not tried again in another cell, and a cell's executors stay its own when others have too few.
"""

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from cw.core.cells import CellLoad, choose_cells, home_order
from cw.messages import ModelId, RequestId
from cw.sim.gateway import SimGateway
from cw.sim.journal import RequestRecord

RULES: Final = ("spill", "home", "least")
"""``spill``: production's. To compare it with: ``home`` never leaves a model's home; ``least``
always takes the cell with the fewest open requests for each executor."""


@attrs.define(eq=False)
class SimCellRouter:
    """One gateway before several cells, as its clients see it."""

    gateways: Sequence[SimGateway]
    """One for each cell."""
    rule: str

    @property
    def alive(self) -> bool:
        """Whether clients may come."""
        return all(gateway.alive for gateway in self.gateways)

    def arrive(
        self,
        model: int,
        model_id: ModelId,
        slo_ns: int | None,
        *,
        tenant: int = 0,
        ask_next: Callable[[RequestRecord], None] | None = None,
    ) -> RequestRecord:
        """See `SimGateway.arrive`."""
        gateway = self.gateways[self._choose(model_id)]
        return gateway.arrive(model, model_id, slo_ns, tenant=tenant, ask_next=ask_next)

    def cancel(self, request_id: RequestId) -> None:
        """See `SimGateway.cancel`; it concerns the one that has the request."""
        for gateway in self.gateways:
            gateway.cancel(request_id)

    def _choose(self, model_id: ModelId) -> int:
        cells = len(self.gateways)
        if self.rule == "home":
            return home_order(model_id, cells)[0]
        loads = [
            CellLoad(
                cell=cell,
                open_requests=gateway.open_requests,
                executors=len(gateway.to_executors),
            )
            for cell, gateway in enumerate(self.gateways)
        ]
        if self.rule == "least":
            return min(loads, key=lambda load: load.per_executor).cell
        return choose_cells(model_id, loads, cells=cells)[0]
