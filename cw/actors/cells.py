"""Cells: one gateway before several controllers, each of which has executors of its own.

To each controller stands a `GatewayActor`, with the book of the requests that it took there. This
actor chooses among them (`core/cells.py`), and asks once more in another cell where the first one
said at once that it can't. When a controller dies, what it had not given to an executor moves to
the other cells; what it had is still answered by the executors, which go on without it.

Models are registered with all cells, and are changed only while all can be reached: each cell reads
the same store at its start, so that none can come back with what the others have forgotten.

Neighbours: `gateway.py`, `core/cells.py`; `doors.py` sees a `Front`.
"""

from collections import ChainMap, Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns
from cw.actors.gateway import GatewayActor
from cw.config import GatewaySettings
from cw.core.cells import CellLoad, choose_cells
from cw.core.directory import Directory
from cw.core.routes import Routes
from cw.errors import PeerDisconnected, UnknownModel
from cw.messages import (
    NO_TENANT,
    Answer,
    CatalogAnswer,
    CatalogOrder,
    CatalogVerb,
    CellStatus,
    ClusterStatus,
    Epoch,
    Failure,
    FailureKind,
    InferCall,
    Ledger,
    ModelId,
    ModelSpec,
    ModelState,
    ModelStatus,
    Refusal,
    RefusalReason,
    RouteOrder,
    TenantId,
    VersionStatus,
)
from cw.rpc.ports import GatewaySession

_ELSEWHERE: Final = frozenset(
    (
        RefusalReason.OVERLOAD,
        RefusalReason.COLD,
        RefusalReason.NOT_READY,
        RefusalReason.NO_EXECUTOR,
        RefusalReason.BUSY,
    )
)
"""Refusals that are one cell's own: another may say otherwise."""

_MOVED: Final = Refusal(
    reason=RefusalReason.NO_EXECUTOR,
    message="the controller of its cell was lost before it was given to an executor",
)


