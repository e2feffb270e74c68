"""Carrier: brings a gateway's payloads to the executors and takes outputs from them.

One call per assigned action and gateway. The call is the carrier's, not any one client's: a client
that goes away cancels its own slot and none of its neighbours'. Outputs of an attempt that is no
longer current are thrown away.

Neighbours: `executor_link.py` (connections), `open_requests.py` (whose payloads), `gateway.py`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns, trio_time
from cw.actors.executor_link import ExecutorLink
from cw.actors.open_requests import OpenRequest, OpenRequests
from cw.core.clock_sync import ClockSync
from cw.errors import CwError, OutboxFull, PeerDisconnected
from cw.messages import (
    Assign,
    AttemptFailed,
    BatchInputs,
    BatchOutputs,
    CancelSlot,
    ExecutorAddress,
    ExecutorId,
    SlotInputs,
)
from cw.rpc.ports import DialExecutor

_DETAIL_CHARS_MAX: Final = 500
_ASK_AGAIN_S: Final = 0.002
"""Wait before an executor without room for inputs is asked again: about one batch's duration."""


@attrs.define(eq=False)
class Carrier:
    """Carries payloads.

    Args:
        book: The gateway's open requests.
        dial: Connects to an executor's data side.
        failed: Told of each attempt that gave no output.
    """

    book: OpenRequests
    dial: DialExecutor
    failed: Callable[[AttemptFailed], object]
    _links: dict[ExecutorId, ExecutorLink] = attrs.field(factory=dict, init=False)
    _by_address: dict[str, ExecutorLink] = attrs.field(factory=dict, init=False)
    """Executors of one process are at one address, and share a connection."""

    @property
    def executors(self) -> int:
        """How many there are to bring inputs to."""
        return len(self._links)

    def join(self, joined: ExecutorAddress, nursery: trio.Nursery) -> None:
        """Connect to an executor, ahead of its first assignment."""
        link = self._by_address.get(joined.address)
        if link is None:
            link = ExecutorLink(joined.address, self.dial)
            self._by_address[joined.address] = link
            nursery.start_soon(link.run)
        link.users += 1
        self._links[joined.executor_id] = link

    def lose(self, executor_id: ExecutorId) -> None:
        """Give an executor up: what it was asked has failed."""
        link = self._links.pop(executor_id, None)
        if link is None:
            return
        link.users -= 1
        if not link.users:
            del self._by_address[link.address]
            link.stop()

    def lose_all(self) -> None:
        """Give up every executor: a new controller will name them again."""
        for executor_id in tuple(self._links):
            self.lose(executor_id)

    def batch(self, assign: Assign, clock: ClockSync) -> BatchInputs | None:
        """Make an assignment's call out of those of its requests that still wait."""
        slots = []
        assigned_ns = now_ns()
        for place in assign.assignments:
            request = self.book.advance(place.request_id, place.attempt)
            if request is None:
                continue
            request.promised = not request.is_best_effort
            request.predicted_finish_ns = clock.to_local_ns(assign.predicted_finish_ns)
            request.assigned_ns = assigned_ns
            request.executor_id = assign.executor_id
            slots.append(
                SlotInputs(
                    position=place.position,
                    request_id=place.request_id,
                    attempt=place.attempt,
                    arrival_ns=clock.to_cluster_ns(request.arrival_ns),
                    tensors=request.tensors,
                )
            )
        if not slots:
            return None
        return BatchInputs(
            epoch=assign.epoch,
            action_id=assign.action_id,
            ticket=assign.ticket,
            slots=tuple(slots),
        )

    async def carry(self, executor_id: ExecutorId, inputs: BatchInputs) -> None:
        """Bring inputs to their action and take what comes of it, while anybody still waits."""
        waiting = [self.book.waiting(slot.request_id) for slot in inputs.slots]
        latest_ns = max((request.deadline_ns for request in waiting if request), default=0)
        began_ns = now_ns()
        # At the last deadline there is nothing to tell: each request's own task answers by then.
        with trio.move_on_at(trio_time(latest_ns)) as patience:
            try:
                outputs = await self._ask(executor_id, inputs)
            except CwError as exc:
                for slot in inputs.slots:
                    self._fail(slot, str(exc))
            else:
                self._take(inputs, outputs)
        if patience.cancelled_caught and (link := self._links.get(executor_id)) is not None:
            # Executors answer every call when its action's window has passed, at the latest.
            link.doubt(began_ns)

    async def _ask(self, executor_id: ExecutorId, inputs: BatchInputs) -> BatchOutputs:
        """Ask an executor until it answers or is lost.

        Raises:
            PeerDisconnected: It was lost.
            CwError: It refused the call.
        """
        while (link := self._links.get(executor_id)) is not None:
            port = await link.wait_port()
            try:
                outputs = await port.infer(inputs)
            except PeerDisconnected:
                link.give_up(port)
            except OutboxFull:
                link.heard_ns = now_ns()
                await trio.sleep(_ASK_AGAIN_S)
            else:
                link.heard_ns = now_ns()
                return outputs
        raise PeerDisconnected("the executor was lost")

    def _take(self, inputs: BatchInputs, outputs: BatchOutputs) -> None:
        by_position = {slot.position: slot for slot in outputs.slots}
        now = now_ns()
        for slot in inputs.slots:
            came = by_position.get(slot.position)
            if came is None or came.outputs is None:
                self._fail(slot, outputs.detail or outputs.outcome.value)
                continue
            request = self.book.current(slot.request_id, slot.attempt)
            # At the deadline its own task answers: what comes later is not an answer any more.
            if request is not None and now < request.deadline_ns:
                request.end(
                    outputs=came.outputs,
                    device_ns=outputs.device_ns,
                    lane_busy_ns=came.lane_busy_ns,
                    batch_size=outputs.batch_size,
                    executor_ns=outputs.executor_ns,
                    waited_ns=outputs.waited_ns,
                )

    def _fail(self, slot: SlotInputs, detail: str) -> None:
        request = self.book.current(slot.request_id, slot.attempt)
        if request is None:
            return
        request.executor_id = None
        self.failed(
            AttemptFailed(
                request_id=slot.request_id,
                attempt=slot.attempt,
                detail=detail[:_DETAIL_CHARS_MAX],
            )
        )

    def cancel(self, request: OpenRequest) -> None:
        """Leave a request's slot out of its batch, if the batch has not started."""
        link = self._links.get(request.executor_id) if request.executor_id is not None else None
        if link is None or link.port is None:
            return
        cancel = CancelSlot(request_id=request.request_id, attempt=request.attempt)
        with suppress(OutboxFull, PeerDisconnected):  # then it runs for nobody, and is metered
            link.port.tell((cancel,))
