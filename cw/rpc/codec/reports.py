"""What gateways and executors tell the controller, on the wire."""

from typing import Any, assert_never

from cw.messages import (
    Attempt,
    AttemptFailed,
    Cancel,
    Descriptor,
    DeviceDescription,
    Epoch,
    ExecutorHello,
    ExecutorId,
    ExecutorWelcome,
    GatewayHello,
    GatewayId,
    GatewayReport,
    GatewayWelcome,
    Incarnation,
    ModelId,
    Pong,
    RequestId,
    Settled,
    SettledAs,
    TenantId,
)
from cw.rpc import schema
from cw.rpc.codec.binding import EnumTable, fields_of, unexpected, which

SETTLED_AS = EnumTable(SettledAs, schema.control.SettledAs)

REPORT = fields_of(schema.control.GatewayReport)
DESCRIPTOR = fields_of(schema.control.GatewayReport, "descriptor")
SETTLED = fields_of(schema.control.GatewayReport, "settled")
FAILED = fields_of(schema.control.GatewayReport, "attemptFailed")


def gateway_report_to_wire(report: GatewayReport, wire: Any) -> None:
    """Write any `GatewayReport`."""
    put = wire._set_by_field
    put(REPORT.request_id, report.request_id)
    put(REPORT.attempt, report.attempt)
    match report:
        case Descriptor():
            put = wire._init_by_field(REPORT.descriptor)._set_by_field
            put(DESCRIPTOR.model_id, report.model_id)
            put(DESCRIPTOR.arrival_ns, report.arrival_ns)
            put(DESCRIPTOR.deadline_ns, report.deadline_ns)
            put(DESCRIPTOR.promised, report.promised)
            put(DESCRIPTOR.tenant_id, report.tenant_id)
        case Settled():
            put = wire._init_by_field(REPORT.settled)._set_by_field
            put(SETTLED.outcome, SETTLED_AS.number[report.outcome])
            put(SETTLED.finished_ns, report.finished_ns)
        case AttemptFailed():
            wire._init_by_field(REPORT.attempt_failed)._set_by_field(FAILED.detail, report.detail)
        case Cancel():
            put(REPORT.cancel, None)
        case _:
            assert_never(report)


def gateway_report_from_wire(wire: Any) -> GatewayReport:
    """Read any `GatewayReport`."""
    get = wire._get_by_field
    request_id, attempt = RequestId(get(REPORT.request_id)), Attempt(get(REPORT.attempt))
    match which(wire, "GatewayReport"):
        case "descriptor":
            get = get(REPORT.descriptor)._get_by_field
            return Descriptor(
                request_id=request_id,
                attempt=attempt,
                model_id=ModelId(get(DESCRIPTOR.model_id)),
                arrival_ns=get(DESCRIPTOR.arrival_ns),
                deadline_ns=get(DESCRIPTOR.deadline_ns),
                promised=get(DESCRIPTOR.promised),
                tenant_id=TenantId(get(DESCRIPTOR.tenant_id)),
            )
        case "settled":
            get = get(REPORT.settled)._get_by_field
            return Settled(
                request_id=request_id,
                attempt=attempt,
                outcome=SETTLED_AS.member(get(SETTLED.outcome)),
                finished_ns=get(SETTLED.finished_ns),
            )
        case "attemptFailed":
            detail = get(REPORT.attempt_failed)._get_by_field(FAILED.detail)
            return AttemptFailed(request_id=request_id, attempt=attempt, detail=detail)
        case "cancel":
            return Cancel(request_id=request_id, attempt=attempt)
        case other:
            raise unexpected("GatewayReport", other)


def gateway_hello_to_wire(hello: GatewayHello, wire: Any) -> None:
    """Write a `GatewayHello`."""
    wire.name = hello.name
    if hello.previous_id is not None:
        wire.hasPreviousId = True
        wire.previousId = hello.previous_id


def gateway_hello_from_wire(wire: Any) -> GatewayHello:
    """Read a `GatewayHello`."""
    previous_id = GatewayId(wire.previousId) if wire.hasPreviousId else None
    return GatewayHello(name=wire.name, previous_id=previous_id)


def gateway_welcome_to_wire(welcome: GatewayWelcome, wire: Any) -> None:
    """Write a `GatewayWelcome`."""
    wire.epoch = welcome.epoch
    wire.gatewayId = welcome.gateway_id


def gateway_welcome_from_wire(wire: Any) -> GatewayWelcome:
    """Read a `GatewayWelcome`."""
    return GatewayWelcome(epoch=Epoch(wire.epoch), gateway_id=GatewayId(wire.gatewayId))


def device_to_wire(device: DeviceDescription, wire: Any) -> None:
    """Write a `DeviceDescription`."""
    wire.kind = device.kind
    wire.name = device.name
    wire.pagesTotal = device.pages_total
    wire.sharedLanes = device.shared_lanes
    wire.loadBytesPerSecond = device.load_bytes_per_second


def device_from_wire(wire: Any) -> DeviceDescription:
    """Read a `DeviceDescription`."""
    return DeviceDescription(
        kind=wire.kind,
        name=wire.name,
        pages_total=wire.pagesTotal,
        shared_lanes=wire.sharedLanes,
        load_bytes_per_second=wire.loadBytesPerSecond,
    )


def executor_hello_to_wire(hello: ExecutorHello, wire: Any) -> None:
    """Write an `ExecutorHello`."""
    wire.name = hello.name
    wire.incarnation = hello.incarnation
    wire.dataAddress = hello.data_address
    device_to_wire(hello.device, wire.init("device"))
    wire.prepared = list(hello.prepared)
    wire.resident = list(hello.resident)


def executor_hello_from_wire(wire: Any) -> ExecutorHello:
    """Read an `ExecutorHello`."""
    return ExecutorHello(
        name=wire.name,
        incarnation=Incarnation(wire.incarnation),
        data_address=wire.dataAddress,
        device=device_from_wire(wire.device),
        prepared=tuple(ModelId(it) for it in wire.prepared),
        resident=tuple(ModelId(it) for it in wire.resident),
    )


def executor_welcome_to_wire(welcome: ExecutorWelcome, wire: Any) -> None:
    """Write an `ExecutorWelcome`."""
    wire.epoch = welcome.epoch
    wire.executorId = welcome.executor_id


def executor_welcome_from_wire(wire: Any) -> ExecutorWelcome:
    """Read an `ExecutorWelcome`."""
    return ExecutorWelcome(epoch=Epoch(wire.epoch), executor_id=ExecutorId(wire.executorId))


def pong_to_wire(pong: Pong, wire: Any) -> None:
    """Write a `Pong`."""
    wire.receivedNs = pong.received_ns
    wire.repliedNs = pong.replied_ns


def pong_from_wire(wire: Any) -> Pong:
    """Read a `Pong`."""
    return Pong(received_ns=wire.receivedNs, replied_ns=wire.repliedNs)
