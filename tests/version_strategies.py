"""Hypothesis strategies for what administrators say of models' versions and uploads."""

from hypothesis import strategies as st

from cw import messages as m
from tests.strategies import texts, tuples, u32s, u64s


def shares():
    return st.builds(m.Share, version=u32s, percent=u32s)


def route_orders():
    return st.builds(
        m.RouteOrder, name=texts, switch_to=u32s, shares=tuples(shares()), is_whole=st.booleans()
    )


def version_statuses():
    return st.builds(
        m.VersionStatus,
        version=u32s,
        model_id=u64s,
        role=st.sampled_from(m.VersionRole),
        percent=u32s,
        is_previous=st.booleans(),
        detail=texts,
    )


def upload_offers():
    return st.builds(
        m.UploadOffer, manifest_sha256=texts, sizes=st.dictionaries(texts, u64s, max_size=3)
    )
