"""An executor in this process, with a controller that only passes on what a benchmark orders.

The executor is the production one: actors, lanes, buffers, clock and all. Only the wire is missing.
"""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns
from cw.actors.executor import ExecutorActor
from cw.actors.weights_cache import ModelFiles
from cw.config import ExecutorSettings, LinkSettings
from cw.devices.device import Device
from cw.errors import ProtocolViolation
from cw.messages import (
    Action,
    ActionId,
    ActionResult,
    Attempt,
    BatchInputs,
    BatchOutputs,
    Epoch,
    ExecutorHello,
    ExecutorId,
    ExecutorWelcome,
    GatewayHello,
    GatewayWelcome,
    Incarnation,
    Infer,
    Load,
    ModelId,
    ModelSpec,
    Orders,
    Outcome,
    Pong,
    Prepare,
    RequestId,
    Slot,
    SlotInputs,
    Ticket,
    Unload,
    UsageBatch,
    Window,
)
from cw.rpc.ports import ExecutorPort, ExecutorSession, GatewayPort, GatewaySession
from cw.units import SECOND

_EPOCH: Final = Epoch(1)
_FAR_NS: Final = 3600 * SECOND


class Orderer:
    """A controller without a plan: satisfies `ControllerPort` and `ExecutorSession`."""

    def __init__(self) -> None:
        self._executor: ExecutorPort | None = None
        self._joined: Final = trio.Event()
        self._awaited: dict[ActionId, trio.Event] = {}
        self._results: dict[ActionId, ActionResult] = {}
        self._numbers: Final = itertools.count(1)

    async def join_executor(
        self, hello: ExecutorHello, executor: ExecutorPort
    ) -> tuple[ExecutorWelcome, ExecutorSession]:
        """Take the executor that joins."""
        await trio.lowlevel.checkpoint()
        self._executor = executor
        self._joined.set()
        return ExecutorWelcome(epoch=_EPOCH, executor_id=ExecutorId(1)), self

    async def join_gateway(
        self, hello: GatewayHello, gateway: GatewayPort
    ) -> tuple[GatewayWelcome, GatewaySession]:
        """There are no gateways here."""
        raise ProtocolViolation("expected executors alone to join a benchmark, got a gateway")

    def tell(self, results: Sequence[ActionResult]) -> None:
        """Keep results for whoever awaits them; others are dropped."""
        for result in results:
            event = self._awaited.pop(result.action_id, None)
            if event is not None:
                self._results[result.action_id] = result
                event.set()

    async def ping(self, sent_ns: int) -> Pong:
        """Answer with the clock that both share."""
        await trio.lowlevel.checkpoint()
        return Pong(received_ns=now_ns(), replied_ns=now_ns())

    async def meter(self, batch: UsageBatch) -> int:
        """Take all records as written down: nobody pays for a benchmark."""
        await trio.lowlevel.checkpoint()
        return batch.records[-1].number if batch.records else 0

    async def wait_closed(self) -> None:
        """Stay until the executor goes."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Nothing is held."""

    async def wait_joined(self) -> None:
        """Return once there is an executor."""
        await self._joined.wait()

    def next_id(self) -> ActionId:
        """Number an action."""
        return ActionId(next(self._numbers))

    def order(self, action: Action) -> None:
        """Send an action, and remember that its result is wanted."""
        assert self._executor is not None, "no executor has joined"
        self._awaited[action.action_id] = trio.Event()
        self._executor.tell(Orders(epoch=_EPOCH, actions=(action,)))

    async def result(self, action_id: ActionId) -> ActionResult:
        """Wait for an ordered action's end."""
        event = self._awaited.get(action_id)
        if event is not None:
            await event.wait()
        return self._results.pop(action_id)


@attrs.frozen
class Rig:
    """An executor and its orderer."""

    orderer: Orderer
    executor: ExecutorActor

    async def prepare(self, model: ModelSpec) -> None:
        """Bring a model up."""
        action = Prepare(
            action_id=self.orderer.next_id(),
            model=model,
            planned_start_ns=now_ns(),
            expected_ns=0,
            window=_any_time(),
        )
        await self._carry_out(action)

    async def load(self, model_id: ModelId) -> ActionResult:
        """Make a model resident; return its LOAD's result."""
        action = Load(
            action_id=self.orderer.next_id(),
            model_id=model_id,
            planned_start_ns=now_ns(),
            expected_ns=0,
            window=_any_time(),
        )
        return await self._carry_out(action)

    async def unload(self, model_id: ModelId) -> None:
        """Free a model's pages."""
        await self._carry_out(Unload(action_id=self.orderer.next_id(), model_id=model_id))

    def infer(self, model_id: ModelId, batch_size: int, window: Window | None = None) -> Infer:
        """Make an INFER with a full batch of requests."""
        number = self.orderer.next_id()
        window = window or _any_time()
        return Infer(
            action_id=number,
            model_id=model_id,
            batch_size=batch_size,
            slots=tuple(
                Slot(
                    request_id=RequestId(number * 64 + position),
                    attempt=Attempt(1),
                    deadline_ns=window.latest_ns + SECOND,
                )
                for position in range(batch_size)
            ),
            ticket=Ticket(number),
            planned_start_ns=window.earliest_ns,
            expected_ns=0,
            window=window,
        )

    async def bring_inputs(self, action: Infer, tensors: tuple[bytes, ...]) -> BatchOutputs:
        """Be the gateway of all of an INFER's requests; all have the same inputs."""
        arrival_ns = now_ns()
        inputs = BatchInputs(
            epoch=_EPOCH,
            action_id=action.action_id,
            ticket=action.ticket,
            slots=tuple(
                SlotInputs(
                    position=position,
                    request_id=slot.request_id,
                    attempt=slot.attempt,
                    arrival_ns=arrival_ns,
                    tensors=tensors,
                )
                for position, slot in enumerate(action.slots)
            ),
        )
        return await self.executor.data_port.infer(inputs)

    async def _carry_out(self, action: Action) -> ActionResult:
        self.orderer.order(action)
        result = await self.orderer.result(action.action_id)
        assert result.outcome is Outcome.OK, f"{action} ended as {result}"
        return result


@asynccontextmanager
async def running_executor(device: Device, files: Mapping[str, ModelFiles]) -> AsyncIterator[Rig]:
    """Run an executor on a device until the block is left; the caller closes the device.

    Args:
        device: What runs.
        files: Where each model's lie, by name.
    """
    orderer = Orderer()

    @asynccontextmanager
    async def dial() -> AsyncIterator[Orderer]:
        yield orderer

    async def locate(model: ModelSpec) -> ModelFiles:
        await trio.lowlevel.checkpoint()
        return files[model.name]

    executor = ExecutorActor(
        name="bench",
        incarnation=Incarnation(1),
        device=device,
        locate=locate,
        dial=dial,
        settings=ExecutorSettings(),
        link=LinkSettings(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(executor.run, data_address="memory"))
        await orderer.wait_joined()
        yield Rig(orderer, executor)
        nursery.cancel_scope.cancel()


def _any_time() -> Window:
    now = now_ns()
    return Window(earliest_ns=now, latest_ns=now + _FAR_NS)
