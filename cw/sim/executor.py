"""An executor of the simulated world: lanes, windows, pages; a profile says how long things take.

What may start when, and in which order, is decided by the very code of a real executor
(`core/lane.py`, `core/residency.py`); only the device and the payloads are left out. It lives by
its own clock (`clocks.py`): windows are converted to it, results from it. Instants in here are on
that clock, unless their name or the engine says otherwise.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import attrs

from cw.core.lane import Head, Inputs, Start, Wait, tighten
from cw.core.residency import Residency, ResidencyTable, Step
from cw.messages import (
    Action,
    ActionId,
    ActionResult,
    Attempt,
    ExecutorId,
    Infer,
    Load,
    ModelId,
    ModelSpec,
    Outcome,
    Prepare,
    RequestId,
    Unload,
    Window,
)
from cw.sim.clocks import EdgeClock
from cw.sim.lane import Brought, Pending, SimLane, model_of
from cw.sim.network import Link

if TYPE_CHECKING:
    from cw.sim.controller import SimController
    from cw.sim.gateway import SimGateway
    from cw.sim.world import World

__all__ = ["Pending", "SimExecutor", "SimLane"]

_RESULT_BYTES: Final = 256


_COLD: Final = (Residency.COLD, Residency.LOADING, Residency.UNLOADING)
"""Of a model that an executor knows; what it does not know fails for another reason."""
_STARTED_MAX: Final = 4096
"""Started actions remembered, for inputs that come too late for them: seconds' worth."""


