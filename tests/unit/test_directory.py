"""What a gateway knows of tenants: who sees what, who asked too much, which sessions end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.api_keys import hash_secret, make_key, split_key
from cw.core.directory import Directory
from cw.core.token_bucket import TokenBucket
from cw.messages import (
    NO_TENANT,
    DirectoryChange,
    DirectoryKey,
    DirectoryTenant,
    ModelAccess,
    RefusalReason,
    TenantId,
)
from cw.units import MS, SECOND

ACME, ZOO = TenantId(1), TenantId(2)


def tenant(tenant_id, requests_per_s=0.0):
    return DirectoryTenant(tenant_id=tenant_id, requests_per_s=requests_per_s)


def key_of(tenant_id, number):
    """Make a key, and what a gateway is told of it."""
    key = make_key(bytes([number]) * 8, bytes([number]) * 32)
    key_id, secret = split_key(key)
    return key, DirectoryKey(key_id=key_id, tenant_id=tenant_id, secret_hash=hash_secret(secret))


def listening(directory):
    """Gather what a directory says has ended."""
    ended = []
    directory.ended = ended.append
    return ended


def test_a_tenant_sees_its_own_models_and_those_shared_with_it():
    """Everything else is to look as if it were not there."""
    directory = Directory()
    directory.apply(
        DirectoryChange(
            models=(
                ModelAccess(model="lion", owner=ZOO),
                ModelAccess(model="price", owner=ACME, shared_with=(ZOO,)),
            )
        )
    )
    names = ["lion", "price", "nobodys"]

    assert directory.visible(ACME, names) == ["price"]
    assert directory.visible(ZOO, names) == ["lion", "price"]
    assert directory.visible(NO_TENANT, names) == names
    directory.apply(
        DirectoryChange(
            models=(ModelAccess(model="price", owner=ACME),), models_forgotten=("lion",)
        )
    )
    assert directory.visible(ZOO, names) == []


def test_keys_come_and_go_by_change():
    """A change names what it adds and revokes, and nothing else is touched."""
    directory = Directory()
    (first, first_entry), (second, second_entry) = key_of(ACME, 1), key_of(ZOO, 2)
    ended = listening(directory)
    directory.apply(DirectoryChange(keys_added=(first_entry,)))
    directory.apply(DirectoryChange(keys_added=(second_entry,)))
    assert ended == []

    directory.apply(DirectoryChange(keys_revoked=(first_entry.key_id,)))

    assert ended == [{first_entry.key_id}]
    assert (directory.open(first), directory.open(second)) == (None, second_entry)


def test_the_whole_replaces_everything_and_ends_what_it_does_not_name():
    """A key that was revoked while a gateway had no controller ends when it has one again."""
    directory = Directory()
    (gone, gone_entry), (kept, kept_entry) = key_of(ACME, 1), key_of(ZOO, 2)
    directory.apply(
        DirectoryChange(
            tenants=(tenant(ACME), tenant(ZOO)),
            keys_added=(gone_entry, kept_entry),
            models=(ModelAccess(model="price", owner=ACME),),
        )
    )

    ended = listening(directory)
    directory.apply(DirectoryChange(whole=True, tenants=(tenant(ZOO),), keys_added=(kept_entry,)))

    assert ended == [{gone_entry.key_id, ""}]
    assert (directory.open(gone), directory.open(kept)) == (None, kept_entry)
    assert not directory.sees(ACME, "price")
    assert directory.has_tenants
    directory.apply(DirectoryChange(whole=True))
    assert not directory.has_tenants


def test_a_key_that_changed_hands_ends_its_sessions():
    """After a restore an id may stand for another tenant: its sessions must not."""
    directory = Directory()
    _, entry = key_of(ACME, 1)
    _, other = key_of(ZOO, 1)
    directory.apply(DirectoryChange(keys_added=(entry,)))

    ended = listening(directory)
    directory.apply(DirectoryChange(whole=True, keys_added=(other,)))
    assert ended == [{entry.key_id}]


def test_the_first_tenant_ends_the_sessions_of_the_empty_key():
    """They see every model: which is nobody's right where tenants are told apart."""
    directory = Directory()
    ended = listening(directory)
    directory.apply(DirectoryChange(whole=True))
    assert ended == []

    directory.apply(DirectoryChange(tenants=(tenant(ACME),)))

    assert ended == [{""}]


def test_requests_over_the_quota_are_refused_with_when_they_would_not_be():
    """`overQuota` is the tenant's own doing, and says when to come back."""
    directory = Directory()
    directory.apply(DirectoryChange(tenants=(tenant(ACME, requests_per_s=10.0), tenant(ZOO))))
    now_ns = 5 * SECOND

    taken = [directory.over_quota(ACME, now_ns) for _ in range(11)]

    assert taken[:10] == [None] * 10
    assert taken[10].reason is RefusalReason.OVER_QUOTA
    assert taken[10].earliest_finish_ns == 100 * MS
    assert directory.over_quota(ACME, now_ns + 100 * MS) is None
    assert [directory.over_quota(ZOO, now_ns) for _ in range(100)] == [None] * 100
    assert directory.over_quota(NO_TENANT, now_ns) is None


def test_hearing_of_the_same_quota_again_fills_no_bucket():
    """Else a gateway that rejoins every second would let any number through."""
    directory = Directory()
    same = DirectoryChange(whole=True, tenants=(tenant(ACME, requests_per_s=1.0),))
    directory.apply(same)
    assert directory.over_quota(ACME, SECOND) is None

    directory.apply(same)

    assert directory.over_quota(ACME, SECOND) is not None
    directory.apply(DirectoryChange(tenants=(tenant(ACME, requests_per_s=5.0),)))
    assert directory.over_quota(ACME, SECOND) is None
    directory.apply(DirectoryChange(tenants=(tenant(ACME),)))
    assert [directory.over_quota(ACME, SECOND) for _ in range(9)] == [None] * 9


@given(
    st.floats(0.1, 1e5),
    st.lists(st.integers(0, 50 * MS), min_size=1, max_size=300),
)
def test_a_bucket_lets_its_rate_through_and_a_bounded_burst(rate_per_s, gaps_ns):
    """In any interval from the start: at most the rate, and what a second saved up."""
    bucket, now_ns, passed = TokenBucket(rate_per_s), 0, 0
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        passed += bucket.take(now_ns) == 0
        assert passed <= max(1.0, rate_per_s) + now_ns / (int(SECOND / rate_per_s) or 1) + 1


@given(st.floats(0.1, 1e5), st.integers(0, 1 << 60))
def test_what_a_bucket_says_to_wait_is_enough_and_not_too_much(rate_per_s, now_ns):
    """Clients sleep for as long as they are told: one ns less must fail, one more must not."""
    bucket = TokenBucket(rate_per_s)
    while not (wait_ns := bucket.take(now_ns)):
        now_ns += 1
    assert bucket.take(now_ns + wait_ns - 1) == 1
    assert bucket.take(now_ns + wait_ns) == 0


def test_a_slow_tenant_gets_its_one_request():
    """Half a request a second is one every two seconds, not none."""
    bucket = TokenBucket(0.5)
    assert [bucket.take(at * SECOND) == 0 for at in range(5)] == [True, False, True, False, True]


@pytest.mark.parametrize("hits", [0, 7])
def test_a_bucket_saves_up_no_more_than_a_second(hits):
    """A tenant that slept for a day may not send a day's requests at once."""
    bucket = TokenBucket(7.0)
    for _ in range(hits):
        bucket.take(0)
    assert [bucket.take(86_400 * SECOND) == 0 for _ in range(9)].count(True) == 7
