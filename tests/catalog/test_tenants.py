"""Tenants, quotas, owners and shares, as SQL keeps them."""

import pytest
from sqlalchemy import select

from cw.catalog.models import (
    access_of,
    directory_models,
    forget_model,
    keep_only,
    own_model,
    pinned_models,
    set_pinned,
    share_model,
    unshare_model,
)
from cw.catalog.tables import MODEL_SHARES
from cw.catalog.tenants import add_tenant, list_tenants, set_quota, tenant_id_of
from cw.errors import ModelConflict, QuotaExceeded, RequestInvalid, UnknownModel, UnknownTenant
from cw.messages import NO_TENANT, ModelAccess, Quota
from cw.units import MiB


def test_a_tenant_is_listed_with_what_it_holds(connection):
    """`cw tenant list` is how an administrator sees who is near a bound."""
    quota = Quota(weight=2.5, requests_per_s=0.5, host_bytes=9 * MiB, models=3)
    first = add_tenant(connection, "zoo", quota)
    second = add_tenant(connection, "acme", Quota())
    own_model(connection, "lion", "zoo", 4 * MiB)
    own_model(connection, "tiger", "zoo", MiB)

    acme, zoo = list_tenants(connection)

    assert (zoo.tenant_id, zoo.name, zoo.quota) == (first, "zoo", quota)
    assert (zoo.models, zoo.host_bytes, zoo.keys) == (2, 5 * MiB, 0)
    assert (acme.tenant_id, acme.models, acme.host_bytes) == (second, 0, 0)
    assert len({NO_TENANT, first, second}) == 3


@pytest.mark.parametrize("name", ["", "default", "Acme", "a b", "a'; DROP TABLE keys", "x" * 129])
def test_names_that_are_none_are_refused(connection, name):
    """Names go into commands, metrics and file names; `default` is everybody's where none is."""
    with pytest.raises(RequestInvalid, match="expected a tenant's name"):
        add_tenant(connection, name, Quota())


def test_a_name_is_given_once(connection):
    """Two tenants of one name could not be told apart; the transaction goes on."""
    add_tenant(connection, "acme", Quota())

    with pytest.raises(RequestInvalid, match="exists"):
        add_tenant(connection, "acme", Quota())
    assert len(list_tenants(connection)) == 1


@pytest.mark.parametrize(
    "quota",
    [
        Quota(weight=0.0),
        Quota(weight=float("nan")),
        Quota(weight=float("inf")),
        Quota(requests_per_s=-1.0),
        Quota(requests_per_s=float("nan")),
        Quota(host_bytes=-1),
        Quota(models=1 << 63),
    ],
)
def test_quotas_that_make_no_sense_are_refused(connection, quota):
    """A weight of NaN would spoil every tenant's share, not only its own."""
    add_tenant(connection, "acme", Quota())

    with pytest.raises(RequestInvalid, match="expected a weight"):
        set_quota(connection, "acme", quota)


def test_the_default_tenant_is_not_in_the_table(connection):
    """It is whoever asks where there are no tenants: no quota could be its own."""
    assert tenant_id_of(connection, "") == tenant_id_of(connection, "default") == NO_TENANT
    with pytest.raises(UnknownTenant):
        set_quota(connection, "default", Quota())


def test_a_quota_of_models_and_bytes_is_kept(connection):
    """Host memory is shared: who may fill it without bound takes it from the others."""
    add_tenant(connection, "acme", Quota(models=2, host_bytes=10 * MiB))
    own_model(connection, "a", "acme", 6 * MiB)

    with pytest.raises(QuotaExceeded, match=r"6\.0 MiB.*5\.0 MiB.*10\.0 MiB"):
        own_model(connection, "b", "acme", 5 * MiB)
    own_model(connection, "b", "acme", 4 * MiB)
    with pytest.raises(QuotaExceeded, match="2 models"):
        own_model(connection, "c", "acme", 0)
    own_model(connection, "b", "acme", 4 * MiB)  # again: not a third model
    forget_model(connection, "a")
    own_model(connection, "c", "acme", 6 * MiB)


def test_a_model_has_one_owner(connection):
    """Nobody takes over another one's model by adding it anew, the default tenant included."""
    add_tenant(connection, "acme", Quota())
    own_model(connection, "a", "acme", 1)

    with pytest.raises(ModelConflict):
        own_model(connection, "a", "default", 1)
    with pytest.raises(UnknownTenant):
        own_model(connection, "a", "zoo", 1)
    assert own_model(connection, "a", "", 2).owner == tenant_id_of(connection, "acme")
    assert access_of(connection, "a").owner == tenant_id_of(connection, "acme")


def test_shares_are_given_taken_back_and_end_with_the_model(connection):
    """A share that outlived its model would open the next one of that name."""
    acme, zoo = (add_tenant(connection, name, Quota()) for name in ("acme", "zoo"))
    own_model(connection, "a", "acme", 1)
    assert share_model(connection, "a", "zoo").shared_with == (zoo,)
    assert share_model(connection, "a", "zoo").shared_with == (zoo,)
    with pytest.raises(RequestInvalid, match="own"):
        share_model(connection, "a", "acme")
    with pytest.raises(UnknownModel):
        share_model(connection, "b", "zoo")

    assert unshare_model(connection, "a", "zoo") == ModelAccess(model="a", owner=acme)
    share_model(connection, "a", "zoo")
    forget_model(connection, "a")

    assert connection.execute(select(MODEL_SHARES)).all() == []


def test_the_directory_leaves_out_what_only_the_default_tenant_sees(connection):
    """40,000 models without a tenant need not be told to each gateway twice."""
    zoo = add_tenant(connection, "zoo", Quota())
    own_model(connection, "mine", "", 1)
    own_model(connection, "shared", "", 1)
    own_model(connection, "zoos", "zoo", 1)
    share_model(connection, "shared", "zoo")

    assert set(directory_models(connection)) == {
        ModelAccess(model="shared", owner=NO_TENANT, shared_with=(zoo,)),
        ModelAccess(model="zoos", owner=zoo),
    }


def test_the_table_follows_the_store(connection):
    """A kill between the store and the catalog leaves a model that only the administrator sees."""
    add_tenant(connection, "zoo", Quota())
    own_model(connection, "gone", "zoo", 1)
    own_model(connection, "kept", "zoo", 1)

    keep_only(connection, [("kept", 1), ("new", 7)])

    assert access_of(connection, "new").owner == NO_TENANT
    assert access_of(connection, "kept").owner == tenant_id_of(connection, "zoo")
    with pytest.raises(UnknownModel):
        access_of(connection, "gone")


def test_pins_are_kept(connection):
    """A controller that restarts must load them again."""
    own_model(connection, "a", "", 1)
    set_pinned(connection, "a", pinned=True)
    assert pinned_models(connection) == ("a",)
    set_pinned(connection, "a", pinned=False)
    assert pinned_models(connection) == ()
    with pytest.raises(UnknownModel):
        set_pinned(connection, "b", pinned=True)
