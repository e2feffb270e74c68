"""What was used: numbered records, on their way from those who measure to the catalog."""

from typing import Final

import attrs

from cw.messages.ids import Incarnation, TenantId

MODEL_OWNER: Final = TenantId((1 << 32) - 1)
"""In a usage entry: whoever owns the model. Weights lie in pages for nobody else's sake."""


@attrs.frozen(kw_only=True)
class UsageEntry:
    """What one tenant used of one model in one hour, as far as one record knows."""

    hour: int
    """Since 1970, UTC: of the end of what was used."""
    tenant_id: TenantId
    model: str
    gpu_ns: int = 0
    """Device time of batches; of a shared one, the tenant's part by its slots."""
    load_bytes: int = 0
    resident_byte_ms: int = 0
    """Bytes of weights in pages times how long they were there."""
    unknown: int = 0
    """Batches and LOADs that had begun when their executor was killed: what they used, nobody
    knows, and nobody pays."""
    kept: int = 0
    refused: int = 0
    broken: int = 0
    failed: int = 0


@attrs.frozen(kw_only=True)
class UsageRecord:
    """One line of a journal."""

    number: int
    """Counts from 1 in each life of whoever writes."""
    entries: tuple[UsageEntry, ...]


@attrs.frozen(kw_only=True)
class UsageBatch:
    """Records of one life of one writer, in the order of their numbers."""

    source: str
    """Kind and name of the process: `executor:NAME`, `gateway:NAME`."""
    incarnation: Incarnation
    records: tuple[UsageRecord, ...]
