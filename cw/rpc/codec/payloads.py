"""Batches of inputs and outputs on the wire: bytes in once, out once."""

from typing import Any

from cw.messages import (
    ActionId,
    Attempt,
    BatchInputs,
    BatchOutputs,
    Epoch,
    RequestId,
    SlotInputs,
    SlotOutputs,
    Ticket,
)
from cw.rpc import schema
from cw.rpc.codec.actions import OUTCOMES
from cw.rpc.codec.binding import fields_of, unexpected, which

INPUTS = fields_of(schema.executor.BatchInputs)
SLOT_IN = fields_of(schema.executor.SlotInputs)
OUTPUTS = fields_of(schema.executor.BatchOutputs)
SLOT_OUT = fields_of(schema.executor.SlotOutputs)


def batch_inputs_to_wire(inputs: BatchInputs, wire: Any) -> None:
    """Write `BatchInputs`."""
    put = wire._set_by_field
    put(INPUTS.epoch, inputs.epoch)
    put(INPUTS.action_id, inputs.action_id)
    put(INPUTS.ticket, inputs.ticket)
    slots = wire._init_by_field(INPUTS.slots, len(inputs.slots))
    for at, slot in enumerate(inputs.slots):
        put = slots[at]._set_by_field
        put(SLOT_IN.position, slot.position)
        put(SLOT_IN.request_id, slot.request_id)
        put(SLOT_IN.attempt, slot.attempt)
        put(SLOT_IN.arrival_ns, slot.arrival_ns)
        put(SLOT_IN.tensors, list(slot.tensors))


def batch_inputs_from_wire(wire: Any) -> BatchInputs:
    """Read `BatchInputs`."""
    get = wire._get_by_field
    return BatchInputs(
        epoch=Epoch(get(INPUTS.epoch)),
        action_id=ActionId(get(INPUTS.action_id)),
        ticket=Ticket(get(INPUTS.ticket)),
        slots=tuple([_slot_inputs_from_wire(it) for it in get(INPUTS.slots)]),
    )


def _slot_inputs_from_wire(wire: Any) -> SlotInputs:
    get = wire._get_by_field
    return SlotInputs(
        position=get(SLOT_IN.position),
        request_id=RequestId(get(SLOT_IN.request_id)),
        attempt=Attempt(get(SLOT_IN.attempt)),
        arrival_ns=get(SLOT_IN.arrival_ns),
        tensors=tuple(get(SLOT_IN.tensors)),
    )


def batch_outputs_to_wire(outputs: BatchOutputs, wire: Any) -> None:
    """Write `BatchOutputs`."""
    put = wire._set_by_field
    put(OUTPUTS.outcome, OUTCOMES.number[outputs.outcome])
    put(OUTPUTS.device_ns, outputs.device_ns)
    put(OUTPUTS.batch_size, outputs.batch_size)
    put(OUTPUTS.executor_ns, outputs.executor_ns)
    put(OUTPUTS.waited_ns, outputs.waited_ns)
    if outputs.detail:
        put(OUTPUTS.detail, outputs.detail)
    slots = wire._init_by_field(OUTPUTS.slots, len(outputs.slots))
    for at, slot in enumerate(outputs.slots):
        put = slots[at]._set_by_field
        put(SLOT_OUT.position, slot.position)
        put(SLOT_OUT.lane_busy_ns, slot.lane_busy_ns)
        if slot.outputs is None:
            put(SLOT_OUT.not_run, None)
        else:
            put(SLOT_OUT.outputs, list(slot.outputs))


def batch_outputs_from_wire(wire: Any) -> BatchOutputs:
    """Read `BatchOutputs`."""
    get = wire._get_by_field
    return BatchOutputs(
        outcome=OUTCOMES.member(get(OUTPUTS.outcome)),
        device_ns=get(OUTPUTS.device_ns),
        batch_size=get(OUTPUTS.batch_size),
        slots=tuple([_slot_outputs_from_wire(it) for it in get(OUTPUTS.slots)]),
        detail=get(OUTPUTS.detail),
        executor_ns=get(OUTPUTS.executor_ns),
        waited_ns=get(OUTPUTS.waited_ns),
    )


def _slot_outputs_from_wire(wire: Any) -> SlotOutputs:
    get = wire._get_by_field
    outputs: tuple[bytes, ...] | None
    match which(wire, "SlotOutputs"):
        case "outputs":
            outputs = tuple(get(SLOT_OUT.outputs))
        case "notRun":
            outputs = None
        case other:
            raise unexpected("SlotOutputs", other)
    return SlotOutputs(
        position=get(SLOT_OUT.position), outputs=outputs, lane_busy_ns=get(SLOT_OUT.lane_busy_ns)
    )
