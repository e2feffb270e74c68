"""An executor of the simulated world: lanes, windows, pages; a profile says how long things take.

What may start when, and in which order, is decided by the very code of a real executor
(`core/lane.py`, `core/residency.py`); only the device and the payloads are left out. Its clock may
differ from the controller's by `clock_error_ns`: windows are read, and results written, on it.
"""

import random
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from cw.core.lane import Head, Inputs, LanePlan, Start, Wait, tighten
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
from cw.sim.network import Link

if TYPE_CHECKING:
    from cw.sim.gateway import SimGateway
    from cw.sim.world import World

_RESULT_BYTES: Final = 256


class Brought(NamedTuple):
    """One slot's inputs, and whose they are."""

    gateway: "SimGateway"
    request_id: RequestId
    attempt: Attempt


@attrs.define(eq=False)
class Pending:
    """An action between its coming and its end."""

    action: Action
    received_ns: int
    """On the executor's clock, as all instants here."""
    window: Window | None
    ready_ns: int
    cancelled: set[int] = attrs.field(factory=set)
    inputs: dict[int, Brought] = attrs.field(factory=dict)
    """By position."""

    @property
    def model_id(self) -> ModelId:
        """Which model it is for."""
        action = self.action
        return action.model.model_id if isinstance(action, Prepare) else action.model_id

    def presence(self) -> Inputs:
        """Say how many of its inputs are there."""
        if not isinstance(self.action, Infer) or not self.action.slots:
            return Inputs.ALL
        wanted = len(self.action.slots) - len(self.cancelled)
        if not wanted:
            return Inputs.CANCELLED
        if not self.inputs:
            return Inputs.NONE
        return Inputs.ALL if len(self.inputs) == wanted else Inputs.SOME


@attrs.define(eq=False)
class SimLane:
    """One serial resource and its actions, in the order of their coming."""

    name: str
    random: random.Random
    plan: LanePlan = attrs.field(factory=LanePlan)
    queue: deque[Pending] = attrs.field(factory=deque)
    running: Pending | None = None