@attrs.define(eq=False)
class SimExecutor:
    """One life of one executor."""

    world: "World"
    executor_id: ExecutorId
    name: str
    controller: "SimController"
    to_executor: Link
    to_controller: Link
    infer_lane: SimLane
    load_lane: SimLane
    free_pages: list[int]
    clock: EdgeClock
    residency: ResidencyTable = attrs.field(factory=ResidencyTable)
    models: dict[ModelId, ModelSpec] = attrs.field(factory=dict)
    pages_of: dict[ModelId, list[int]] = attrs.field(factory=dict)
    slowness: float = 1.0
    """All of its actions take so many times as long."""
    compute_slowness: float = 1.0
    """Its INFERs do: the clock of its processor fell, transfers are as quick as ever."""
    stalled_until_ns: int = 0
    alive: bool = True
    """False once it is dead, or cut off: nothing that it does is heard any more."""
    _programs: set[str] = attrs.field(factory=set)
    """What was loaded with a model, by its hash."""
    _pending: dict[ActionId, Pending] = attrs.field(factory=dict)
    _early: dict[ActionId, dict[int, Brought]] = attrs.field(factory=dict)
    _started: OrderedDict[ActionId, None] = attrs.field(factory=OrderedDict)
    """What started lately, or ended without. (From a plain dict the first key is taken ever more
    slowly, the more were taken before.)"""
    _to_gateways: "dict[SimGateway, Link]" = attrs.field(factory=dict)

    @property
    def lanes(self) -> tuple[SimLane, ...]:
        """Its lanes; one where LOAD and INFER share a resource."""
        shared = self.infer_lane is self.load_lane
        return (self.infer_lane,) if shared else (self.infer_lane, self.load_lane)

    def now_ns(self) -> int:
        """Read its own clock."""
        return self.clock.local.read(self.world.engine.now_ns)

    def keep(self, model: ModelSpec) -> None:
        """Take up a model and its program."""
        self.models[model.model_id] = model
        self._programs.add(model.program_sha256)

    # --- what comes in ----------------------------------------------------------------------------

    def receive(self, action: Action) -> None:
        """Take an action from the controller."""
        if not self.awake(self.receive, action):
            return
        now_ns = self.now_ns()
        window = None if isinstance(action, Unload) else self._localised(action.window, now_ns)
        to_cluster_ns = self.clock.to_cluster_ns(0)
        pending = Pending(action, model_of(action), now_ns, window, now_ns, to_cluster_ns)
        self._pending[action.action_id] = pending
        early = self._early.pop(action.action_id, None)
        if early is not None:
            pending.inputs = early
        self.residency.announce(pending.model_id, action.action_id)
        lane = self.load_lane if isinstance(action, Load | Unload) else self.infer_lane
        lane.queue.append(pending)
        self._step(lane)

    def _localised(self, window: Window, now_ns: int) -> Window:
        """Convert a window to its own clock, and tighten it by what that may be wrong by."""
        clock = self.clock
        error_ns = clock.error_bound_ns(now_ns)
        if clock.sync is None:
            return tighten(window, error_ns) if error_ns else window
        earliest_ns, latest_ns = map(clock.to_local_ns, (window.earliest_ns, window.latest_ns))
        return tighten(Window(earliest_ns=earliest_ns, latest_ns=latest_ns), error_ns)

    def bring(
        self,
        action_id: ActionId,
        gateway: "SimGateway",
        slots: list[tuple[int, RequestId, Attempt]],
    ) -> None:
        """Take inputs from a gateway."""
        if not self.awake(self.bring, action_id, gateway, slots):
            return
        brought = {
            position: Brought(gateway, request_id, attempt)
            for position, request_id, attempt in slots
        }
        pending = self._pending.get(action_id)
        if action_id in self._started:
            self._reply(action_id, Outcome.INPUTS_LATE, brought.values())
        elif pending is None:
            self._early.setdefault(action_id, {}).update(brought)
        else:
            for position, one in brought.items():
                if position not in pending.cancelled:
                    pending.inputs[position] = one
            if pending.presence() is Inputs.ALL:
                pending.ready_ns = self.now_ns()
            self._step(self.infer_lane)

    def cancel(self, request_id: RequestId, attempt: Attempt) -> None:
        """Leave a slot out whose caller went away, if its action has not started."""
        if not self.awake(self.cancel, request_id, attempt):
            return
        for action_id, pending in self._pending.items():
            if not isinstance(pending.action, Infer) or action_id in self._started:
                continue
            for position, slot in enumerate(pending.action.slots):
                if (slot.request_id, slot.attempt) == (request_id, attempt):
                    pending.cancelled.add(position)
                    pending.inputs.pop(position, None)
        self._step(self.infer_lane)

    def awake(self, what: Callable[..., None], *arguments: object) -> bool:
        """Say whether it can act now; while it is stalled, what comes is put off."""
        engine = self.world.engine
        if self.alive and engine.now_ns < self.stalled_until_ns:
            engine.at(self.stalled_until_ns, what, *arguments)
            return False
        return self.alive

    # --- the lanes --------------------------------------------------------------------------------

    def _step(self, lane: SimLane) -> None:
        """Do what a lane's plan says about its head, until it runs or waits."""
        if lane.running is not None or not lane.queue or not self.awake(self._step, lane):
            return
        concluded = False
        while lane.queue and lane.running is None:
            pending = lane.queue[0]
            now_ns = self.now_ns()
            step = lane.plan.next_step(self._head(pending), now_ns=now_ns)
            if isinstance(step, Wait):
                if step.until_ns is not None:
                    self._wake(lane, self.clock.local.when(step.until_ns))
                break
            lane.queue.popleft()
            claimed = self._claim(pending) if isinstance(step, Start) else step
            if isinstance(claimed, Outcome):
                self._conclude(pending, claimed, start_ns=now_ns, device_ns=0)
                concluded = True
            else:
                self._start(lane, pending, claimed, now_ns)
        if concluded and self.load_lane is not self.infer_lane:
            # What waited for it on the other lane may have its turn now.
            self._step(self.infer_lane if lane is self.load_lane else self.load_lane)

    def _wake(self, lane: SimLane, instant_ns: int) -> None:
        """Have a lane looked at again, once, at an instant or sooner."""
        instant_ns = max(instant_ns, self.world.engine.now_ns)
        if lane.wakes_ns is None or instant_ns < lane.wakes_ns:
            lane.wakes_ns = instant_ns
            self.world.engine.at(instant_ns, self._woken, lane, instant_ns)

    def _woken(self, lane: SimLane, set_for_ns: int) -> None:
        if lane.wakes_ns == set_for_ns:
            lane.wakes_ns = None
            self._step(lane)

    def _head(self, pending: Pending) -> Head:
        action, model_id = pending.action, pending.model_id
        needs_weights = isinstance(action, Infer) and self.residency.state(model_id) in _COLD
        return Head(
            window=pending.window,
            inputs=pending.presence(),
            is_its_turn=self.residency.is_turn(model_id, action.action_id),
            is_resident=not needs_weights,
        )

    def _claim(self, pending: Pending) -> int | Outcome:
        """Begin an action: say how long it takes (ns, as planned), or why it can't be done."""
        action, model_id = pending.action, pending.model_id
        state = self.residency.state(model_id)
        profile = self.world.profile
        if isinstance(action, Prepare):
            known = action.model.program_sha256 in self._programs
            if state is Residency.UNKNOWN:
                self.keep(action.model)
            return profile.prepare_model_ns if known else profile.prepare_program_ns
        if state is Residency.UNKNOWN:
            return Outcome.UNKNOWN_MODEL
        spec = self.models[model_id]
        if isinstance(action, Infer):
            return profile.infer_ns(spec.program_sha256, action.batch_size)
        if isinstance(action, Unload):
            return self._unload(model_id, forget=action.forget)
        if state is Residency.WARM:
            return 0
        if spec.pages > len(self.free_pages):
            return Outcome.PAGES_EXHAUSTED
        self.pages_of[model_id] = [self.free_pages.pop() for _ in range(spec.pages)]
        self.controller.checkers.pages_claimed(self, model_id, self.pages_of[model_id])
        self.residency.step(model_id, Step.LOAD_BEGINS)
        return profile.load_ns(spec.image_bytes)

    def _unload(self, model_id: ModelId, *, forget: bool) -> Outcome:
        warm = self.residency.state(model_id) is Residency.WARM
        if warm:
            self.residency.step(model_id, Step.UNLOAD_BEGINS)
            pages = self.pages_of.pop(model_id)
            self.free_pages.extend(pages)
            self.controller.checkers.pages_freed(self, model_id, pages)
            self.residency.step(model_id, Step.UNLOAD_ENDS)
        if forget:
            self.residency.step(model_id, Step.FORGOTTEN)
        return Outcome.OK if warm or forget else Outcome.NOT_RESIDENT

    def _start(self, lane: SimLane, pending: Pending, planned_ns: int, now_ns: int) -> None:
        lane.running = pending
        self._remember(pending.action.action_id)
        device_ns = planned_ns and self._takes_ns(lane, pending, planned_ns)
        world = self.world
        self.controller.checkers.started(self, lane, pending, now_ns=now_ns + pending.to_cluster_ns)
        world.engine.after(device_ns, self._end, lane, pending, now_ns, device_ns)

    def _takes_ns(self, lane: SimLane, pending: Pending, planned_ns: int) -> int:
        """Draw how long an action takes, with noise and with what is wrong just now."""
        profile = self.world.profile
        factor = max(0.0, lane.random.gauss(1.0, profile.jitter_ratio)) * self.slowness
        if isinstance(pending.action, Infer):
            factor *= self.compute_slowness
            factor *= self.world.model_slowness.get(pending.model_id, 1.0)
        late = lane.random.random() < profile.outlier_probability
        return round(planned_ns * factor) + (profile.outlier_ns if late else 0)

    def _end(self, lane: SimLane, pending: Pending, start_ns: int, device_ns: int) -> None:
        if not self.awake(self._end, lane, pending, start_ns, device_ns):
            return
        action = pending.action
        if isinstance(action, Prepare):
            if self.residency.state(pending.model_id) is Residency.UNKNOWN:
                self.residency.step(pending.model_id, Step.PREPARED)
        elif isinstance(action, Load) and self._is_loading(pending):
            self.residency.step(pending.model_id, Step.LOAD_ENDS)
        lane.running = None
        # A clock that was set back meanwhile must not end an action before its start.
        lane.plan.ran(start_ns, max(start_ns, self.now_ns()))
        self.controller.checkers.ended(self, lane, pending)
        self.world.count(action, device_ns)
        self._conclude(pending, Outcome.OK, start_ns=start_ns, device_ns=device_ns)
        for each in self.lanes:
            self._step(each)

    def _is_loading(self, pending: Pending) -> bool:
        # Not so for a LOAD of what was warm already: it took no pages and no time.
        return self.residency.state(pending.model_id) is Residency.LOADING

    # --- what goes out ----------------------------------------------------------------------------

    def _conclude(
        self, pending: Pending, outcome: Outcome, *, start_ns: int, device_ns: int
    ) -> None:
        """Give an action its end: to the controller, and to the gateways that brought inputs."""
        action = pending.action
        del self._pending[action.action_id]
        self._remember(action.action_id)
        self.residency.finish(pending.model_id, action.action_id)
        ran = outcome is Outcome.OK
        slots = action.slots if isinstance(action, Infer) else ()
        end_ns = self.now_ns()
        to_cluster_ns = self.clock.to_cluster_ns(0)  # it is the same for all of them
        result = ActionResult(
            action_id=action.action_id,
            outcome=outcome,
            received_ns=pending.received_ns + to_cluster_ns,
            ready_ns=pending.ready_ns + to_cluster_ns,
            start_ns=start_ns + to_cluster_ns,
            end_ns=end_ns + to_cluster_ns,
            device_ns=device_ns,
            running_ns=device_ns,
            planned_start_ns=action.planned_start_ns,
            expected_ns=action.expected_ns,
            clock_offset_ns=to_cluster_ns,
            clock_error_ns=self.clock.error_bound_ns(end_ns),
            ran=tuple([ran and position in pending.inputs for position in range(len(slots))]),
        )
        self.to_controller.send(_RESULT_BYTES, self.controller.result, self, result)
        if pending.inputs:
            self._reply(action.action_id, outcome, pending.inputs.values())

    def _remember(self, action_id: ActionId) -> None:
        self._started[action_id] = None
        if len(self._started) > _STARTED_MAX:
            self._started.popitem(last=False)

    def _reply(self, action_id: ActionId, outcome: Outcome, inputs: Iterable[Brought]) -> None:
        """Tell each gateway that brought inputs what became of them."""
        per_gateway: dict[SimGateway, list[tuple[RequestId, Attempt]]] = {}
        for gateway, request_id, attempt in inputs:
            per_gateway.setdefault(gateway, []).append((request_id, attempt))
        for gateway, slots in per_gateway.items():
            link = self._to_gateways.get(gateway)
            if link is None:
                link = self._to_gateways[gateway] = self.world.network.link()
            size_bytes = self.world.answer_bytes * len(slots)
            link.send(size_bytes, gateway.outputs, action_id, outcome, slots)
