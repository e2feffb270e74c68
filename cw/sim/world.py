"""The world: the scheduler of production among simulated gateways, executors and messages.

A run has two parts. First the models are registered, as in production: programs prepared, batch
sizes measured. Then the traffic begins, and with it the faults; the result is of this part only.
Everything random comes from the scenario's seed, by streams that do not disturb each other.
"""

import random
from collections.abc import Callable, Iterator
from typing import Final

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
    Unload,
)
from cw.sim.checkers import Checkers, checkers_for
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
from cw.workload.workload import Call

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
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        validate_every: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.scenario: Final = scenario
        self.profile: Final[EmulationProfile] = scenario.emulation()
        self.engine: Final = Engine(now_ns=SECOND)
        self.journal: Final = Journal()
        self.checkers: Final[Checkers] = checkers_for(scenario)
        self.network: Final = Network(
            self.engine, scenario.network, random.Random(f"network {scenario.seed}")
        )
        core = Scheduler(scenario.settings, epoch=Epoch(1), ticket_seed=scenario.seed)
        self.controller: Final = SimController(self, core, validate_every=validate_every)
        self.executors: Final[dict[ExecutorId, SimExecutor]] = {}
        self.gateways: Final[list[SimGateway]] = []
        self.begin_ns = 0
        """When the traffic began."""
        self._models: Final = scenario.specs()
        self._current: Final[list[SimExecutor]] = []
        """By number, each executor's present (or last) life."""
        self._turn = 0
        self._progress: Final = progress

    @property
    def request_bytes(self) -> int:
        """Size of one request's inputs."""
        return sum(tensor.size_bytes for tensor in self._models[0].inputs)

    @property
    def answer_bytes(self) -> int:
        """Size of one request's outputs."""
        return sum(tensor.size_bytes for tensor in self._models[0].outputs)

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
        self.begin_ns = self.engine.now_ns
        for fault in scenario.faults:
            self.engine.at(self.begin_ns + fault.at_ns, self._strike, fault)
        duration_ns = scenario.duration_ns
        self._schedule_next(scenario.workload.calls(seed=scenario.seed, duration_ns=duration_ns))
        for step in range(1, _STEPS + 1):
            self.engine.run(until_ns=self.begin_ns + duration_ns * step // _STEPS)
            if self._progress is not None:
                self._progress(step / _STEPS)
        while self.journal.unanswered:  # gateways answer at the deadline, so this ends
            self.engine.run(until_ns=self.engine.now_ns + _LOOK_NS)
        self.engine.run(until_ns=self.engine.now_ns + _DRAIN_NS)
        self.controller.core.validate()
        self.checkers.finish()
        return self.journal

    # --- registration and traffic -----------------------------------------------------------------

    def _register(self) -> None:
        for number in range(self.scenario.gateways):
            gateway = SimGateway(self, GatewayId(number + 1), self.network.link())
            self.gateways.append(gateway)
            self.controller.join_gateway(gateway)
        self.controller.handle(*(ModelAdded(spec=spec) for spec in self._models))
        for number in range(self.scenario.executors):
            self._join(f"executor-{number}", number)
        until_ns = self.engine.now_ns + _REGISTRATION_MAX_NS
        while not self._registered():
            if self.engine.now_ns >= until_ns:
                waiting = len(self._models) - len(self.controller.ready)
                raise ConfigError(
                    f"{waiting} of {len(self._models)} models are not ready after a day: expected "
                    f"each to fit the {self.profile.pages_total} pages of {self.profile.name!r}"
                )
            self.engine.run(until_ns=self.engine.now_ns + _LOOK_NS)

    def _registered(self) -> bool:
        if len(self.controller.ready) < len(self._models):
            return False
        status = self.controller.core.status(self.engine.now_ns)
        return all(executor.state == "serving" for executor in status.executors)

    def _schedule_next(self, calls: Iterator[Call]) -> None:
        call = next(calls, None)
        if call is not None:
            self.engine.at(self.begin_ns + call.instant_ns, self._arrive, calls, call)

    def _arrive(self, calls: Iterator[Call], call: Call) -> None:
        alive = [gateway for gateway in self.gateways if gateway.alive]
        if alive:
            self._turn += 1
            gateway = alive[self._turn % len(alive)]
            gateway.arrive(call.model, self._models[call.model].model_id, call.slo_ns)
        self._schedule_next(calls)

    # --- executors' lives -------------------------------------------------------------------------

    def _join(self, name: str, number: int, survived: SimExecutor | None = None) -> None:
        executor_id = ExecutorId(len(self.executors) + 1)
        executor = new_executor(self, executor_id, name, seed=self.scenario.seed, survived=survived)
        self.executors[executor_id] = executor
        if number == len(self._current):
            self._current.append(executor)
        self._current[number] = executor
        self.controller.join_executor(executor)

    def _die(self, number: int, for_ns: int) -> None:
        executor = self._current[number]
        if not executor.alive:
            return
        executor.alive = False
        noticed_ns = self.engine.now_ns + self.scenario.detection_ns
        self.checkers.silenced(executor.executor_id, noticed_ns=noticed_ns)
        self.engine.at(noticed_ns, self.controller.lose_executor, executor)
        if for_ns:
            back_ns = max(for_ns, self.scenario.detection_ns + MS)
            self.engine.after(back_ns, self._join, executor.name, number)

    def _stall(self, number: int, for_ns: int) -> None:
        executor = self._current[number]
        executor.stalled_until_ns = max(executor.stalled_until_ns, self.engine.now_ns + for_ns)
        if for_ns > self.scenario.silence_ns:
            noticed_ns = self.engine.now_ns + self.scenario.silence_ns
            self.checkers.silenced(executor.executor_id, noticed_ns=noticed_ns)
            self.engine.at(noticed_ns, self._give_up, executor, number, for_ns)

    def _give_up(self, executor: SimExecutor, number: int, for_ns: int) -> None:
        if executor.alive:
            executor.alive = False
            self.controller.lose_executor(executor)
            back_ns = for_ns - self.scenario.silence_ns + _REJOIN_NS
            self.engine.after(back_ns, self._join, executor.name, number, executor)

    def cut_off(self, executor: SimExecutor) -> None:
        """Cut an executor's connection on the controller's word; it joins anew."""
        if executor.alive:
            executor.alive = False
            self.disturb(f"{executor.name} was cut off")
            self.engine.after(0, self.controller.lose_executor, executor)
            number = self._current.index(executor)
            self.engine.after(_REJOIN_NS, self._join, executor.name, number, executor)

    # --- faults -----------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        for_ns = fault.for_ns
        if fault.kind not in (FaultKind.DIE, FaultKind.GATEWAY):
            # A loss concerns only what was there; the checkers are told of it by itself.
            self.disturb(f"fault {fault}", for_ns=for_ns)
        executor = self._current[fault.on] if fault.kind is not FaultKind.GATEWAY else None
        match fault.kind:
            case FaultKind.DIE:
                self._die(fault.on, for_ns)
            case FaultKind.STALL:
                self._stall(fault.on, for_ns)
            case FaultKind.SLOW:
                assert executor is not None
                executor.slowness = fault.factor
                if for_ns:
                    self.engine.after(for_ns, self._recover, executor)
            case FaultKind.SKEW:
                assert executor is not None
                executor.clock_error_ns = fault.by_ns
            case FaultKind.LAG:
                self.network.extra_ns = fault.by_ns
                if for_ns:
                    self.engine.after(for_ns, self._quicken)
            case FaultKind.GATEWAY:
                gateway = self.gateways[fault.on]
                if gateway.alive:
                    gateway.die()
                    delay_ns = self.scenario.detection_ns
                    self.engine.after(delay_ns, self.controller.lose_gateway, gateway)

    def _recover(self, executor: SimExecutor) -> None:
        executor.slowness = 1.0

    def _quicken(self) -> None:
        self.network.extra_ns = 0

    # --- what the parts tell ----------------------------------------------------------------------

    def disturb(self, what: str, *, for_ns: int = 0) -> None:
        """Note something outside of the plan that may break a promise."""
        now_ns = self.engine.now_ns
        self.checkers.disturbed(what, now_ns=now_ns, until_ns=now_ns + for_ns)

    def count(self, action: Action, device_ns: int) -> None:
        """Count an action that has just ended after `device_ns`."""
        if not self.begin_ns or isinstance(action, Unload):
            return
        now_ns, end_ns = self.engine.now_ns, self.begin_ns + self.scenario.duration_ns
        # Of what reaches over an end of the traffic, the part inside counts.
        busy_ns = max(0, min(now_ns, end_ns) - max(now_ns - device_ns, self.begin_ns))
        if isinstance(action, Infer):
            self.journal.infers += 1
            self.journal.infer_busy_ns += busy_ns
        elif isinstance(action, Load):
            self.journal.loads += 1
            self.journal.load_busy_ns += busy_ns