@attrs.define(eq=False)
class SimExecutor:
    """One life of one executor."""

    world: "World"
    executor_id: ExecutorId
    name: str
    to_executor: Link
    to_controller: Link
    infer_lane: SimLane
    load_lane: SimLane
    free_pages: list[int]
    residency: ResidencyTable = attrs.field(factory=ResidencyTable)
    models: dict[ModelId, ModelSpec] = attrs.field(factory=dict)
    pages_of: dict[ModelId, list[int]] = attrs.field(factory=dict)
    clock_error_ns: int = 0
    slowness: float = 1.0
    stalled_until_ns: int = 0
    alive: bool = True
    """False once it is dead, or cut off: nothing that it does is heard any more."""
    _pending: dict[ActionId, Pending] = attrs.field(factory=dict)
    _early: dict[ActionId, dict[int, Brought]] = attrs.field(factory=dict)
    _started: dict[ActionId, None] = attrs.field(factory=dict)
    _to_gateways: "dict[SimGateway, Link]" = attrs.field(factory=dict)

    @property
    def lanes(self) -> tuple[SimLane, ...]:
        """Its lanes; one where LOAD and INFER share a resource."""
        shared = self.infer_lane is self.load_lane
        return (self.infer_lane,) if shared else (self.infer_lane, self.load_lane)

    def _now_ns(self) -> int:
        return self.world.engine.now_ns + self.clock_error_ns

    # --- what comes in ----------------------------------------------------------------------------

    def receive(self, action: Action) -> None:
        """Take an action from the controller."""
        if not self._awake(self.receive, action):
            return
        window = None if isinstance(action, Unload) else action.window
        if window is not None:
            window = tighten(window, abs(self.clock_error_ns))
        pending = Pending(action, self._now_ns(), window, self._now_ns())
        self._pending[action.action_id] = pending
        pending.inputs.update(self._early.pop(action.action_id, {}))
        self.residency.announce(pending.model_id, action.action_id)
        on_load_lane = isinstance(action, Load | Unload)
        (self.load_lane if on_load_lane else self.infer_lane).queue.append(pending)
        self._step_all()

    def bring(
        self,
        action_id: ActionId,
        gateway: "SimGateway",
        slots: list[tuple[int, RequestId, Attempt]],
    ) -> None:
        """Take inputs from a gateway."""
        if not self._awake(self.bring, action_id, gateway, slots):
            return
        brought = {
            position: Brought(gateway, request_id, attempt)
            for position, request_id, attempt in slots
        }
        pending = self._pending.get(action_id)
        if action_id in self._started:
            self._reply(action_id, Outcome.INPUTS_LATE, dict.fromkeys(brought.values(), False))
        elif pending is None:
            self._early.setdefault(action_id, {}).update(brought)
        else:
            for position, one in brought.items():
                if position not in pending.cancelled:
                    pending.inputs[position] = one
            if pending.presence() is Inputs.ALL:
                pending.ready_ns = self._now_ns()
            self._step_all()

    def cancel(self, request_id: RequestId, attempt: Attempt) -> None:
        """Leave a slot out whose caller went away, if its action has not started."""
        if not self._awake(self.cancel, request_id, attempt):
            return
        for action_id, pending in self._pending.items():
            if not isinstance(pending.action, Infer) or action_id in self._started:
                continue
            for position, slot in enumerate(pending.action.slots):
                if (slot.request_id, slot.attempt) == (request_id, attempt):
                    pending.cancelled.add(position)
                    pending.inputs.pop(position, None)
        self._step_all()

    def _awake(self, what: object, *arguments: object) -> bool:
        """Say whether it can act now; while it is stalled, what comes is put off."""
        engine = self.world.engine
        if self.alive and engine.now_ns < self.stalled_until_ns:
            assert callable(what)
            engine.at(self.stalled_until_ns, what, *arguments)
            return False
        return self.alive

    # --- the lanes --------------------------------------------------------------------------------

    def _step_all(self) -> None:
        for lane in self.lanes:
            self._step(lane)

    def _step(self, lane: SimLane) -> None:
        """Do what the lane's plan says about its head, until it runs or waits."""
        if not self._awake(self._step, lane):
            return
        while lane.queue and lane.running is None:
            pending = lane.queue[0]
            step = lane.plan.next_step(self._head(pending), now_ns=self._now_ns())
            if isinstance(step, Wait):
                if step.until_ns is not None:
                    instant_ns = step.until_ns - self.clock_error_ns
                    engine = self.world.engine
                    engine.at(max(instant_ns, engine.now_ns), self._step, lane)
                return
            lane.queue.popleft()
            claimed = self._claim(pending) if isinstance(step, Start) else step
            if isinstance(claimed, Outcome):
                self._conclude(pending, claimed, start_ns=self._now_ns(), device_ns=0)
            else:
                self._start(lane, pending, claimed)

    def _head(self, pending: Pending) -> Head:
        action = pending.action
        is_known = self.residency.state(pending.model_id) is not Residency.UNKNOWN
        is_resident = self.residency.state(pending.model_id) is Residency.WARM
        return Head(
            window=pending.window,
            inputs=pending.presence(),
            is_its_turn=self.residency.is_turn(pending.model_id, action.action_id),
            is_resident=is_resident or not isinstance(action, Infer) or not is_known,
        )

    def _claim(self, pending: Pending) -> int | Outcome:
        """Begin an action: say how long it takes (ns, as planned), or why it can't be done."""
        action, model_id = pending.action, pending.model_id
        state = self.residency.state(model_id)
        profile = self.world.profile
        if isinstance(action, Prepare):
            known = any(m.program_sha256 == action.model.program_sha256 for m in self._known())
            if state is Residency.UNKNOWN:
                self.models[model_id] = action.model
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
        self.world.checkers.pages_claimed(self, model_id, self.pages_of[model_id])
        self.residency.step(model_id, Step.LOAD_BEGINS)
        return profile.load_ns(spec.image_bytes)

    def _known(self) -> list[ModelSpec]:
        cold_or_warm = self.residency.known(*(set(Residency) - {Residency.UNKNOWN}))
        return [self.models[model_id] for model_id in cold_or_warm]

    def _unload(self, model_id: ModelId, *, forget: bool) -> Outcome:
        warm = self.residency.state(model_id) is Residency.WARM
        if warm:
            self.residency.step(model_id, Step.UNLOAD_BEGINS)
            pages = self.pages_of.pop(model_id)
            self.free_pages.extend(pages)
            self.world.checkers.pages_freed(self, model_id, pages)
            self.residency.step(model_id, Step.UNLOAD_ENDS)
        if forget:
            self.residency.step(model_id, Step.FORGOTTEN)
        return Outcome.OK if warm or forget else Outcome.NOT_RESIDENT

    def _start(self, lane: SimLane, pending: Pending, planned_ns: int) -> None:
        action = pending.action
        lane.running = pending
        self._started[action.action_id] = None
        profile = self.world.profile
        device_ns = planned_ns
        if planned_ns:
            factor = max(0.0, lane.random.gauss(1.0, profile.jitter_ratio)) * self.slowness
            late = lane.random.random() < profile.outlier_probability
            device_ns = round(planned_ns * factor) + (profile.outlier_ns if late else 0)
        self.world.checkers.started(self, lane, pending, now_ns=self._now_ns())
        self.world.engine.after(device_ns, self._end, lane, pending, self._now_ns(), device_ns)

    def _end(self, lane: SimLane, pending: Pending, start_ns: int, device_ns: int) -> None:
        if not self._awake(self._end, lane, pending, start_ns, device_ns):
            return
        action = pending.action
        if isinstance(action, Prepare):
            if self.residency.state(pending.model_id) is Residency.UNKNOWN:
                self.residency.step(pending.model_id, Step.PREPARED)
        elif isinstance(action, Load) and self._is_loading(pending):
            self.residency.step(pending.model_id, Step.LOAD_ENDS)
        lane.running = None
        lane.plan.ran(start_ns, self._now_ns())
        self.world.checkers.ended(self, lane, pending)
        self.world.count(action, device_ns)
        self._conclude(pending, Outcome.OK, start_ns=start_ns, device_ns=device_ns)
        self._step_all()

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
        self._started[action.action_id] = None
        self.residency.finish(pending.model_id, action.action_id)
        ran = outcome is Outcome.OK
        slots = action.slots if isinstance(action, Infer) else ()
        result = ActionResult(
            action_id=action.action_id,
            outcome=outcome,
            received_ns=pending.received_ns,
            ready_ns=pending.ready_ns,
            start_ns=start_ns,
            end_ns=self._now_ns(),
            device_ns=device_ns,
            running_ns=device_ns,
            ran=tuple(ran and position in pending.inputs for position in range(len(slots))),
        )
        self.to_controller.send(_RESULT_BYTES, self.world.controller.result, self, result)
        self._reply(action.action_id, outcome, dict.fromkeys(pending.inputs.values(), ran))

    def _reply(self, action_id: ActionId, outcome: Outcome, slots: dict[Brought, bool]) -> None:
        per_gateway: dict[SimGateway, list[tuple[RequestId, Attempt, bool]]] = {}
        for brought, ran in slots.items():
            per_gateway.setdefault(brought.gateway, []).append(
                (brought.request_id, brought.attempt, ran)
            )
        for gateway, answers in per_gateway.items():
            link = self._to_gateways.get(gateway)
            if link is None:
                link = self._to_gateways[gateway] = self.world.network.link()
            size_bytes = self.world.answer_bytes * len(answers)
            link.send(size_bytes, self._deliver, gateway, action_id, outcome, answers)

    def _deliver(
        self,
        gateway: "SimGateway",
        action_id: ActionId,
        outcome: Outcome,
        answers: list[tuple[RequestId, Attempt, bool]],
    ) -> None:
        gateway.outputs(action_id, outcome, answers)
