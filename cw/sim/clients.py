"""Clients of the simulated world: those that wait for answers, and those that hang up.

Open-loop clients send whatever becomes of what they sent before; those of a closed loop have one
open request each. Some of either lose patience: they hang up before they are answered.
"""

import functools
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from cw.sim.journal import End, RequestRecord
from cw.workload.workload import Call, ClosedLoop

if TYPE_CHECKING:
    from cw.sim.cells import SimCellRouter
    from cw.sim.gateway import SimGateway
    from cw.sim.world import World


class SimClients:
    """All clients of a run. They take the gateways in turn, and leave out those that are dead.

    Args:
        world: Where they live.
        seed: Of their impatience.
    """

    def __init__(self, world: "World", *, seed: int) -> None:
        self._world: Final = world
        self._random: Final = random.Random(f"impatience {seed}")
        self._turn = 0
        self.impatient_ratio = world.scenario.workload.impatient_ratio
        """Of the requests that arrive now, how many are cancelled before their deadline."""

    def begin(self) -> None:
        """Have them send what the scenario's workload says, from now on."""
        scenario = self._world.scenario
        workload, duration_ns = scenario.workload, scenario.duration_ns
        for loop in workload.closed:
            until_ns = duration_ns if loop.until_ns is None else min(loop.until_ns, duration_ns)
            for model in loop.models:
                ask = functools.partial(self._ask, loop, model, self._world.begin_ns + until_ns)
                for _ in range(loop.clients_per_model):
                    self._world.engine.after(loop.from_ns, ask)
        calls = workload.calls(seed=scenario.seed, duration_ns=duration_ns)
        first = next(calls, None)
        if first is not None:
            self._world.engine.after(first.instant_ns, self._arrive, calls, first)

    # --- open loop --------------------------------------------------------------------------------

    def _arrive(self, calls: Iterator[Call], call: Call) -> None:
        self._send(call.model, call.slo_ns)
        following = next(calls, None)
        if following is not None:
            world = self._world
            world.engine.at(world.begin_ns + following.instant_ns, self._arrive, calls, following)

    # --- closed loop ------------------------------------------------------------------------------

    def _ask(self, loop: ClosedLoop, model: int, until_ns: int) -> None:
        if self._world.engine.now_ns < until_ns:
            again = functools.partial(self._answered, loop, model, until_ns)
            self._send(model, loop.slo_ns, again)

    def _answered(self, loop: ClosedLoop, model: int, until_ns: int, record: RequestRecord) -> None:
        wait_ns = 0 if record.end is End.KEPT else loop.retry_ns
        self._world.engine.after(wait_ns, self._ask, loop, model, until_ns)

    # --- both -------------------------------------------------------------------------------------

    def _send(
        self,
        model: int,
        slo_ns: int | None,
        ask_next: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        gateway = self._gateway()
        if gateway is None:
            return
        world = self._world
        record = gateway.arrive(
            model,
            world.model_ids[model],
            slo_ns,
            tenant=world.scenario.models[model].tenant,
            ask_next=ask_next,
        )
        if (
            slo_ns is not None
            and self.impatient_ratio
            and self._random.random() < self.impatient_ratio
        ):
            patience_ns = int(self._random.random() * slo_ns)
            world.engine.after(patience_ns, gateway.cancel, record.request_id)

    def _gateway(self) -> "SimGateway | SimCellRouter | None":
        """Say who is next; nobody, once all are dead."""
        gateways = self._world.doors
        for _ in gateways:
            self._turn += 1
            gateway = gateways[self._turn % len(gateways)]
            if gateway.alive:
                return gateway
        return None
