"""Which cell takes a request: its model's home, as long as that is not the busier one.

A cell is a controller with its executors. A model's requests belong together, since they fill each
other's batches and its weights then lie in one cell's devices only; so each model has a *home*
among the cells that hold it, and the other cells in a fixed order behind. A request leaves home
only when home has clearly more to do for each of its executors than the cell with the least.

What a gateway compares is its own: the requests that it has open in each cell. Nothing is asked for
that, and several gateways, each of which keeps its own requests level, keep their sum level.

It must not know: what a cell does with a request. Neighbours: `actors/cells.py`, `sim/cells.py`.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Final

import attrs

from cw.messages import ModelId

SPILL_RATIO: Final = 1.25
"""Leave home when it has this many times the open requests, per executor, of the least busy cell:
`cw simulate --experiment cells` compares it with others."""
SPILL_REQUESTS: Final = 2.0
"""... and so many more of them per executor: a batch about to start is not worth leaving."""


@attrs.frozen(kw_only=True)
class CellLoad:
    """What a gateway knows of one cell, for one model."""

    cell: int
    """Its number, from 0."""
    open_requests: int
    """Of this gateway, of all models."""
    executors: int

    @property
    def per_executor(self) -> float:
        """Open requests for each executor; a cell without any has no bound to its load."""
        return self.open_requests / self.executors if self.executors else float("inf")


@functools.lru_cache(maxsize=1 << 16)
def home_order(model_id: ModelId, cells: int) -> tuple[int, ...]:
    """Order the cells for a model, its home first.

    By the highest hash of (model, cell): all gateways agree without a word, and each cell is the
    home of an equal part of the models.
    """

    def claim(cell: int) -> bytes:
        return hashlib.blake2b(b"%d %d" % (model_id, cell), digest_size=8).digest()

    return tuple(sorted(range(cells), key=claim, reverse=True))


def choose_cells(model_id: ModelId, loads: Sequence[CellLoad], *, cells: int) -> list[int]:
    """Say which cell takes a request, and which ones after it may be asked if it can't.

    Args:
        model_id: The request's model.
        loads: Of the cells that can be reached and hold the model; may be none.
        cells: How many there are in all.

    Returns:
        Numbers of those cells, the best first.
    """
    by_cell = {load.cell: load for load in loads}
    order = [cell for cell in home_order(model_id, cells) if cell in by_cell]
    if len(order) < 2:
        return order
    home = by_cell[order[0]].per_executor
    least = min(order, key=lambda cell: by_cell[cell].per_executor)
    lowest = by_cell[least].per_executor
    if home > max(lowest * SPILL_RATIO, lowest + SPILL_REQUESTS):
        order.remove(least)
        order.insert(0, least)
    return order
