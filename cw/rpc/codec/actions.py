"""Orders to executors, and the results of actions, on the wire."""

from typing import Any, assert_never

from cw.errors import ProtocolViolation
from cw.messages import (
    Action,
    ActionId,
    ActionResult,
    Attempt,
    CancelSlot,
    Epoch,
    Infer,
    Load,
    ModelId,
    Orders,
    Outcome,
    Prepare,
    RequestId,
    Slot,
    TenantId,
    Ticket,
    Unload,
    Window,
)
from cw.rpc import schema
from cw.rpc.codec.binding import EnumTable, fields_of, list_to_wire, unexpected, which
from cw.rpc.codec.models import model_spec_from_wire, model_spec_to_wire

OUTCOMES = EnumTable(Outcome, schema.executor.Outcome)

ORDERS = fields_of(schema.executor.Orders)
ACTION = fields_of(schema.executor.Action)
LOAD = fields_of(schema.executor.Action, "load")
UNLOAD = fields_of(schema.executor.Action, "unload")
INFER = fields_of(schema.executor.Action, "infer")
SLOT = fields_of(schema.executor.Slot)
CANCEL = fields_of(schema.executor.CancelSlot)
RESULT = fields_of(schema.executor.ActionResult)


def orders_to_wire(orders: Orders, wire: Any) -> None:
    """Write `Orders`."""
    wire._set_by_field(ORDERS.epoch, orders.epoch)
    if orders.actions:
        actions = wire._init_by_field(ORDERS.actions, len(orders.actions))
        list_to_wire(action_to_wire, orders.actions, actions)
    if orders.cancels:
        cancels = wire._init_by_field(ORDERS.cancels, len(orders.cancels))
        list_to_wire(cancel_slot_to_wire, orders.cancels, cancels)


def orders_from_wire(wire: Any) -> Orders:
    """Read `Orders`."""
    get = wire._get_by_field
    return Orders(
        epoch=Epoch(get(ORDERS.epoch)),
        actions=tuple([action_from_wire(it) for it in get(ORDERS.actions)]),
        cancels=tuple([cancel_slot_from_wire(it) for it in get(ORDERS.cancels)]),
    )


def action_to_wire(action: Action, wire: Any) -> None:
    """Write any `Action`."""
    put, init = wire._set_by_field, wire._init_by_field
    put(ACTION.action_id, action.action_id)
    if not isinstance(action, Unload):
        put(ACTION.planned_start_ns, action.planned_start_ns)
        put(ACTION.expected_ns, action.expected_ns)
        put(ACTION.earliest_ns, action.window.earliest_ns)
        put(ACTION.latest_ns, action.window.latest_ns)
    match action:
        case Infer():
            group = init(ACTION.infer)
            put = group._set_by_field
            put(INFER.model_id, action.model_id)
            put(INFER.batch_size, action.batch_size)
            put(INFER.ticket, action.ticket)
            slots = group._init_by_field(INFER.slots, len(action.slots))
            for at, slot in enumerate(action.slots):
                put = slots[at]._set_by_field
                put(SLOT.request_id, slot.request_id)
                put(SLOT.attempt, slot.attempt)
                put(SLOT.deadline_ns, slot.deadline_ns)
                if slot.tenant_id:
                    put(SLOT.tenant_id, slot.tenant_id)
        case Load():
            init(ACTION.load)._set_by_field(LOAD.model_id, action.model_id)
        case Unload():
            put = init(ACTION.unload)._set_by_field
            put(UNLOAD.model_id, action.model_id)
            put(UNLOAD.forget, action.forget)
        case Prepare():
            model_spec_to_wire(action.model, init(ACTION.prepare))
        case _:
            assert_never(action)


