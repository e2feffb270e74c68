"""Gateway actor: admits requests, keeps their payloads, gives each exactly one answer.

For each call: check it against the model (`core/intake.py`), tell the controller its descriptor,
wait for the answer or the deadline. What the controller decides comes in as notices: a refusal ends
the request, an assignment has its inputs carried to an executor. Whatever it knows, the gateway
answers at the deadline. It must not know: how anything is decided, or anything of models beyond
their shapes.

Neighbours: `core/intake.py`, `open_requests.py` (the book), `carrier.py` (payloads), `doors.py`
(the clients' side), the controller through `GatewaySession`.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs
import trio

from cw.actors.carrier import Carrier
from cw.actors.clock import now_ns, trio_time
from cw.actors.heartbeat import keep_heartbeat
from cw.actors.open_requests import OpenRequest, OpenRequests
from cw.config import GatewaySettings, LinkSettings
from cw.core.clock_sync import ClockSync
from cw.core.directory import Directory
from cw.core.intake import check_slo, match_inputs, unknown_model, unknown_version
from cw.core.routes import Routes
from cw.errors import CwError, OutboxFull, PeerDisconnected, ProtocolViolation
from cw.messages import (
    NO_DEADLINE_NS,
    NO_TENANT,
    Abandon,
    Answer,
    Assign,
    Attempt,
    Cancel,
    Decision,
    Descriptor,
    Epoch,
    Failure,
    GatewayHello,
    GatewayId,
    GatewayReport,
    GatewayWelcome,
    InferCall,
    ModelSpec,
    Notices,
    Promise,
    Refusal,
    RefusalReason,
    Refuse,
    RequestId,
    Settled,
    TenantId,
    Timing,
    request_id_for,
)
from cw.rpc.ports import ControllerPort, DialController, DialExecutor, GatewaySession
from cw.units import SECOND

logger = logging.getLogger(__name__)

_REDIAL_S: Final = 0.05
"""From one dial of the controller to the next; one that stood for longer is dialled at once."""

_NO_CONTROLLER: Final = Refusal(
    reason=RefusalReason.NO_EXECUTOR,
    message="this gateway has no controller at the moment; retry shortly, or use another gateway",
)
_CONTROLLER_BEHIND: Final = Refusal(
    reason=RefusalReason.OVERLOAD,
    message="the controller is behind with what it was told; ask less, or retry later",
)


@attrs.define(eq=False)
class GatewayActor:
    """Answers clients' calls; implements `GatewayPort` towards the controller.

    Args:
        name: For logs and status.
        settings: Bounds on what is open.
        link: Bounds on the controller's silence.
        dial_controller: Connects to the controller.
        dial_executor: Connects to an executor's data side.
        lost: Told whenever there is no controller any more; open requests wait for the next one.
    """

    name: str
    settings: GatewaySettings
    link: LinkSettings
    dial_controller: DialController
    dial_executor: DialExecutor
    lost: Callable[[], object] = lambda: None
    directory: Directory = attrs.field(factory=Directory, init=False)
    """Who the tenants are. Kept while there is no controller: who was let in stays so."""
    routes: Routes = attrs.field(factory=Routes, init=False)
    """What may be asked for now, and which version of it a request gets."""
    session: GatewaySession | None = attrs.field(default=None, init=False)
    """The controller, while there is one."""
    book: OpenRequests = attrs.field(init=False)
    _carrier: Carrier = attrs.field(init=False)
    _gateway_id: GatewayId | None = attrs.field(default=None, init=False)
    _epoch: Epoch = attrs.field(factory=lambda: Epoch(0), init=False)
    _sequence: int = attrs.field(default=0, init=False)
    _is_started: bool = attrs.field(default=False, init=False)
    _clock: ClockSync = attrs.field(factory=ClockSync, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _hung_up: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.book = OpenRequests(self.settings)
        self._carrier = Carrier(self.book, self.dial_executor, failed=self._report)

    @property
    def executors(self) -> int:
        """How many the controller has told of."""
        return self._carrier.executors

    @property
    def models(self) -> dict[str, ModelSpec]:
        """By name: the current version of what may be asked for now."""
        return self.routes.current

    # --- towards the controller -------------------------------------------------------------------

    async def run(self, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a session with the controller until cancelled; started once the first one stands."""
        async with trio.open_nursery() as self._nursery:
            while True:
                dialled_s = trio.current_time()
                await self._serve_session(task_status)
                await trio.sleep_until(dialled_s + _REDIAL_S)

    async def _serve_session(self, task_status: "trio.TaskStatus[None]") -> None:
        """Work with a controller until it is lost, or could not be reached."""
        why: object = "it hung up"
        try:
            with trio.fail_after(self.link.silence_ns / SECOND) as joining:
                async with self.dial_controller() as controller:
                    await self._join(controller, joining, task_status)
        except* (CwError, OSError, trio.TooSlowError) as lost:
            why = lost.exceptions
        finally:
            self.session = None
            self._hung_up.set()
            self.lost()
        logger.warning("controller lost open=%d why=%s", len(self.book), why)

    async def _join(
        self,
        controller: ControllerPort,
        joining: trio.CancelScope,
        task_status: "trio.TaskStatus[None]",
    ) -> None:
        self._hung_up = trio.Event()
        # Only now: while there was no controller, executors went on with what they had been given,
        # and their outputs kept promises. A new one begins by naming models and executors anew.
        self.routes.clear()
        self._carrier.lose_all()
        hello = GatewayHello(name=self.name, previous_id=self._gateway_id)
        welcome, session = await controller.join_gateway(hello, self)
        if welcome.epoch < self._epoch:
            raise ProtocolViolation(
                f"expected a controller of epoch {self._epoch} or later, got one of "
                f"{welcome.epoch}: it has been replaced and should stop"
            )
        # A new controller has a new clock: what was known of the old one is worth nothing.
        clock = ClockSync()
        heartbeat = partial(
            keep_heartbeat,
            session,
            clock,
            heartbeat_ns=self.link.heartbeat_ns,
            silence_ns=self.link.silence_ns,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(heartbeat)
            joining.deadline = math.inf
            self.session, self._clock = session, clock
            self._resubmit(welcome)
            if not self._is_started:
                self._is_started = True
                task_status.started()
            nursery.start_soon(self._hang_up_with, session)
            await self._hung_up.wait()
            nursery.cancel_scope.cancel()

    async def _hang_up_with(self, session: GatewaySession) -> None:
        await session.wait_closed()
        self._hung_up.set()

    def _resubmit(self, welcome: GatewayWelcome) -> None:
        """Tell a new controller of what an earlier one had taken on, promises first."""
        is_renamed = welcome.gateway_id != self._gateway_id
        self._epoch, self._gateway_id = welcome.epoch, welcome.gateway_id
        for request in sorted(self.book, key=lambda each: not each.promised):
            # The earlier epoch's attempt may still run: what it gives is no longer current.
            request.attempt = Attempt(request.attempt + 1)
            request.executor_id = None
            if is_renamed:
                # Decisions find their gateway by the request's id.
                self.book.rename(request, self._next_request_id(welcome.gateway_id))
            self._report(self._descriptor(request))

    async def wait_closed(self) -> None:
        """Return once this gateway has hung up on its controller."""
        await self._hung_up.wait()

    def close(self) -> None:
        """Hang up on the controller; the gateway dials again."""
        self._hung_up.set()

    def _tell(self, report: GatewayReport) -> Refusal | None:
        """Tell the controller, or say why it can't be told."""
        if self.session is None:
            return _NO_CONTROLLER
        try:
            self.session.tell((report,))
        except OutboxFull:
            return _CONTROLLER_BEHIND
        except PeerDisconnected:
            return _NO_CONTROLLER
        return None

    def _report(self, report: GatewayReport) -> None:
        """Tell the controller what it must know: forgotten, the two would have different books."""
        if self._tell(report) is _CONTROLLER_BEHIND:
            logger.warning("hung up on the controller reason='its outbox is full'")
            self.close()

    def tell(self, notices: Notices) -> None:
        """See `GatewayPort.tell`."""
        assert self._nursery is not None, "the gateway must run before it is told anything"
        for change in notices.directory:
            self.directory.apply(change)
        for spec in notices.models_added:
            self.routes.add(spec)
        for route in notices.routes:
            self.routes.route(route)
        for model_id in notices.models_removed:
            self.routes.remove(model_id)
        for joined in notices.executors_joined:
            self._carrier.join(joined, self._nursery)
        for executor_id in notices.executors_lost:
            self._carrier.lose(executor_id)
        for decision in notices.decisions:
            self._decided(decision)

    def _decided(self, decision: Decision) -> None:
        if isinstance(decision, Assign):
            inputs = self._carrier.batch(decision, self._clock)
            if inputs is not None:
                assert self._nursery is not None
                self._nursery.start_soon(self._carrier.carry, decision.executor_id, inputs)
            return
        request = self.book.advance(decision.request_id, decision.attempt)
        if request is None:
            return  # answered already, or of an attempt that is over
        match decision:
            case Promise(predicted_finish_ns=predicted_ns):
                request.promised = True
                request.predicted_finish_ns = self._clock.to_local_ns(predicted_ns)
            case Refuse(refusal=refusal):
                request.end(refusal=self._localised(refusal, request))
            case Abandon(failure=failure):
                request.end(failure=failure)

    def _localised(self, refusal: Refusal, request: OpenRequest) -> Refusal:
        """Turn the earliest finish into what a client can use: a duration from its call."""
        if refusal.earliest_finish_ns is None:
            return refusal
        finish_ns = self._clock.to_local_ns(refusal.earliest_finish_ns)
        return attrs.evolve(refusal, earliest_finish_ns=max(0, finish_ns - request.arrival_ns))

    # --- towards the clients ----------------------------------------------------------------------

    async def infer(
        self, call: InferCall, *, arrival_ns: int, tenant_id: TenantId = NO_TENANT
    ) -> Answer:
        """Answer a request, exactly once, by its deadline.

        Args:
            call: As it came.
            arrival_ns: When the whole of it was there, on this process's clock.
            tenant_id: Whose it is; who it is may ask for this model.
        """
        admitted = self._admit(call, arrival_ns, tenant_id)
        if not isinstance(admitted, OpenRequest):
            return _unopened(arrival_ns, admitted)
        try:
            with trio.move_on_at(trio_time(admitted.deadline_ns)):
                await admitted.answered.wait()
            if admitted.answer is None:
                admitted.end_overdue()
            assert admitted.answer is not None
            return admitted.answer
        finally:
            self._settle(admitted)

    def _admit(
        self, call: InferCall, arrival_ns: int, tenant_id: TenantId
    ) -> OpenRequest | Refusal | Failure:
        """Take in a call whose answer needs the controller, or answer it here and now."""
        if self.session is None or self._gateway_id is None:
            return _NO_CONTROLLER
        spec = self.routes.pick(call.model, call.version)
        if spec is None:
            if call.model in self.models:
                return unknown_version(call, self.routes.versions(call.model))
            return unknown_model(call.model, list(self.models))
        settings, slo_ns = self.settings, call.slo_ns
        if slo_ns is not None:
            wrong = check_slo(slo_ns, min_ns=settings.min_slo_ns, max_ns=settings.max_slo_ns)
            if wrong is not None:
                return wrong
        tensors = match_inputs(spec, call)
        if isinstance(tensors, Failure):
            return tensors
        size_bytes = sum(map(len, tensors))
        book = self.book
        full = book.full_of_best_effort(size_bytes) if slo_ns is None else book.full(size_bytes)
        if full is not None:
            return full
        request = OpenRequest(
            request_id=self._next_request_id(self._gateway_id),
            spec=spec,
            arrival_ns=arrival_ns,
            deadline_ns=NO_DEADLINE_NS if slo_ns is None else arrival_ns + slo_ns,
            tensors=tensors,
            size_bytes=size_bytes,
            tenant_id=tenant_id,
        )
        self.book.add(request)
        untold = self._tell(self._descriptor(request))
        if untold is not None:
            self.book.remove(request)
            return untold
        return request

    def _next_request_id(self, gateway_id: GatewayId) -> RequestId:
        self._sequence += 1
        return request_id_for(gateway_id, self._sequence)

    def _descriptor(self, request: OpenRequest) -> Descriptor:
        clock, deadline_ns = self._clock, request.deadline_ns
        if not request.is_best_effort:
            # The controller must not count on time that the clocks' error may have taken.
            deadline_ns = clock.to_cluster_ns(deadline_ns) - clock.error_bound_ns(now_ns())
        return Descriptor(
            request_id=request.request_id,
            model_id=request.spec.model_id,
            arrival_ns=clock.to_cluster_ns(request.arrival_ns),
            deadline_ns=deadline_ns,
            tenant_id=request.tenant_id,
            attempt=request.attempt,
            promised=request.promised,
        )

    def _settle(self, request: OpenRequest) -> None:
        self.book.remove(request)
        if request.answer is None:
            self._report(Cancel(request_id=request.request_id, attempt=request.attempt))
            self._carrier.cancel(request)
        elif request.settled_as is not None:
            finished_ns = request.arrival_ns + request.answer.timing.total_ns
            self._report(
                Settled(
                    request_id=request.request_id,
                    attempt=request.attempt,
                    outcome=request.settled_as,
                    finished_ns=self._clock.to_cluster_ns(finished_ns),
                )
            )


def _unopened(arrival_ns: int, end: Refusal | Failure) -> Answer:
    """Answer a call that the controller never heard of."""
    timing = Timing(total_ns=now_ns() - arrival_ns)
    if isinstance(end, Refusal):
        return Answer(timing=timing, promised=False, refusal=end)
    return Answer(timing=timing, promised=False, failure=end)