@attrs.define(eq=False)
class CellRouter:
    """A gateway before several cells; a `Front` to its doors.

    Args:
        cells: The gateway's actor for each of them, in the order of their numbers.
    """

    cells: Sequence[GatewayActor]
    models: Mapping[str, ModelSpec] = attrs.field(init=False)
    """Those of all cells: what any of them holds may be asked for."""

    def __attrs_post_init__(self) -> None:
        self.models = ChainMap(*(cell.models for cell in self.cells))
        for cell in self.cells:
            cell.lost = partial(_move_waiting, cell)

    @property
    def routes(self) -> Routes:
        """Which versions there are of what may be asked for, as the first cell has told."""
        return self.cells[0].routes

    @property
    def directory(self) -> Directory:
        """As the first cell's controller has told; all of them read one catalog."""
        return self.cells[0].directory

    @property
    def settings(self) -> GatewaySettings:
        """Bounds on what is open in one cell."""
        return self.cells[0].settings

    @property
    def session(self) -> "CellSessions | None":
        """All cells, to be told of models and asked about them; None while none can be reached."""
        sessions = [cell.session for cell in self.cells]
        return CellSessions(sessions) if any(sessions) else None

    async def run(self, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Keep sessions with all controllers until cancelled; started once one of them stands."""
        async with trio.open_nursery() as nursery:
            first = trio.Event()

            async def keep(cell: GatewayActor) -> None:
                async with trio.open_nursery() as own:
                    await own.start(cell.run)
                    first.set()

            for cell in self.cells:
                nursery.start_soon(keep, cell)
            await first.wait()
            task_status.started()

    async def infer(
        self, call: InferCall, *, arrival_ns: int, tenant_id: TenantId = NO_TENANT
    ) -> Answer:
        """See `GatewayActor.infer`; refused in one cell, a request may be tried in another, once.

        A cell is asked at once or after the first one's refusal; the deadline stays what it was.
        """
        cells = self._choose(call.model)
        answer = await cells[0].infer(call, arrival_ns=arrival_ns, tenant_id=tenant_id)
        if len(cells) == 1 or answer.refusal is None or answer.refusal.reason not in _ELSEWHERE:
            return answer
        if call.slo_ns is not None and now_ns() - arrival_ns >= call.slo_ns:
            return _broken(answer) if answer.promised else answer
        second = await cells[1].infer(call, arrival_ns=arrival_ns, tenant_id=tenant_id)
        if second.refusal is None:
            return second
        if answer.promised:
            return _broken(second)
        return attrs.evolve(second, refusal=_sooner(answer.refusal, second.refusal))

    def _choose(self, model: str) -> list[GatewayActor]:
        """Give the cells to ask, best first; at least one, which then says why it can't."""
        loads = []
        model_id = ModelId(0)
        for number, cell in enumerate(self.cells):
            spec = cell.models.get(model)
            if spec is not None and cell.session is not None:
                model_id = spec.model_id
                open_requests, executors = len(cell.book), cell.executors
                loads.append(
                    CellLoad(cell=number, open_requests=open_requests, executors=executors)
                )
        chosen = [self.cells[it] for it in choose_cells(model_id, loads, cells=len(self.cells))]
        # With none that holds it, one that can be reached knows best what is wrong.
        return chosen or [max(self.cells, key=lambda cell: cell.session is not None)]


def _move_waiting(cell: GatewayActor) -> None:
    """End what a lost controller had given to no executor: its caller asks in another cell."""
    for request in cell.book:
        if request.executor_id is None and request.answer is None:
            request.end(refusal=_MOVED)


def _broken(answer: Answer) -> Answer:
    """Say of a request that was promised in one cell that no other could keep it."""
    message = "promised, but its controller was lost and no other cell could keep the promise"
    failure = Failure(kind=FailureKind.LATE, message=message)
    return attrs.evolve(answer, promised=True, refusal=None, failure=failure)


def _sooner(first: Refusal, second: Refusal) -> Refusal:
    """Join two cells' refusals: the second one's, with the earlier finish of both."""
    known = [it for it in (first.earliest_finish_ns, second.earliest_finish_ns) if it is not None]
    return attrs.evolve(second, earliest_finish_ns=min(known, default=None))


@attrs.frozen
class CellSessions:
    """All cells' controllers as one `Registry`; None stands for one that can't be reached."""

    sessions: Sequence[GatewaySession | None]

    def _all(self) -> list[GatewaySession]:
        """Give all sessions, for a change.

        Raises:
            PeerDisconnected: One is missing.
        """
        there = [session for session in self.sessions if session is not None]
        if len(there) < len(self.sessions):
            raise PeerDisconnected(
                f"expected all {len(self.sessions)} cells for a change of models, got {len(there)}:"
                " one that misses it would bring the old state back; retry shortly"
            )
        return there

    async def add_model(self, spec: ModelSpec, *, hold: bool = False) -> ModelSpec:
        """Register a version of a model with each cell; again is a no-op.

        Raises:
            PeerDisconnected: A cell can't be reached; nothing is served wrongly, add it again.
            ModelConflict: The name is taken by other contents.
        """
        first, *others = self._all()
        numbered = await first.add_model(spec, hold=hold)
        for session in others:
            await session.add_model(spec, hold=hold)
        return numbered

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """Ask the first cell: all of them were told the same.

        Raises:
            PeerDisconnected: A cell can't be reached.
        """
        return await self._all()[0].versions(name)

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """Change what a name stands for in each cell; each switches when it is ready itself.

        Raises:
            PeerDisconnected: A cell can't be reached.
        """
        first, *others = self._all()
        versions = await first.route_model(order)
        for session in others:
            await session.route_model(order)
        return versions

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """Have the first cell carry it out, and the others read what became of it.

        Raises:
            PeerDisconnected: A cell can't be reached.
        """
        first, *others = self._all()
        answer = await first.catalog(order)
        for session in others:
            await session.catalog(CatalogOrder(verb=CatalogVerb.REREAD))
        return answer

    async def remove_model(self, model_id: ModelId) -> None:
        """Take a model out of each cell that holds it.

        Raises:
            PeerDisconnected: A cell can't be reached; remove it again.
            UnknownModel: No cell holds it.
        """
        missing = 0
        sessions = self._all()
        for session in sessions:
            try:
                await session.remove_model(model_id)
            except UnknownModel:
                missing += 1
        if missing == len(sessions):
            raise UnknownModel(f"no model has the id {model_id}")

    async def model_status(self, model_id: ModelId) -> ModelStatus:
        """Describe a model by all cells together: ready once it is ready in each.

        Raises:
            UnknownModel: No cell holds it.
        """
        found = []
        for session in self.sessions:
            if session is not None:
                try:
                    found.append(await session.model_status(model_id))
                except UnknownModel:
                    continue
        if not found:
            raise UnknownModel(f"no model has the id {model_id}")
        return _joined(found)

    async def status(self) -> ClusterStatus:
        """Describe the cluster: each cell, and all of them together."""
        answers: list[ClusterStatus | None] = [None] * len(self.sessions)

        async def ask(number: int, status: Callable[[], Awaitable[ClusterStatus]]) -> None:
            answers[number] = await status()

        async with trio.open_nursery() as nursery:
            for number, session in enumerate(self.sessions):
                if session is not None:
                    nursery.start_soon(ask, number, session.status)
        known = [answer for answer in answers if answer is not None]
        by_model: dict[ModelId, list[ModelStatus]] = {}
        for answer in known:
            for model in answer.models:
                by_model.setdefault(model.spec.model_id, []).append(model)
        return ClusterStatus(
            epoch=known[0].epoch,
            queued=sum(answer.queued for answer in known),
            executors=tuple(executor for answer in known for executor in answer.executors),
            models=tuple(map(_joined, by_model.values())),
            ledger=_sum(answer.ledger for answer in known),
            best_effort=_sum(answer.best_effort for answer in known),
            cells=tuple(_cell(number, answer) for number, answer in enumerate(answers)),
        )


def _cell(number: int, status: ClusterStatus | None) -> CellStatus:
    if status is None:
        return CellStatus(cell=number, epoch=Epoch(0), executors=(), queued=0, ledger=Ledger())
    return CellStatus(
        cell=number,
        epoch=status.epoch,
        executors=tuple(sorted(executor.name for executor in status.executors)),
        queued=status.queued,
        ledger=status.ledger,
    )


def _joined(found: Sequence[ModelStatus]) -> ModelStatus:
    """Describe a model as the cell does that has come least far; one failure is a failure."""
    order = (ModelState.FAILED, ModelState.REGISTERING, ModelState.READY)
    return min(found, key=lambda status: (order.index(status.state), status.steps_done))


def _sum(ledgers: Iterable[Ledger]) -> Ledger:
    """Add up what became of requests."""
    requests = kept = 0
    refused, broken, failed = Counter[str](), Counter[str](), Counter[str]()
    for ledger in ledgers:
        requests += ledger.requests
        kept += ledger.kept
        for total, counts in (
            (refused, ledger.refused),
            (broken, ledger.broken),
            (failed, ledger.failed),
        ):
            total.update(dict(counts))
    return Ledger(
        requests=requests,
        kept=kept,
        refused=tuple(refused.items()),
        broken=tuple(broken.items()),
        failed=tuple(failed.items()),
    )
