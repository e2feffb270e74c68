"""The world: the scheduler of production among simulated gateways, executors and messages.

A run has two parts. First the models are registered, as in production: programs prepared, batch
sizes measured. Then the traffic begins, and with it the faults; the result is of this part only.
Everything random comes from the scenario's seed, by streams that do not disturb each other.
"""

import functools
import random
from collections.abc import Callable
from typing import Final, assert_never

from cw.core.clock_sync import ClockSync
from cw.core.events import ModelAdded
from cw.core.scheduler import Scheduler
from cw.devices.profile_file import EmulationProfile
from cw.errors import ConfigError
from cw.messages import (
    Action,
    Epoch,
    ExecutorId,
    GatewayId,
    Infer,
    Load,
    ModelId,
)
from cw.sim.bound import BoundMeter
from cw.sim.cells import SimCellRouter
from cw.sim.checkers import checkers_for
from cw.sim.clients import SimClients
from cw.sim.clocks import EdgeClock, draw_clocks, keep_pinging
from cw.sim.controller import SimController
from cw.sim.engine import Engine
from cw.sim.executor import SimExecutor
from cw.sim.faults import Fault, FaultKind
from cw.sim.gateway import SimGateway
from cw.sim.journal import Journal
from cw.sim.lives import new_executor
from cw.sim.network import Network
from cw.sim.scenario import Scenario
from cw.units import MS, SECOND

_REGISTRATION_MAX_NS: Final = 24 * 3600 * SECOND
_STEPS: Final = 1000
"""How often whoever watches is told how far the traffic is."""
_LOOK_NS: Final = 100 * MS
"""How often the end of the registration, and of the last requests, is looked for."""
_DRAIN_NS: Final = 2 * SECOND
"""After the last answer: late results and settlements come in."""
_REJOIN_NS: Final = 100 * MS
"""An executor that was cut off connects again after this long."""


