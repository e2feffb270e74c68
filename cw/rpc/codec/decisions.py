"""What the controller tells gateways, on the wire."""

from typing import Any, assert_never

from cw.messages import (
    Abandon,
    ActionId,
    Assign,
    Assignment,
    Attempt,
    Decision,
    Epoch,
    ExecutorAddress,
    ExecutorId,
    ModelId,
    Notices,
    Promise,
    Refuse,
    RequestId,
    Ticket,
)
from cw.rpc import schema
from cw.rpc.codec.binding import fields_of, list_to_wire, unexpected, which
from cw.rpc.codec.catalog import directory_from_wire, directory_to_wire
from cw.rpc.codec.models import model_spec_from_wire, model_spec_to_wire
from cw.rpc.codec.requests import (
    failure_from_wire,
    failure_to_wire,
    refusal_from_wire,
    refusal_to_wire,
)
from cw.rpc.codec.versions import route_from_wire, route_to_wire

NOTICES = fields_of(schema.control.Notices)
DECISION = fields_of(schema.control.Decision)
PROMISE = fields_of(schema.control.Decision, "promise")
REFUSE = fields_of(schema.control.Decision, "refuse")
ABANDON = fields_of(schema.control.Decision, "abandon")
ASSIGN = fields_of(schema.control.Decision, "assign")
ASSIGNMENT = fields_of(schema.control.Assignment)


def notices_to_wire(notices: Notices, wire: Any) -> None:
    """Write `Notices`."""
    init = wire._init_by_field
    if notices.decisions:
        decisions = init(NOTICES.decisions, len(notices.decisions))
        list_to_wire(decision_to_wire, notices.decisions, decisions)
    if notices.directory:
        changes = init(NOTICES.directory, len(notices.directory))
        list_to_wire(directory_to_wire, notices.directory, changes)
    if notices.models_added:
        added = init(NOTICES.models_added, len(notices.models_added))
        list_to_wire(model_spec_to_wire, notices.models_added, added)
    if notices.routes:
        list_to_wire(route_to_wire, notices.routes, init(NOTICES.routes, len(notices.routes)))
    if notices.executors_joined:
        joined = init(NOTICES.executors_joined, len(notices.executors_joined))
        list_to_wire(_address_to_wire, notices.executors_joined, joined)
    if notices.models_removed:
        wire.modelsRemoved = list(notices.models_removed)
    if notices.executors_lost:
        wire.executorsLost = list(notices.executors_lost)


def notices_from_wire(wire: Any) -> Notices:
    """Read `Notices`."""
    get = wire._get_by_field
    decisions = tuple([decision_from_wire(it) for it in get(NOTICES.decisions)])
    return Notices(
        directory=tuple([directory_from_wire(it) for it in get(NOTICES.directory)]),
        models_added=tuple([model_spec_from_wire(it) for it in get(NOTICES.models_added)]),
        routes=tuple([route_from_wire(it) for it in get(NOTICES.routes)]),
        models_removed=tuple([ModelId(it) for it in get(NOTICES.models_removed)]),
        executors_joined=tuple([_address_from_wire(it) for it in get(NOTICES.executors_joined)]),
        executors_lost=tuple([ExecutorId(it) for it in get(NOTICES.executors_lost)]),
        decisions=decisions,
    )


def _address_to_wire(address: ExecutorAddress, wire: Any) -> None:
    wire.executorId = address.executor_id
    wire.address = address.address


def _address_from_wire(wire: Any) -> ExecutorAddress:
    return ExecutorAddress(executor_id=ExecutorId(wire.executorId), address=wire.address)


def decision_to_wire(decision: Decision, wire: Any) -> None:
    """Write any `Decision`."""
    match decision:
        case Promise():
            put = wire._init_by_field(DECISION.promise)._set_by_field
            put(PROMISE.request_id, decision.request_id)
            put(PROMISE.attempt, decision.attempt)
            put(PROMISE.predicted_finish_ns, decision.predicted_finish_ns)
        case Assign():
            _assign_to_wire(decision, wire._init_by_field(DECISION.assign))
        case Refuse():
            group = wire._init_by_field(DECISION.refuse)
            group._set_by_field(REFUSE.request_id, decision.request_id)
            group._set_by_field(REFUSE.attempt, decision.attempt)
            refusal_to_wire(decision.refusal, group._init_by_field(REFUSE.refusal))
        case Abandon():
            group = wire._init_by_field(DECISION.abandon)
            group._set_by_field(ABANDON.request_id, decision.request_id)
            group._set_by_field(ABANDON.attempt, decision.attempt)
            failure_to_wire(decision.failure, group._init_by_field(ABANDON.failure))
        case _:
            assert_never(decision)


def decision_from_wire(wire: Any) -> Decision:
    """Read any `Decision`."""
    match which(wire, "Decision"):
        case "promise":
            get = wire._get_by_field(DECISION.promise)._get_by_field
            return Promise(
                request_id=RequestId(get(PROMISE.request_id)),
                attempt=Attempt(get(PROMISE.attempt)),
                predicted_finish_ns=get(PROMISE.predicted_finish_ns),
            )
        case "assign":
            return _assign_from_wire(wire._get_by_field(DECISION.assign))
        case "refuse":
            get = wire._get_by_field(DECISION.refuse)._get_by_field
            return Refuse(
                request_id=RequestId(get(REFUSE.request_id)),
                attempt=Attempt(get(REFUSE.attempt)),
                refusal=refusal_from_wire(get(REFUSE.refusal)),
            )
        case "abandon":
            get = wire._get_by_field(DECISION.abandon)._get_by_field
            return Abandon(
                request_id=RequestId(get(ABANDON.request_id)),
                attempt=Attempt(get(ABANDON.attempt)),
                failure=failure_from_wire(get(ABANDON.failure)),
            )
        case other:
            raise unexpected("Decision", other)


def _assign_to_wire(assign: Assign, wire: Any) -> None:
    put = wire._set_by_field
    put(ASSIGN.epoch, assign.epoch)
    put(ASSIGN.action_id, assign.action_id)
    put(ASSIGN.ticket, assign.ticket)
    put(ASSIGN.executor_id, assign.executor_id)
    put(ASSIGN.predicted_finish_ns, assign.predicted_finish_ns)
    assignments = wire._init_by_field(ASSIGN.assignments, len(assign.assignments))
    for at, assignment in enumerate(assign.assignments):
        put = assignments[at]._set_by_field
        put(ASSIGNMENT.request_id, assignment.request_id)
        put(ASSIGNMENT.attempt, assignment.attempt)
        put(ASSIGNMENT.position, assignment.position)


def _assign_from_wire(wire: Any) -> Assign:
    get = wire._get_by_field
    return Assign(
        epoch=Epoch(get(ASSIGN.epoch)),
        action_id=ActionId(get(ASSIGN.action_id)),
        ticket=Ticket(get(ASSIGN.ticket)),
        executor_id=ExecutorId(get(ASSIGN.executor_id)),
        predicted_finish_ns=get(ASSIGN.predicted_finish_ns),
        assignments=tuple([_assignment_from_wire(it) for it in get(ASSIGN.assignments)]),
    )


def _assignment_from_wire(wire: Any) -> Assignment:
    get = wire._get_by_field
    return Assignment(
        request_id=RequestId(get(ASSIGNMENT.request_id)),
        attempt=Attempt(get(ASSIGNMENT.attempt)),
        position=get(ASSIGNMENT.position),
    )
