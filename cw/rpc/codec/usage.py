"""Usage on the wire."""

from typing import Any

from cw.messages import Incarnation, TenantId, UsageBatch, UsageEntry, UsageRecord
from cw.rpc.codec.binding import list_to_wire


def usage_entry_to_wire(entry: UsageEntry, wire: Any) -> None:
    """Write a `UsageEntry`."""
    wire.hour = entry.hour
    wire.tenantId = entry.tenant_id
    wire.model = entry.model
    wire.gpuNs = entry.gpu_ns
    wire.loadBytes = entry.load_bytes
    wire.residentByteMs = entry.resident_byte_ms
    wire.unknown = entry.unknown
    wire.kept = entry.kept
    wire.refused = entry.refused
    wire.broken = entry.broken
    wire.failed = entry.failed


def usage_entry_from_wire(wire: Any) -> UsageEntry:
    """Read a `UsageEntry`."""
    return UsageEntry(
        hour=wire.hour,
        tenant_id=TenantId(wire.tenantId),
        model=wire.model,
        gpu_ns=wire.gpuNs,
        load_bytes=wire.loadBytes,
        resident_byte_ms=wire.residentByteMs,
        unknown=wire.unknown,
        kept=wire.kept,
        refused=wire.refused,
        broken=wire.broken,
        failed=wire.failed,
    )


def usage_record_to_wire(record: UsageRecord, wire: Any) -> None:
    """Write a `UsageRecord`."""
    wire.number = record.number
    list_to_wire(usage_entry_to_wire, record.entries, wire.init("entries", len(record.entries)))


def usage_record_from_wire(wire: Any) -> UsageRecord:
    """Read a `UsageRecord`."""
    return UsageRecord(
        number=wire.number, entries=tuple(usage_entry_from_wire(it) for it in wire.entries)
    )


def usage_batch_to_wire(batch: UsageBatch, wire: Any) -> None:
    """Write a `UsageBatch`."""
    wire.source = batch.source
    wire.incarnation = batch.incarnation
    list_to_wire(usage_record_to_wire, batch.records, wire.init("records", len(batch.records)))


def usage_batch_from_wire(wire: Any) -> UsageBatch:
    """Read a `UsageBatch`."""
    return UsageBatch(
        source=wire.source,
        incarnation=Incarnation(wire.incarnation),
        records=tuple(usage_record_from_wire(it) for it in wire.records),
    )
