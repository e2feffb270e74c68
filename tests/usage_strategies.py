"""Hypothesis strategies for what executors and gateways say of their use."""

import attrs
from hypothesis import strategies as st

from cw import messages as m
from tests.strategies import texts, tuples, u32s, u64s


def usage_entries():
    amounts = [each.name for each in attrs.fields(m.UsageEntry) if each.default == 0]
    return st.builds(
        m.UsageEntry, hour=u32s, tenant_id=u32s, model=texts, **dict.fromkeys(amounts, u32s)
    )


def usage_records():
    return st.builds(m.UsageRecord, number=u64s, entries=tuples(usage_entries()))


def usage_batches():
    return st.builds(m.UsageBatch, source=texts, incarnation=u64s, records=tuples(usage_records()))
