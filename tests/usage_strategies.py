"""Hypothesis strategies for what executors and gateways say of their use."""

from hypothesis import strategies as st

from cw import messages as m
from tests.strategies import texts, tuples, u32s, u64s


def usage_entries():
    amounts = dict.fromkeys(
        (
            "gpu_ns",
            "load_bytes",
            "resident_byte_ms",
            "unknown",
            "kept",
            "refused",
            "broken",
            "failed",
        ),
        u32s,
    )
    return st.builds(m.UsageEntry, hour=u32s, tenant_id=u32s, model=texts, **amounts)


def usage_records():
    return st.builds(m.UsageRecord, number=u64s, entries=tuples(usage_entries()))


def usage_batches():
    return st.builds(m.UsageBatch, source=texts, incarnation=u64s, records=tuples(usage_records()))
