"""A whole cluster in one process: the real actors and scheduler, on ports in memory.

Executors have emulated devices. Under `autojump_clock` seconds of traffic take less than one.
"""

import random
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from cw.actors.controller import ControllerActor
from cw.actors.executor import ExecutorActor
from cw.actors.gateway import GatewayActor
from cw.config import ExecutorSettings, GatewaySettings, LinkSettings, SchedulerSettings
from cw.core.scheduler import Scheduler
from cw.devices.emulated import EmulatedDevice
from cw.devices.profile_file import read_profile
from cw.messages import Answer, Epoch, Incarnation, InferCall, ModelState, Tensor
from cw.rpc.memory import MemoryNetwork
from cw.units import MS, SECOND, US
from tests.actor.fakes import locate_anything, make_model

CONTROLLER = "controller"


@attrs.define
class Tally:
    """What clients got."""

    answers: list[Answer] = attrs.Factory(list)

    def kinds(self):
        return Counter(_kind(answer) for answer in self.answers)

    @property
    def broken(self):
        return [each for each in self.answers if each.promised and each.outputs is None]


def _kind(answer):
    if answer.outputs is not None:
        return "kept"
    if answer.promised:
        return "broken"
    return answer.refusal.reason.value if answer.refusal else answer.failure.kind.value


@attrs.define(eq=False)
class Cluster:
    """The actors, and the means to hurt them."""

    nursery: trio.Nursery
    network: MemoryNetwork
    scheduler: Scheduler | None = None
    controller: ControllerActor | None = None
    gateways: list[GatewayActor] = attrs.Factory(list)
    executors: dict[str, trio.CancelScope] = attrs.Factory(dict)
    batch_sizes: Counter = attrs.Factory(Counter)
    _controller_scope: trio.CancelScope | None = None
    _epochs: int = 0
    _lives: int = 0

    # --- its parts ---

    async def start_controller(self, *, models=(), settings=None):
        self._epochs += 1
        epoch = Epoch(self._epochs)
        settings = settings or SchedulerSettings()
        self.scheduler = Scheduler(settings, epoch=epoch, ticket_seed=epoch)
        self.controller = ControllerActor(
            core=self.scheduler, epoch=epoch, link=LinkSettings(), models=models
        )
        self._controller_scope = await self.nursery.start(_scoped, self.controller.run)
        self.network.serve(CONTROLLER, self.controller)

    def stop_controller(self):
        self._controller_scope.cancel()
        self.network.withdraw(CONTROLLER)

    async def start_gateway(self, name="gateway-1"):
        gateway = GatewayActor(
            name=name,
            settings=GatewaySettings(),
            link=LinkSettings(),
            dial_controller=lambda: self.network.connect_controller(CONTROLLER),
            dial_executor=self.network.connect_executor,
        )
        await self.nursery.start(gateway.run)
        self.gateways.append(gateway)
        return gateway

    async def start_executor(self, name, *, pages=64, profile="fixed-2ms"):
        """Start an executor; under the name of an earlier one it is that one's next life."""
        self._lives += 1
        device = EmulatedDevice(
            read_profile(profile), pages_total=pages, seed=self._lives, verify=False
        )
        executor = ExecutorActor(
            name=name,
            incarnation=Incarnation(self._lives),
            device=device,
            locate=locate_anything,
            dial=lambda: self.network.connect_controller(CONTROLLER),
            settings=ExecutorSettings(),
            link=LinkSettings(),
        )
        self.network.serve(name, executor.data_port)
        self.executors[name] = await self.nursery.start(
            _scoped, partial(executor.run, data_address=name)
        )

    def kill_executor(self, name):
        self.executors.pop(name).cancel()
        self.network.withdraw(name)

    # --- models ---

    async def add_model(self, spec, *, gateway=0):
        await self.gateways[gateway].session.add_model(spec)

    async def ready(self, *specs, within_s=60):
        """Wait until models are ready."""
        with trio.fail_after(within_s):
            for spec in specs:
                while (await self.status_of(spec)).state is not ModelState.READY:
                    await trio.sleep(0.01)

    async def prepared_everywhere(self, within_s=60):
        """Wait until nothing is being brought up any more."""
        with trio.fail_after(within_s):
            while True:
                status = await self.gateways[0].session.status()
                if status.executors and all(each.state == "serving" for each in status.executors):
                    return
                await trio.sleep(0.01)

    async def status_of(self, spec):
        return await self.gateways[0].session.model_status(spec.model_id)

    # --- clients ---

    async def ask(self, model, tally, *, slo_ns=100 * MS, gateway=0, number=0):
        data = number.to_bytes(4, "big")
        tensor = Tensor(name="x", datatype="UINT8", shape=(4,), data=data)
        call = InferCall(model=model.name, inputs=(tensor,), slo_ns=slo_ns)
        began = trio.current_time()
        answer = await self.gateways[gateway].infer(call, arrival_ns=round(began * SECOND))
        late_ns = round((trio.current_time() - began) * SECOND) - slo_ns
        assert late_ns <= 0, f"answered {late_ns} ns after the deadline"
        if answer.outputs is not None:
            assert answer.outputs == (data,), "another request's output"
            self.batch_sizes[answer.timing.batch_size] += 1
        tally.answers.append(answer)

    async def offer(self, models, tally, *, rate, count, slo_ns=100 * MS, seed=0):
        """Let requests of random models arrive at random gateways; return when all are answered."""
        chance = random.Random(seed)
        async with trio.open_nursery() as nursery:
            for number in range(count):
                await trio.sleep(chance.expovariate(rate))
                ask = partial(
                    self.ask,
                    slo_ns=slo_ns,
                    gateway=chance.randrange(len(self.gateways)),
                    number=number,
                )
                nursery.start_soon(ask, chance.choice(models), tally)

    def check_at_rest(self):
        """Nothing is left of any request anywhere."""
        assert [len(gateway.book) for gateway in self.gateways] == [0] * len(self.gateways)
        assert len(self.scheduler.books.requests) == 0
        self.scheduler.validate()


async def _scoped(run, task_status):
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            task_status.started(scope)


def some_models(count, *, pages=1):
    """Models with programs in common: only the first has to be measured."""
    return [make_model(f"model-{index}", pages=pages) for index in range(count)]


@asynccontextmanager
async def running_cluster(*, models=(), gateways=1, executors=1, pages=64, settings=None, seed=0):
    """Run a cluster with these models ready; at the end nothing may be left of any request."""
    network = MemoryNetwork(seed=seed, delay_ns=(50 * US, 250 * US))
    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            cluster = Cluster(nursery, network)
            await cluster.start_controller(models=models, settings=settings)
            for number in range(1, gateways + 1):
                await cluster.start_gateway(f"gateway-{number}")
            for number in range(1, executors + 1):
                await cluster.start_executor(f"executor-{number}", pages=pages)
            await cluster.ready(*models)
            await cluster.prepared_everywhere()
            yield cluster
            await trio.sleep(1)
            cluster.check_at_rest()
            nursery.cancel_scope.cancel()
