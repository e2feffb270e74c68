"""Actions with slots, and what gateways bring for them, as small as can be."""

from cw.core.input_batch import key_of
from cw.core.input_buffer import InputBuffer
from cw.messages import (
    ActionId,
    Attempt,
    BatchInputs,
    CancelSlot,
    Datatype,
    Epoch,
    Infer,
    ModelId,
    Outcome,
    RequestId,
    Slot,
    SlotInputs,
    TensorSpec,
    Ticket,
    Window,
)
from cw.units import MS, SECOND

SPECS = (TensorSpec(name="x", datatype=Datatype.UINT8, shape=(4,)),)
EPOCH = Epoch(3)


def infer(slots=2, *, action_id=1, ticket=11):
    return Infer(
        action_id=ActionId(action_id),
        model_id=ModelId(1),
        batch_size=slots,
        slots=tuple(
            Slot(request_id=RequestId(100 + n), attempt=Attempt(1), deadline_ns=50 * MS)
            for n in range(slots)
        ),
        ticket=Ticket(ticket),
        planned_start_ns=0,
        expected_ns=MS,
        window=Window(earliest_ns=0, latest_ns=10 * MS),
    )


def brought(*positions, action_id=1, ticket=11, epoch=EPOCH, data=b"data"):
    return BatchInputs(
        epoch=epoch,
        action_id=ActionId(action_id),
        ticket=Ticket(ticket),
        slots=tuple(
            SlotInputs(
                position=position,
                request_id=RequestId(100 + position),
                attempt=Attempt(1),
                arrival_ns=0,
                tensors=(data,),
            )
            for position in positions
        ),
    )


def cancel_of(position):
    return CancelSlot(request_id=RequestId(100 + position), attempt=Attempt(1))


KEY = key_of(brought())


def make(*, max_input_bytes=1 << 20, max_output_bytes=1 << 20):
    return InputBuffer(
        max_input_bytes=max_input_bytes, max_output_bytes=max_output_bytes, patience_ns=SECOND
    )


def expect(buffer, action=None, *, epoch=EPOCH, now_ns=0):
    return buffer.expect(
        epoch, action or infer(), SPECS, keep_until_ns=now_ns + 50 * MS, now_ns=now_ns
    )


def finish_ok(buffer, key=KEY, *, now_ns=0):
    count = sum(buffer.batch(key).ran)
    buffer.finish(
        key,
        Outcome.OK,
        now_ns=now_ns,
        device_ns=MS,
        outputs=[(bytes([position]),) for position in range(count)],
        lane_busy_ns=[0] * count,
    )


def outputs(answer):
    return [slot.outputs for slot in answer.slots]