class World:
    """One run of one scenario.

    Args:
        scenario: What to run.
        validate_every: Have the scheduler check its own invariants after so many events.
        progress: Told now and then which share of the traffic is over, 0 to 1.
        keep_records: Have the journal keep each request, to be looked at one by one.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        validate_every: int = 0,
        progress: Callable[[float], None] | None = None,
        keep_records: bool = True,
    ) -> None:
        self.scenario: Final = scenario
        self.profile: Final[EmulationProfile] = scenario.emulation()
        self.engine: Final = Engine(now_ns=SECOND)
        self.journal: Final = Journal(
            keep_records=keep_records,
            bound=BoundMeter(
                scenario.fastest_tables(),
                executors=scenario.executors,
                # The controller hears, tells the gateway, which brings the inputs; and the answer.
                before_ns=3 * scenario.network.delay_ns,
                after_ns=scenario.network.delay_ns,
            ),
        )
        self.network: Final = Network(
            self.engine, scenario.network, random.Random(f"network {scenario.seed}")
        )
        self.controllers: Final = [
            SimController(
                self,
                Scheduler(scenario.settings, epoch=Epoch(1), ticket_seed=scenario.seed + cell),
                checkers_for(scenario),
                validate_every=validate_every,
            )
            for cell in range(scenario.cells)
        ]
        self.controller: Final = self.controllers[0]
        """The only one, unless the scenario has cells."""
        self.executors: Final[dict[ExecutorId, SimExecutor]] = {}
        self.gateways: Final[list[SimGateway]] = []
        self.doors: Final[list[SimGateway | SimCellRouter]] = []
        """Where clients come: the gateways, or routers before each one's part in every cell."""
        self.begin_ns = 0
        """When the traffic began."""
        self._models: Final = scenario.specs()
        self.model_ids: Final = [spec.model_id for spec in self._models]
        """By the model's index."""
        self.model_slowness: Final[dict[ModelId, float]] = {}
        """Whose batches take so many times as long, everywhere."""
        self.request_bytes: Final = sum(tensor.size_bytes for tensor in self._models[0].inputs)
        """Size of one request's inputs."""
        self.answer_bytes: Final = sum(tensor.size_bytes for tensor in self._models[0].outputs)
        """Size of one request's outputs."""
        self.clients: Final = SimClients(self, seed=scenario.seed)
        self._current: Final[list[SimExecutor]] = []
        """By number, each executor's present (or last) life."""
        self._clocks: Final = draw_clocks(
            scenario.clocks, count=scenario.executors, seed=scenario.seed
        )
        """By number, each executor's machine's."""
        self._usual: Final[dict[str, float]] = {
            "slowness": 1.0,
            "compute_slowness": 1.0,
            "extra_ns": 0,
            "impatient_ratio": scenario.workload.impatient_ratio,
        }
        """What each of these is again when a fault is over."""
        self._progress: Final = progress

    def run(self) -> Journal:
        """Run the scenario.

        Returns:
            What became of every request.

        Raises:
            InvariantBroken: Something happened that must never happen.
            ConfigError: The models can't be registered on these devices.
        """
        self._register()
        scenario = self.scenario
        self.begin_ns = self.journal.tally.begin_ns = self.engine.now_ns
        for fault in scenario.faults:
            self.engine.at(self.begin_ns + fault.at_ns, self._strike, fault)
        self.clients.begin()
        duration_ns = scenario.duration_ns
        for step in range(1, _STEPS + 1):
            self.engine.run(until_ns=self.begin_ns + duration_ns * step // _STEPS)
            if self._progress is not None:
                self._progress(step / _STEPS)
        while self.journal.unanswered:  # gateways answer at the deadline, so this ends
            self.engine.run(until_ns=self.engine.now_ns + _LOOK_NS)
        self.engine.run(until_ns=self.engine.now_ns + _DRAIN_NS)
        for controller in self.controllers:
            controller.core.validate()
            controller.checkers.finish()
        return self.journal

    # --- registration -----------------------------------------------------------------------------

    def _register(self) -> None:
        for _ in range(self.scenario.gateways):
            self._open_gateway()
        for controller in self.controllers:
            controller.handle(*(ModelAdded(spec=spec) for spec in self._models))
        for number in range(self.scenario.executors):
            self._join(f"executor-{number}", number)
        until_ns = self.engine.now_ns + _REGISTRATION_MAX_NS
        while not self._registered():
            if self.engine.now_ns >= until_ns:
                waiting = len(self._models) - min(len(each.ready) for each in self.controllers)
                raise ConfigError(
                    f"{waiting} of {len(self._models)} models are not ready after a day: expected "
                    f"each to fit the {self.profile.pages_total} pages of {self.profile.name!r}"
                )
            self.engine.run(until_ns=self.engine.now_ns + _LOOK_NS)

    def _open_gateway(self) -> None:
        parts = []
        for controller in self.controllers:
            # Each part has ids of its own, so that no two cells' requests are called the same.
            gateway_id = GatewayId(len(self.gateways) + 1)
            gateway = SimGateway(self, gateway_id, controller, self.network.link())
            self.gateways.append(gateway)
            controller.join_gateway(gateway)
            parts.append(gateway)
        rule = self.scenario.cell_rule
        self.doors.append(parts[0] if len(parts) == 1 else SimCellRouter(parts, rule))

    def _registered(self) -> bool:
        if any(len(controller.ready) < len(self._models) for controller in self.controllers):
            return False
        serving = 0
        for controller in self.controllers:
            status = controller.core.status(self.engine.now_ns)
            serving += sum(each.state == "serving" for each in status.executors)
        return serving == self.scenario.executors

    # --- executors' lives -------------------------------------------------------------------------

    def _join(self, name: str, number: int, survived: SimExecutor | None = None) -> None:
        executor_id = ExecutorId(len(self.executors) + 1)
        scenario = self.scenario
        clock = EdgeClock(self._clocks[number], ClockSync() if scenario.synchronises else None)
        executor = new_executor(
            self,
            executor_id,
            name,
            controller=self.controllers[number * scenario.cells // scenario.executors],
            clock=clock,
            seed=scenario.seed,
            survived=survived,
        )
        self.executors[executor_id] = executor
        if number == len(self._current):
            self._current.append(executor)
        self._current[number] = executor
        join = functools.partial(executor.controller.join_executor, executor)
        if clock.sync is None:
            join()
        else:
            heartbeat_ns = scenario.clocks.heartbeat_ns
            keep_pinging(executor, clock.sync, heartbeat_ns=heartbeat_ns, joined=join)

    def _die(self, number: int, for_ns: int) -> None:
        executor = self._current[number]
        if not executor.alive:
            return
        executor.alive = False
        noticed_ns = self.engine.now_ns + self.scenario.detection_ns
        executor.controller.checkers.silenced(executor.executor_id, noticed_ns=noticed_ns)
        self.engine.at(noticed_ns, executor.controller.lose_executor, executor)
        if for_ns:
            back_ns = max(for_ns, self.scenario.detection_ns + MS)
            self.engine.after(back_ns, self._join, executor.name, number)

    def _stall(self, number: int, for_ns: int) -> None:
        executor = self._current[number]
        executor.stalled_until_ns = max(executor.stalled_until_ns, self.engine.now_ns + for_ns)
        if for_ns > self.scenario.silence_ns:
            noticed_ns = self.engine.now_ns + self.scenario.silence_ns
            executor.controller.checkers.silenced(executor.executor_id, noticed_ns=noticed_ns)
            self.engine.at(noticed_ns, self._give_up, executor, number, for_ns)

    def _give_up(self, executor: SimExecutor, number: int, for_ns: int) -> None:
        if executor.alive:
            executor.alive = False
            executor.controller.lose_executor(executor)
            back_ns = for_ns - self.scenario.silence_ns + _REJOIN_NS
            self.engine.after(back_ns, self._join, executor.name, number, executor)

    def cut_off(self, executor: SimExecutor) -> None:
        """Cut an executor's connection on the controller's word; it joins anew."""
        if executor.alive:
            executor.alive = False
            self.disturb(f"{executor.name} was cut off")
            self.engine.after(0, executor.controller.lose_executor, executor)
            number = self._current.index(executor)
            self.engine.after(_REJOIN_NS, self._join, executor.name, number, executor)

    # --- faults -----------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        for_ns = fault.for_ns
        if fault.kind not in (FaultKind.DIE, FaultKind.GATEWAY):
            # A loss concerns only what was there; the checkers are told of it by itself.
            self.disturb(f"fault {fault}", for_ns=for_ns)
        match fault.kind:
            case FaultKind.DIE:
                self._die(fault.on, for_ns)
            case FaultKind.STALL:
                self._stall(fault.on, for_ns)
            case FaultKind.SLOW:
                self._for_a_time(for_ns, self._current[fault.on], "slowness", fault.factor)
            case FaultKind.CLOCK:
                self._for_a_time(for_ns, self._current[fault.on], "compute_slowness", fault.factor)
            case FaultKind.MODEL:
                self._set_pace(fault.on, fault.factor)
                if for_ns:
                    self.engine.after(for_ns, self._set_pace, fault.on, 1.0)
            case FaultKind.SKEW:
                self._clocks[fault.on].step(fault.by_ns)
            case FaultKind.DRIFT:
                self._clocks[fault.on].drift(round(fault.factor), now_ns=self.engine.now_ns)
            case FaultKind.LAG:
                self._for_a_time(for_ns, self.network, "extra_ns", fault.by_ns)
            case FaultKind.CANCEL:
                self._for_a_time(for_ns, self.clients, "impatient_ratio", fault.factor)
            case FaultKind.GATEWAY:
                gateway = self.gateways[fault.on]
                if gateway.alive:
                    gateway.die()
                    delay_ns = self.scenario.detection_ns
                    self.engine.after(delay_ns, gateway.controller.lose_gateway, gateway)
            case _:
                assert_never(fault.kind)

    def _set_pace(self, model: int, factor: float) -> None:
        self.model_slowness[self.model_ids[model]] = factor

    def _for_a_time(self, for_ns: int, whose: object, what: str, value: float) -> None:
        """Change a part of the world; for good, if `for_ns` is 0."""
        setattr(whose, what, value)
        if for_ns:
            self.engine.after(for_ns, setattr, whose, what, self._usual[what])

    # --- what the parts tell ----------------------------------------------------------------------

    def disturb(self, what: str, *, for_ns: int = 0) -> None:
        """Note something outside of the plan that may break a promise."""
        now_ns = self.engine.now_ns
        for controller in self.controllers:
            controller.checkers.disturbed(what, now_ns=now_ns, until_ns=now_ns + for_ns)

    def count(self, action: Action, device_ns: int) -> None:
        """Count an action that has just ended after `device_ns`."""
        if not self.begin_ns or not isinstance(action, Infer | Load):
            return
        now_ns, end_ns = self.engine.now_ns, self.begin_ns + self.scenario.duration_ns
        # Of what reaches over an end of the traffic, the part inside counts.
        busy_ns = max(0, min(now_ns, end_ns) - max(now_ns - device_ns, self.begin_ns))
        self.journal.ran(
            isinstance(action, Infer), busy_ns=busy_ns, ended_ns=min(now_ns, end_ns - 1)
        )
