"""One INFER's inputs and outputs, from the action's coming to its last deadline.

Rules
-----
1. A batch is EXPECTED until its action starts, RUNNING until it ends, then ENDED.
2. What a gateway brings must fit: the slot's position, request and attempt, and the model's sizes.
   Otherwise nothing of the call is taken in and its gateway gets `ProtocolViolation`.
3. An input is taken once; what comes again is ignored. After the start it is late.
4. A cancelled slot's input is dropped before the start; its output is, after it.
5. A call's answer names the slots that the call named, whoever else shares the batch.

`input_buffer.py` holds the batches of an executor and bounds their bytes.
"""

import enum
from collections.abc import Sequence
from typing import Final

import attrs

from cw.core.lane import Inputs
from cw.errors import ProtocolViolation
from cw.messages import (
    ActionId,
    BatchInputs,
    BatchOutputs,
    CancelSlot,
    Epoch,
    Outcome,
    Slot,
    SlotInputs,
    SlotOutputs,
    TensorSpec,
    Ticket,
)

Tensors = tuple[bytes | memoryview, ...]

_SLOT_BYTES: Final = 256
"""Charged for each slot beside its tensors, so that empty ones can't fill the memory either."""


@attrs.frozen(kw_only=True, cache_hash=True)
class ActionKey:
    """What joins inputs to their action."""

    epoch: Epoch
    action_id: ActionId
    ticket: Ticket


class Phase(enum.Enum):
    """Where a batch is in its life."""

    EXPECTED = "expected"
    RUNNING = "running"
    ENDED = "ended"


def key_of(inputs: BatchInputs) -> ActionKey:
    """Name the action that a call brings inputs for."""
    return ActionKey(epoch=inputs.epoch, action_id=inputs.action_id, ticket=inputs.ticket)


def name_of(slot: Slot | SlotInputs) -> CancelSlot:
    """Name a slot as cancels do."""
    return CancelSlot(request_id=slot.request_id, attempt=slot.attempt)


def slot_bytes(tensors: Tensors | None) -> int:
    """Say what one slot's tensors are charged for."""
    if tensors is None:
        return 0
    return _SLOT_BYTES + sum(memoryview(tensor).nbytes for tensor in tensors)


def unserved(inputs: BatchInputs, outcome: Outcome, detail: str) -> BatchOutputs:
    """Make the answer to a call that gets no outputs."""
    return BatchOutputs(
        outcome=outcome,
        device_ns=0,
        batch_size=0,
        slots=tuple(SlotOutputs(position=slot.position, outputs=None) for slot in inputs.slots),
        detail=detail,
    )


@attrs.define
class _SlotState:
    """One position of a batch."""

    name: CancelSlot
    inputs: SlotInputs | None = None
    outputs: Tensors | None = None
    lane_busy_ns: int = 0
    ran: bool = False
    is_cancelled: bool = False


