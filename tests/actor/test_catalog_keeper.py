"""The keeper: on disk before it is told, told whole or by change, and nothing half done."""

import attrs
import pytest
import trio

from cw.actors.catalog_keeper import CatalogKeeper
from cw.catalog.catalog import Catalog
from cw.catalog.database import default_url
from cw.core.directory import Directory
from cw.errors import QuotaExceeded, RequestInvalid, UnknownTenant
from cw.messages import CatalogOrder, CatalogVerb, Quota, TenantId


@attrs.define
class Listener:
    """Keeps a directory as a gateway does, and notes the rest."""

    directory: Directory = attrs.Factory(Directory)
    weights: dict = attrs.Factory(dict)
    pins: list = attrs.Factory(list)
    is_full: bool = False

    def tell_directory(self, change):
        self.directory.apply(change)

    def weigh_tenant(self, tenant_id, weight):
        self.weights[tenant_id] = weight

    def check_pin(self, name):
        if self.is_full:
            raise QuotaExceeded("no room")

    def pin_model(self, name, *, pinned):
        self.pins.append((name, pinned))

    def serves_name(self, name):
        return name == "served"


@pytest.fixture
def keeper(tmp_path):
    """A keeper of a new catalog, in which the store's one model is."""
    catalog = Catalog.open(default_url(tmp_path), [("served", 1)])
    yield CatalogKeeper(catalog, Listener())
    catalog.close()


def order(verb, **fields):
    return CatalogOrder(verb=CatalogVerb[verb], **fields)


async def test_what_a_newcomer_is_told_is_what_the_others_know(keeper):
    """A gateway that joins after changes and one that heard them let the same keys in."""
    await keeper.start()
    await keeper.order(order("ADD_TENANT", tenant="acme", quota=Quota(weight=2.0)))
    kept = (await keeper.order(order("ADD_KEY", tenant="acme"))).new_key
    gone = (await keeper.order(order("ADD_KEY", tenant="acme"))).new_key
    await keeper.order(order("REVOKE_KEY", key_id=gone.split("_")[1]))

    newcomer = Directory()
    newcomer.apply(keeper.whole)
    for directory in (newcomer, keeper.listener.directory):
        assert directory.open(kept) is not None
        assert directory.open(gone) is None
    assert keeper.listener.weights == {TenantId(1): 2.0}


async def test_another_reign_finds_all_of_it(keeper, tmp_path):
    """Whatever was answered is on disk: nothing is kept in the process alone."""
    await keeper.start()
    await keeper.order(order("ADD_TENANT", tenant="acme"))
    key = (await keeper.order(order("ADD_KEY", tenant="acme"))).new_key
    await keeper.order(order("PIN_MODEL", model="served"))

    catalog = Catalog.open(default_url(tmp_path), [("served", 1)])
    after = CatalogKeeper(catalog, Listener())
    await after.start()
    catalog.close()

    assert after.listener.directory.open(key) is not None
    assert after.listener.pins == [("served", True)]


async def test_a_pin_that_is_taken_back_elsewhere_is_taken_back_here(keeper, tmp_path):
    """Cells share a catalog: one changes it, the others read it again."""
    await keeper.start()
    await keeper.order(order("PIN_MODEL", model="served"))
    catalog = Catalog.open(default_url(tmp_path), [("served", 1)])
    catalog.carry_out(order("UNPIN_MODEL", model="served"))
    catalog.close()

    await keeper.order(order("REREAD"))

    assert keeper.listener.pins == [("served", True), ("served", False)]


async def test_what_does_not_fit_or_is_served_is_refused_and_changes_nothing(keeper):
    """The refusal comes before the database is touched."""
    await keeper.start()
    keeper.listener.is_full = True
    with pytest.raises(QuotaExceeded):
        await keeper.order(order("PIN_MODEL", model="served"))
    with pytest.raises(RequestInvalid, match="cw model remove"):
        await keeper.order(order("RELEASE_MODEL", model="served"))
    with pytest.raises(UnknownTenant):
        await keeper.order(order("SHARE_MODEL", model="none", tenant="acme"))

    assert keeper.listener.pins == []


async def test_an_order_whose_client_went_away_is_told_all_the_same(keeper):
    """What is on disk and what gateways know must not differ because somebody pressed Ctrl-C."""
    await keeper.start()
    with trio.move_on_after(0) as hasty:
        await keeper.order(order("ADD_TENANT", tenant="acme"))

    assert hasty.cancel_called
    assert keeper.listener.directory.has_tenants == bool(keeper.whole.tenants)
    assert len(keeper.catalog.state().directory.tenants) == len(keeper.whole.tenants)
