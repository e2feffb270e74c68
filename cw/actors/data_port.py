"""An executor's data side: gateways' calls wait here for their batches.

A call is one gateway's share of one action. It is handed to `core/input_buffer.py`, which says
whether it fits, and it waits on its action's event; the lane ends the action, the event wakes the
call, and the call takes its answer out of the buffer. Nothing stands between: no task per call, no
queue, no copy. A gateway that goes away takes only its own waiting along.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns
from cw.core.input_batch import ActionKey, key_of
from cw.core.input_buffer import InputBuffer
from cw.messages import BatchInputs, BatchOutputs, CancelSlot, Outcome

_HOUSEKEEPING_S: Final = 0.05
"""How often what has expired is thrown out; nothing but memory waits for it."""


class DataPort:
    """Where gateways bring inputs; satisfies `InferencePort`.

    Args:
        buffer: Where inputs meet actions.
        changed: Called with an action's key when its inputs may be complete: its lane looks.
    """

    def __init__(self, buffer: InputBuffer, changed: Callable[[ActionKey], None]) -> None:
        self.buffer: Final = buffer
        self._changed = changed
        self._events: dict[ActionKey, trio.Event] = {}
        self._closed = trio.Event()

    async def run(self) -> None:
        """Throw out what has expired, until cancelled."""
        try:
            while True:
                await trio.sleep(_HOUSEKEEPING_S)
                self.wake(self.buffer.expire(now_ns=now_ns()))
        finally:
            self.close()

    async def infer(self, inputs: BatchInputs) -> BatchOutputs:
        """Bring inputs for an action; returns when it ended. Asking again is harmless.

        Raises:
            AccessDenied: The ticket is not the action's.
            ProtocolViolation: A slot is not the action's, or a tensor has another size.
            OutboxFull: No room for the inputs; ask again.
        """
        received_ns = now_ns()
        answer = self.buffer.offer(inputs, now_ns=received_ns)
        if answer is not None:
            return answer
        key = key_of(inputs)
        try:
            self._changed(key)
            while answer is None:
                # The event may be an early one (the action came, but has not ended): look again.
                await self._events.setdefault(key, trio.Event()).wait()
                answer = self.buffer.answer(inputs)
            if (
                answer.outcome is Outcome.OK
                and (started_ns := self.buffer.batch(key).started_ns) is not None
            ):
                answer = attrs.evolve(
                    answer,
                    executor_ns=now_ns() - received_ns,
                    waited_ns=max(0, started_ns - received_ns),
                )
        finally:
            self.buffer.leave(inputs)
        return answer

    def tell(self, cancels: Sequence[CancelSlot]) -> None:
        """Leave these slots out, or throw their outputs away."""
        for cancel in cancels:
            key = self.buffer.cancel(cancel, now_ns=now_ns())
            if key is not None:
                self._changed(key)

    def wake(self, keys: Iterable[ActionKey]) -> None:
        """Let the calls of these actions look for their answers."""
        for key in keys:
            event = self._events.pop(key, None)
            if event is not None:
                event.set()

    async def wait_closed(self) -> None:
        """Return once the executor has stopped."""
        await self._closed.wait()

    def close(self) -> None:
        """Say that the executor has stopped; safe to call twice."""
        self._closed.set()