class Batch:
    """One INFER with slots.

    Args:
        key: What joins inputs to it.
        slots: The action's.
        specs: The model's inputs, in its own order; None for a model that is not known here.
        keep_until_ns: Its last deadline, on this process's clock.
    """

    def __init__(
        self,
        key: ActionKey,
        slots: Sequence[Slot],
        specs: Sequence[TensorSpec] | None,
        *,
        keep_until_ns: int,
    ) -> None:
        self.key: Final = key
        self.keep_until_ns: Final = keep_until_ns
        self.ready_ns: int | None = None
        """When the last input came; None while some is missing."""
        self.started_ns: int | None = None
        """When it started on the device; known once it has ended well."""
        self.phase = Phase.EXPECTED
        self._slots = [_SlotState(name_of(slot)) for slot in slots]
        self._sizes = None if specs is None else tuple(spec.size_bytes for spec in specs)
        self._outcome = Outcome.OK
        self._detail = ""
        self._device_ns = 0

    @property
    def names(self) -> list[CancelSlot]:
        """The slots' names, by position."""
        return [slot.name for slot in self._slots]

    @property
    def ran(self) -> tuple[bool, ...]:
        """Per position: it was in the batch that ran."""
        return tuple(slot.ran for slot in self._slots)

    @property
    def presence(self) -> Inputs:
        """How many of the inputs are there."""
        waiting = [slot for slot in self._slots if not slot.is_cancelled]
        if not waiting:
            return Inputs.CANCELLED
        there = sum(slot.inputs is not None for slot in waiting)
        if there == len(waiting):
            return Inputs.ALL
        return Inputs.SOME if there else Inputs.NONE

    def check(self, slot: SlotInputs) -> None:
        """Compare what a gateway brings with what the action says.

        Raises:
            ProtocolViolation: It is for another request, or its tensors have other sizes.
        """
        if not 0 <= slot.position < len(self._slots):
            raise ProtocolViolation(
                f"action {self.key.action_id} has positions 0 to {len(self._slots) - 1}, "
                f"got inputs for {slot.position}"
            )
        expected = self._slots[slot.position].name
        if name_of(slot) != expected:
            raise ProtocolViolation(
                f"position {slot.position} of action {self.key.action_id} is request "
                f"{expected.request_id}, attempt {expected.attempt}; got inputs of request "
                f"{slot.request_id}, attempt {slot.attempt}"
            )
        sizes = tuple(memoryview(tensor).nbytes for tensor in slot.tensors)
        if self._sizes is not None and sizes != self._sizes:
            raise ProtocolViolation(
                f"expected inputs of {self._sizes} bytes for action {self.key.action_id}, got "
                f"{sizes}: verify requests against the model before promising them"
            )

    def wants(self, slot: SlotInputs) -> bool:
        """Say whether a checked slot's input is still to be taken in."""
        state = self._slots[slot.position]
        return self.phase is Phase.EXPECTED and state.inputs is None and not state.is_cancelled

    def put(self, slots: Sequence[SlotInputs], *, now_ns: int) -> None:
        """Take in wanted inputs."""
        for slot in slots:
            assert self.wants(slot), f"{self.key} does not want position {slot.position}"
            self._slots[slot.position].inputs = slot
        self._note_ready(now_ns)

    def cancel(self, position: int, *, now_ns: int) -> tuple[int, int]:
        """Leave a position out, or throw its output away.

        Returns:
            Bytes of inputs and of outputs that this freed.
        """
        state = self._slots[position]
        state.is_cancelled = True
        freed_inputs = 0
        if self.phase is Phase.EXPECTED:
            freed_inputs = self._drop_input(state)
            self._note_ready(now_ns)
        freed_outputs = slot_bytes(state.outputs)
        state.outputs = None
        return freed_inputs, freed_outputs

    def start(self) -> list[SlotInputs]:
        """Begin; what is there runs, in the order of positions."""
        assert self.phase is Phase.EXPECTED, f"{self.key} starts, but is {self.phase.value}"
        self.phase = Phase.RUNNING
        running = []
        for state in self._slots:
            if state.inputs is not None:
                state.ran = True
                running.append(state.inputs)
        return running

    def end(
        self,
        outcome: Outcome,
        *,
        started_ns: int | None,
        device_ns: int,
        outputs: Sequence[Tensors],
        lane_busy_ns: Sequence[int],
        detail: str,
    ) -> tuple[int, int]:
        """End, started or not.

        Args:
            outcome: How.
            started_ns: When it started on the device, if it did.
            device_ns: Time on the device.
            outputs: Of the slots that ran, in order; none unless OK.
            lane_busy_ns: Of the same slots.
            detail: Why, for people.

        Returns:
            Bytes of inputs freed, and of outputs kept.
        """
        assert self.phase is not Phase.ENDED, f"{self.key} ended twice"
        self.phase = Phase.ENDED
        self.started_ns = started_ns
        self._outcome, self._device_ns, self._detail = outcome, device_ns, detail
        if outcome is Outcome.TOO_LATE:
            # Begun by the lane but not by the device (a staged one that missed its window).
            for state in self._slots:
                state.ran = False
        if outcome is Outcome.OK:
            ran = [state for state in self._slots if state.ran]
            for state, tensors, busy_ns in zip(ran, outputs, lane_busy_ns, strict=True):
                state.lane_busy_ns = busy_ns
                if not state.is_cancelled:
                    state.outputs = tensors
        freed = sum(self._drop_input(state) for state in self._slots)
        return freed, sum(slot_bytes(state.outputs) for state in self._slots)

    def drop_outputs(self) -> int:
        """Throw all outputs away.

        Returns:
            Bytes that this freed.
        """
        freed = 0
        for state in self._slots:
            freed += slot_bytes(state.outputs)
            state.outputs = None
        if freed:
            self._detail = "its outputs were dropped to make room before they were asked for again"
        return freed

    def answer_to(self, inputs: BatchInputs) -> BatchOutputs | None:
        """Answer a checked call; None while its slots may still run or are running."""
        states = [self._slots[slot.position] for slot in inputs.slots]
        if self.phase is Phase.EXPECTED:
            return None
        if not any(state.ran for state in states) and (
            self.phase is Phase.RUNNING or self._outcome is Outcome.OK
        ):
            all_cancelled = all(state.is_cancelled for state in states)
            return unserved(
                inputs,
                Outcome.CANCELLED if all_cancelled else Outcome.INPUTS_LATE,
                "the batch started without these inputs",
            )
        if self.phase is Phase.RUNNING:
            return None
        return BatchOutputs(
            outcome=self._outcome,
            device_ns=self._device_ns,
            batch_size=sum(state.ran for state in self._slots),
            slots=tuple(
                SlotOutputs(
                    position=slot.position,
                    outputs=state.outputs,
                    lane_busy_ns=state.lane_busy_ns,
                )
                for slot, state in zip(inputs.slots, states, strict=True)
            ),
            detail=self._detail,
        )

    def _note_ready(self, now_ns: int) -> None:
        if self.ready_ns is None and self.presence in {Inputs.ALL, Inputs.CANCELLED}:
            self.ready_ns = now_ns

    @staticmethod
    def _drop_input(state: _SlotState) -> int:
        if state.inputs is None:
            return 0
        freed = slot_bytes(state.inputs.tensors)
        state.inputs = None
        return freed
