"""How to draw the catalog's messages; see `strategies.py`."""

from hypothesis import strategies as st

from cw import messages as m
from tests.strategies import texts, tuples, u32s, u64s

rates = st.floats(0, 1e9)
walls_ms = st.integers(0, 2**53)
tenant_ids = u32s.map(m.TenantId)


def quotas():
    weights = st.floats(0, 1e6)
    return st.builds(m.Quota, weight=weights, requests_per_s=rates, host_bytes=u64s, models=u64s)


def orders():
    return st.builds(
        m.CatalogOrder,
        verb=st.sampled_from(m.CatalogVerb),
        tenant=texts,
        model=texts,
        key_id=texts,
        label=texts,
        host_bytes=u64s,
        quota=quotas(),
    )


def answers():
    tenants = st.builds(
        m.TenantInfo,
        tenant_id=tenant_ids,
        name=texts,
        quota=quotas(),
        models=u64s,
        host_bytes=u64s,
        keys=u64s,
    )
    keys = st.builds(
        m.KeyInfo, key_id=texts, tenant=texts, label=texts, created_ms=walls_ms, revoked_ms=walls_ms
    )
    return st.builds(m.CatalogAnswer, tenants=tuples(tenants), keys=tuples(keys), new_key=texts)


def directory_changes():
    tenants = st.builds(m.DirectoryTenant, tenant_id=tenant_ids, requests_per_s=rates)
    keys = st.builds(
        m.DirectoryKey, key_id=texts, tenant_id=tenant_ids, secret_hash=st.binary(max_size=33)
    )
    models = st.builds(m.ModelAccess, model=texts, owner=tenant_ids, shared_with=tuples(tenant_ids))
    return st.builds(
        m.DirectoryChange,
        whole=st.booleans(),
        tenants=tuples(tenants),
        keys_revoked=tuples(texts),
        keys_added=tuples(keys),
        models=tuples(models),
        models_forgotten=tuples(texts),
    )
