"""An executor's two sides: towards its controller, and towards the gateways."""

from collections.abc import Awaitable, Sequence
from typing import Any

from cw.messages import (
    ActionResult,
    BatchInputs,
    BatchOutputs,
    CancelSlot,
    Orders,
    Pong,
    UsageBatch,
)
from cw.rpc import schema
from cw.rpc.codec.actions import (
    action_result_from_wire,
    action_result_to_wire,
    cancel_slot_from_wire,
    cancel_slot_to_wire,
    orders_from_wire,
    orders_to_wire,
)
from cw.rpc.codec.binding import list_to_wire
from cw.rpc.codec.payloads import (
    batch_inputs_from_wire,
    batch_inputs_to_wire,
    batch_outputs_from_wire,
    batch_outputs_to_wire,
)
from cw.rpc.codec.reports import pong_from_wire, pong_to_wire
from cw.rpc.codec.usage import usage_batch_from_wire, usage_batch_to_wire
from cw.rpc.kj_connection import KjConnection
from cw.rpc.links.base import Stub, asked, told
from cw.rpc.outbox import Outbox
from cw.rpc.ports import ExecutorPort, ExecutorSession, InferencePort
from cw.rpc.weights import orders_weight


class ExecutorStub(Stub):
    """An executor, as the controller sees it; satisfies `ExecutorPort`."""

    def __init__(self, connection: KjConnection, capability: Any, *, max_messages: int) -> None:
        """Speak to the executor behind `capability`; at most `max_messages` wait."""
        super().__init__(connection, capability)
        self.outbox = Outbox(connection, self._send, max_messages=max_messages, weigh=orders_weight)

    def tell(self, orders: Orders) -> None:
        """See `ExecutorPort.tell`."""
        self.outbox.tell((orders,))

    def _send(self, many: Sequence[Orders]) -> Awaitable[object]:
        request = self._capability.tell_request()
        list_to_wire(orders_to_wire, many, request.init("orders", len(many)))
        call: Awaitable[object] = request.send()
        return call


class ExecutorGate(schema.executor.Executor.Server):  # type: ignore[misc]
    """The door of an executor to its controller."""

    def __init__(self, executor: ExecutorPort, link: KjConnection) -> None:
        """Let the peer on `link` reach `executor`."""
        self.executor = executor
        self.link = link

    def _tell(self, many: Sequence[Orders]) -> None:
        for orders in many:
            self.executor.tell(orders)

    tell_context = told(lambda params: [orders_from_wire(it) for it in params.orders], _tell)


class ExecutorSessionStub(Stub):
    """A controller, as one of its executors sees it; satisfies `ExecutorSession`."""

    def __init__(self, connection: KjConnection, capability: Any, *, max_messages: int) -> None:
        """Speak to the session behind `capability`; at most `max_messages` wait."""
        super().__init__(connection, capability)
        self.outbox = Outbox(connection, self._send, max_messages=max_messages)

    def tell(self, results: Sequence[ActionResult]) -> None:
        """See `ExecutorSession.tell`."""
        self.outbox.tell(results)

    def _send(self, results: Sequence[ActionResult]) -> Awaitable[object]:
        request = self._capability.tell_request()
        list_to_wire(action_result_to_wire, results, request.init("results", len(results)))
        call: Awaitable[object] = request.send()
        return call

    async def ping(self, sent_ns: int) -> Pong:
        """See `ExecutorSession.ping`."""

        def fill(params: Any) -> None:
            params.sentNs = sent_ns

        return await self._ask("ping", fill, lambda results: pong_from_wire(results.pong))

    async def meter(self, batch: UsageBatch) -> int:
        """See `ExecutorSession.meter`."""
        return await self._ask(
            "meter",
            lambda params: usage_batch_to_wire(batch, params.init("batch")),
            lambda results: int(results.through),
        )


class ExecutorSessionGate(schema.control.ExecutorSession.Server):  # type: ignore[misc]
    """The door of a controller to one of its executors."""

    def __init__(self, session: ExecutorSession, link: KjConnection) -> None:
        """Let the peer on `link` reach `session`."""
        self.session = session
        self.link = link

    tell_context = told(
        lambda params: [action_result_from_wire(it) for it in params.results],
        lambda gate, results: gate.session.tell(results),
    )
    meter_context = asked(
        lambda params: usage_batch_from_wire(params.batch),
        lambda gate, batch: gate.session.meter(batch),
        lambda results, through: setattr(results, "through", through),
    )
    ping_context = asked(
        lambda params: params.sentNs,
        lambda gate, sent_ns: gate.session.ping(sent_ns),
        lambda results, pong: pong_to_wire(pong, results.init("pong")),
    )


class InferenceStub(Stub):
    """An executor's data side, as a gateway sees it; satisfies `InferencePort`."""

    def __init__(self, connection: KjConnection, capability: Any, *, max_messages: int) -> None:
        """Speak to the executor behind `capability`; at most `max_messages` cancels wait."""
        super().__init__(connection, capability)
        self.outbox = Outbox(connection, self._send, max_messages=max_messages)

    def tell(self, cancels: Sequence[CancelSlot]) -> None:
        """See `InferencePort.tell`."""
        self.outbox.tell(cancels)

    def _send(self, cancels: Sequence[CancelSlot]) -> Awaitable[object]:
        request = self._capability.cancel_request()
        list_to_wire(cancel_slot_to_wire, cancels, request.init("slots", len(cancels)))
        call: Awaitable[object] = request.send()
        return call

    async def infer(self, inputs: BatchInputs) -> BatchOutputs:
        """See `InferencePort.infer`."""
        payload_bytes = sum(
            memoryview(tensor).nbytes for slot in inputs.slots for tensor in slot.tensors
        )
        return await self._ask(
            "infer",
            lambda params: batch_inputs_to_wire(inputs, params.init("inputs")),
            lambda results: batch_outputs_from_wire(results.outputs),
            payload_bytes,
        )


class InferenceGate(schema.executor.Inference.Server):  # type: ignore[misc]
    """The door of an executor to one gateway."""

    def __init__(self, executor: InferencePort, link: KjConnection) -> None:
        """Let the peer on `link` reach `executor`."""
        self.executor = executor
        self.link = link

    infer_context = asked(
        lambda params: batch_inputs_from_wire(params.inputs),
        lambda gate, inputs: gate.executor.infer(inputs),
        lambda results, outputs: batch_outputs_to_wire(outputs, results.init("outputs")),
    )
    cancel_context = told(
        lambda params: [cancel_slot_from_wire(it) for it in params.slots],
        lambda gate, cancels: gate.executor.tell(cancels),
    )