def action_from_wire(wire: Any) -> Action:
    """Read any `Action`."""
    get = wire._get_by_field
    action_id = ActionId(get(ACTION.action_id))
    kind = which(wire, "Action")
    if kind == "unload":
        get = get(ACTION.unload)._get_by_field
        model_id, forget = ModelId(get(UNLOAD.model_id)), get(UNLOAD.forget)
        return Unload(action_id=action_id, model_id=model_id, forget=forget)
    planned_start_ns, expected_ns = get(ACTION.planned_start_ns), get(ACTION.expected_ns)
    window = _window(get(ACTION.earliest_ns), get(ACTION.latest_ns))
    match kind:
        case "infer":
            get = get(ACTION.infer)._get_by_field
            return Infer(
                action_id=action_id,
                model_id=ModelId(get(INFER.model_id)),
                batch_size=get(INFER.batch_size),
                slots=tuple([_slot_from_wire(it) for it in get(INFER.slots)]),
                ticket=Ticket(get(INFER.ticket)),
                planned_start_ns=planned_start_ns,
                expected_ns=expected_ns,
                window=window,
            )
        case "load":
            return Load(
                action_id=action_id,
                model_id=ModelId(get(ACTION.load)._get_by_field(LOAD.model_id)),
                planned_start_ns=planned_start_ns,
                expected_ns=expected_ns,
                window=window,
            )
        case "prepare":
            return Prepare(
                action_id=action_id,
                model=model_spec_from_wire(get(ACTION.prepare)),
                planned_start_ns=planned_start_ns,
                expected_ns=expected_ns,
                window=window,
            )
        case other:
            raise unexpected("Action", other)


def _window(earliest_ns: int, latest_ns: int) -> Window:
    if earliest_ns > latest_ns:
        raise ProtocolViolation(
            f"expected a window that ends after it begins, got [{earliest_ns}, {latest_ns}] ns"
        )
    return Window(earliest_ns=earliest_ns, latest_ns=latest_ns)


def _slot_from_wire(wire: Any) -> Slot:
    get = wire._get_by_field
    return Slot(
        request_id=RequestId(get(SLOT.request_id)),
        attempt=Attempt(get(SLOT.attempt)),
        deadline_ns=get(SLOT.deadline_ns),
        tenant_id=TenantId(get(SLOT.tenant_id)),
    )


def cancel_slot_to_wire(cancel: CancelSlot, wire: Any) -> None:
    """Write a `CancelSlot`."""
    wire._set_by_field(CANCEL.request_id, cancel.request_id)
    wire._set_by_field(CANCEL.attempt, cancel.attempt)


def cancel_slot_from_wire(wire: Any) -> CancelSlot:
    """Read a `CancelSlot`."""
    get = wire._get_by_field
    return CancelSlot(
        request_id=RequestId(get(CANCEL.request_id)), attempt=Attempt(get(CANCEL.attempt))
    )


def action_result_to_wire(result: ActionResult, wire: Any) -> None:
    """Write an `ActionResult`."""
    put = wire._set_by_field
    put(RESULT.action_id, result.action_id)
    put(RESULT.outcome, OUTCOMES.number[result.outcome])
    put(RESULT.received_ns, result.received_ns)
    put(RESULT.ready_ns, result.ready_ns)
    put(RESULT.start_ns, result.start_ns)
    put(RESULT.end_ns, result.end_ns)
    put(RESULT.device_ns, result.device_ns)
    put(RESULT.running_ns, result.running_ns)
    put(RESULT.planned_start_ns, result.planned_start_ns)
    put(RESULT.expected_ns, result.expected_ns)
    put(RESULT.clock_offset_ns, result.clock_offset_ns)
    put(RESULT.clock_error_ns, result.clock_error_ns)
    if result.ran:
        put(RESULT.ran, list(result.ran))
    if result.detail:
        put(RESULT.detail, result.detail)


def action_result_from_wire(wire: Any) -> ActionResult:
    """Read an `ActionResult`."""
    get = wire._get_by_field
    return ActionResult(
        action_id=ActionId(get(RESULT.action_id)),
        outcome=OUTCOMES.member(get(RESULT.outcome)),
        received_ns=get(RESULT.received_ns),
        ready_ns=get(RESULT.ready_ns),
        start_ns=get(RESULT.start_ns),
        end_ns=get(RESULT.end_ns),
        device_ns=get(RESULT.device_ns),
        running_ns=get(RESULT.running_ns),
        planned_start_ns=get(RESULT.planned_start_ns),
        expected_ns=get(RESULT.expected_ns),
        clock_offset_ns=get(RESULT.clock_offset_ns),
        clock_error_ns=get(RESULT.clock_error_ns),
        ran=tuple(get(RESULT.ran)),
        detail=get(RESULT.detail),
    )
