"""One serial lane: gives its head action to the device in time, and says how it ended.

`core/lane.py` decides; this does. Two tasks take turns at the head, so that one can look at it
while the other's action runs, and stage it. The one whose turn it is sleeps until the instant that
the decision named or until it is poked: inputs came, a slot was cancelled, an action ended. Between
a poke and the device's call there is one task switch, and none between the device's end and the
answers: the outputs are put where the gateways' calls find them before anything else is told.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, assert_never

import attrs
import trio

from cw.actors.clock import PreciseTimer, now_ns
from cw.actors.queued import Ended, Queued, model_of
from cw.actors.weights_cache import WeightsCache
from cw.core.input_batch import ActionKey
from cw.core.input_buffer import InputBuffer
from cw.core.lane import LANE_DEPTH, Head, Inputs, LanePlan, Start, Wait
from cw.core.residency import Residency
from cw.devices.device import Device, DeviceReport
from cw.errors import CwError, DeviceFault, HostMemoryFull, ProtocolViolation, StartMissed
from cw.messages import Infer, Load, Outcome, Prepare, Unload


class LaneHost(Protocol):
    """Who owns the lane."""

    def action_begins(self, queued: Queued) -> None:
        """Write down that the device gets an action; must not wait."""
        ...

    def action_ended(self, queued: Queued, ended: Ended) -> None:
        """Tell everybody; must not wait."""
        ...

    async def device_broke(self, queued: Queued) -> None:
        """See to it that the result is told before the process ends."""
        ...


class LaneActor:
    """A serial resource of the device, with the actions that wait for it.

    Args:
        host: Told of every action's end.
        device: What runs.
        weights: Which models there are.
        buffer: Where inputs meet actions.
    """

    def __init__(
        self, host: LaneHost, device: Device, weights: WeightsCache, buffer: InputBuffer
    ) -> None:
        self._host = host
        self._device = device
        self._weights = weights
        self._buffer = buffer
        self._plan: Final = LanePlan()
        self._queue: deque[Queued] = deque()
        self._scope: trio.CancelScope | None = None
        self._turn: Final = trio.Lock()
        self.in_flight: list[Queued] = []
        """What the device has, in its order: the first runs, a second is staged."""

    def __len__(self) -> int:
        """Count the actions that wait."""
        return len(self._queue)

    def put(self, queued: Queued) -> None:
        """Append an action."""
        self._queue.append(queued)
        if len(self._queue) == 1:
            self.poke()

    def poke(self) -> None:
        """Look at the head again: something has changed."""
        if self._scope is not None:
            self._scope.cancel()

    def poke_for(self, key: ActionKey) -> None:
        """Look again if it is this action that the lane waits for."""
        if self._queue and self._queue[0].key == key:
            self.poke()

    def drop(self, is_stale: Callable[[Queued], bool]) -> None:
        """End the waiting actions of an earlier epoch, unstarted."""
        stale = [queued for queued in self._queue if is_stale(queued)]
        self._queue = deque(queued for queued in self._queue if not is_stale(queued))
        for queued in stale:
            self._reject(queued, Outcome.STALE_EPOCH, "a newer controller has taken over")
        self.poke()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            DeviceFault: The device broke; the result was told.
        """
        with PreciseTimer() as timer:
            async with trio.open_nursery() as nursery:
                for _ in range(LANE_DEPTH):
                    nursery.start_soon(self._serve, timer)

    async def _serve(self, timer: PreciseTimer) -> None:
        """Take turns with the lane's other task."""
        while True:
            async with self._turn:
                queued = await self._next(timer)
                self.in_flight.append(queued)
            # No checkpoint until the device has it: so it has them in the order of the turns.
            await self._perform(queued)

    async def _next(self, timer: PreciseTimer) -> Queued:
        """Wait until the head may be given to the device, and take it out."""
        while True:
            if not self._queue:
                await self._rest(timer, None)
                continue
            queued = self._queue[0]
            step = self._plan.next_step(self._head(queued), now_ns=now_ns())
            match step:
                case Wait():
                    await self._rest(timer, step.until_ns)
                case Start():
                    return self._queue.popleft()
                case _:
                    self._queue.popleft()
                    self._reject(queued, self._named(step, queued))

    async def _rest(self, timer: PreciseTimer, until_ns: int | None) -> None:
        """Sleep until an instant or a poke, whichever comes first.

        No poke is missed: nothing runs between the decision to rest and the sleep.
        """
        with trio.CancelScope() as self._scope:
            if until_ns is None:
                await trio.sleep_forever()
            else:
                await timer.sleep_until_ns(until_ns)
        self._scope = None

    def _head(self, queued: Queued) -> Head:
        action, residency = queued.action, self._weights.residency
        # INFERs in front of it change nothing about its model, but for an UNLOAD. A LOAD may fail.
        ahead = {
            other.turn
            for other in self.in_flight
            if isinstance(other.action, Infer) and not isinstance(action, Unload)
        }
        both = [queued, *self.in_flight]
        head = Head(
            window=queued.window,
            is_its_turn=residency.is_turn(model_of(action), queued.turn, ahead=ahead),
            is_behind=bool(self.in_flight),
            may_be_staged=all(isinstance(other.action, Infer | Load) for other in both),
        )
        if not isinstance(action, Infer):
            return head
        return attrs.evolve(
            head,
            inputs=Inputs.ALL if queued.key is None else self._buffer.batch(queued.key).presence,
            is_resident=self._weights.state(action.model_id) is Residency.WARM,
        )

    def _named(self, outcome: Outcome, queued: Queued) -> Outcome:
        """Tell a model that was never prepared from one that is only cold."""
        if outcome is not Outcome.NOT_RESIDENT:
            return outcome
        is_known = self._weights.state(model_of(queued.action)) is not Residency.UNKNOWN
        return outcome if is_known else Outcome.UNKNOWN_MODEL

    async def _perform(self, queued: Queued) -> None:
        """Run an action on the device, whatever comes of it."""
        self._host.action_begins(queued)
        start_ns = now_ns()
        try:
            match queued.action:
                case Infer():
                    await self._infer(queued, queued.action)
                case Load():
                    await self._load(queued, queued.action)
                case Unload():
                    await self._unload(queued, queued.action)
                case Prepare():
                    report = await self._weights.prepare(queued.action.model)
                    self._succeed(queued, report)
                case _:
                    assert_never(queued.action)
        except DeviceFault as exc:
            self._fail(queued, Outcome.DEVICE_FAULT, start_ns, str(exc))
            await self._host.device_broke(queued)
            raise
        except StartMissed as exc:
            self._reject(queued, Outcome.TOO_LATE, str(exc))
        except HostMemoryFull as exc:
            self._fail(queued, Outcome.HOST_MEMORY_FULL, start_ns, str(exc))
        except CwError as exc:
            self._fail(queued, Outcome.INVALID, start_ns, str(exc))
            if isinstance(exc, ProtocolViolation):
                # The controller's picture of this executor is wrong: give it a new one.
                queued.link.close()

    async def _infer(self, queued: Queued, action: Infer) -> None:
        batch = None if queued.key is None else self._buffer.batch(queued.key)
        slots = [] if batch is None else batch.start()
        report = await self._device.infer(
            action.model_id,
            action.batch_size,
            [slot.tensors for slot in slots],
            window=queued.window,
        )
        if batch is not None:
            clock = queued.link.clock
            self._buffer.finish(
                batch.key,
                Outcome.OK,
                now_ns=report.end_ns,
                started_ns=report.start_ns,
                device_ns=report.device_ns,
                outputs=report.outputs,
                lane_busy_ns=[
                    self._plan.busy_ns(clock.to_local_ns(slot.arrival_ns), report.start_ns)
                    for slot in slots
                ],
            )
        self._succeed(queued, report)

    async def _load(self, queued: Queued, action: Load) -> None:
        now = now_ns()
        if self._weights.state(action.model_id) is Residency.UNKNOWN:
            self._fail(queued, Outcome.UNKNOWN_MODEL, now, "PREPARE it before its LOAD")
        elif not self._weights.can_fit(action.model_id):
            self._fail(queued, Outcome.PAGES_EXHAUSTED, now, "UNLOAD something before this LOAD")
        else:
            report = await self._weights.load(action.model_id, window=queued.window)
            self._succeed(queued, report)

    async def _unload(self, queued: Queued, action: Unload) -> None:
        """Free pages. What is not there is free already: an UNLOAD behind a LOAD that failed."""
        start_ns = now_ns()
        if self._weights.state(action.model_id) is Residency.WARM:
            await self._weights.unload(action.model_id)
        if action.forget and self._weights.state(action.model_id) is Residency.COLD:
            await self._weights.forget(action.model_id)
        end_ns = now_ns()
        self._succeed(
            queued,
            DeviceReport(
                start_ns=start_ns,
                end_ns=end_ns,
                device_ns=end_ns - start_ns,
                running_ns=end_ns - start_ns,
            ),
        )

    def _succeed(self, queued: Queued, report: DeviceReport) -> None:
        self._plan.ran(report.start_ns, report.end_ns)
        self._end(
            queued,
            Ended(
                outcome=Outcome.OK,
                start_ns=report.start_ns,
                end_ns=report.end_ns,
                ready_ns=self._ready_ns(queued, report.start_ns),
                device_ns=report.device_ns,
                running_ns=report.running_ns,
                ran=() if queued.key is None else self._buffer.batch(queued.key).ran,
            ),
        )

    def _fail(self, queued: Queued, outcome: Outcome, start_ns: int, detail: str) -> None:
        """End an action that was started, or would have been, without success."""
        now = now_ns()
        if queued.key is not None:
            self._buffer.finish(queued.key, outcome, now_ns=now, detail=detail)
        self._end(
            queued,
            Ended(
                outcome=outcome,
                start_ns=start_ns,
                end_ns=now,
                ready_ns=self._ready_ns(queued, start_ns),
                ran=() if queued.key is None else self._buffer.batch(queued.key).ran,
                detail=detail,
            ),
        )

    def _reject(self, queued: Queued, outcome: Outcome, detail: str = "") -> None:
        """End an action that was not started."""
        self._fail(queued, outcome, now_ns(), detail)

    def _ready_ns(self, queued: Queued, start_ns: int) -> int:
        if queued.key is None:
            return queued.received_ns
        ready_ns = self._buffer.batch(queued.key).ready_ns
        # What never became complete was as ready as it got when its time had come.
        return start_ns if ready_ns is None else ready_ns

    def _end(self, queued: Queued, ended: Ended) -> None:
        if queued in self.in_flight:
            self.in_flight.remove(queued)
        self._host.action_ended(queued, ended)
