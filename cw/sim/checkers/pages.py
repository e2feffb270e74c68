"""Pages are never oversold."""

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

import attrs

from cw.messages import ExecutorId, Infer, ModelId, RequestId
from cw.sim.checkers.checker import Checker, InvariantBroken, require

if TYPE_CHECKING:
    from cw.sim.executor import Pending, SimExecutor, SimLane


@attrs.define(eq=False)
class _Pool:
    """One executor's pages: whose each is, and how many each has."""

    owners: dict[int, ModelId] = attrs.field(factory=dict)
    counts: Counter[ModelId] = attrs.field(factory=Counter)


class PagesSuffice(Checker):
    """No page has two owners, none is made up, and what runs has all the pages that it needs."""

    def __init__(self) -> None:
        self._pools: dict[ExecutorId, _Pool] = {}

    def pages_claimed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """See `Checker`."""
        pool = self._pools.setdefault(executor.executor_id, _Pool())
        total = executor.world.profile.pages_total
        for page in pages:
            if page in pool.owners or not 0 <= page < total:
                raise InvariantBroken(
                    f"{executor.name}: page {page} of {total} given to model {model_id} belongs to "
                    f"{pool.owners.get(page)}"
                )
            pool.owners[page] = model_id
        pool.counts[model_id] += len(pages)

    def pages_freed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """See `Checker`."""
        pool = self._pools[executor.executor_id]
        for page in pages:
            owner = pool.owners.pop(page, None)
            if owner != model_id:
                raise InvariantBroken(
                    f"{executor.name}: page {page} taken from model {model_id} belongs to {owner}"
                )
        pool.counts[model_id] -= len(pages)

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        del lane, now_ns
        if isinstance(pending.action, Infer):
            pool = self._pools.get(executor.executor_id, _Pool())
            owned = pool.counts[pending.model_id]
            needed = executor.models[pending.model_id].pages
            require(
                owned == needed,
                lambda: f"{executor.name}: {pending.action} started with {owned} pages of {needed}",
            )

    def lost(self, executor_id: ExecutorId, displaced: Collection[RequestId]) -> None:
        """See `Checker`."""
        del displaced
        self._pools.pop(executor_id, None)
