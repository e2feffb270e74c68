"""Standing orders: pinned models stay resident, and tenants' weights change while running."""

from cw.core.events import ExecutorLost, ModelPinned, RequestArrived, TenantWeighed
from cw.core.residency import Residency
from cw.core.shares import Shares
from cw.core.standing import pin_shortage
from cw.messages import TenantId
from cw.units import MS, SECOND
from tests.unit.policy_bench import Bench
from tests.unit.scheduler_world import World, descriptor


def resident(world):
    """Name the models whose weights are somewhere."""
    return {
        place.model.spec.name
        for executor in world.scheduler.books.executors.values()
        for place in executor.places.values()
        if place.residency is not Residency.COLD
    }


def crowded(**changes):
    """Six models through room for two."""
    world = World(**{"models": 6, "pages": 2, **changes})
    world.register()
    return world


def test_a_pinned_model_is_loaded_though_nobody_asks_for_it():
    """Its first request is not to wait for a LOAD: others give way."""
    world = crowded()
    cold = next(model for model in world.specs if model.name not in resident(world))

    world.feed(ModelPinned(name=cold.name, pinned=True))
    world.run_until(world.now_ns + SECOND)

    assert cold.name in resident(world)


def test_a_pinned_model_stays_while_others_push_each_other_out():
    """That is what a pin is; once it is taken back, the model goes like any other."""
    world = crowded()
    pinned = world.specs[0].name
    world.feed(ModelPinned(name=pinned, pinned=True))
    world.run_until(world.now_ns + SECOND)
    place = next(
        place
        for executor in world.scheduler.books.executors.values()
        for place in executor.places.values()
        if place.model.spec.name == pinned
    )

    world.offer(60, 3, 200 * MS, weights=[0, 1, 1, 1, 1, 1])
    assert place.residency is Residency.WARM
    world.feed(ModelPinned(name=pinned, pinned=False))
    world.offer(60, 3, 200 * MS, weights=[0, 1, 1, 1, 1, 1])

    assert place.residency is Residency.COLD
    assert world.outcomes.kept > 100


def test_a_pinned_model_comes_back_when_its_executor_is_lost():
    """The pin is of the model, not of the place where it happened to be."""
    world = crowded(executors=2)
    pinned = world.specs[0].name
    world.feed(ModelPinned(name=pinned, pinned=True))
    world.run_until(world.now_ns + SECOND)
    (holder,) = {
        place.executor.executor_id
        for model in world.scheduler.books.models.values()
        if model.spec.name == pinned
        for place in model.serving[:1]
    }

    world.feed(ExecutorLost(executor_id=holder))
    world.run_until(world.now_ns + 5 * SECOND)

    assert pinned in resident(world)


def test_a_pin_that_does_not_fit_is_told_how_much_would():
    """Three pages, two of them pinned away: one is left."""
    world = crowded(pages=3, image_bytes=32 << 20)
    books = world.scheduler.books
    first, second = (model.name for model in world.specs[:2])
    assert pin_shortage(books, first) is None
    world.feed(ModelPinned(name=first, pinned=True))

    assert pin_shortage(books, second) == (2, 1)
    assert pin_shortage(books, first) is None, "pinning again takes nothing more"


def test_a_model_that_is_pinned_before_it_is_ready_is_loaded_when_it_is():
    """A controller that restarts hears of pins before its models are prepared anywhere."""
    world = World(models=6, pages=2)
    pinned = world.specs[5].name
    world.feed(ModelPinned(name=pinned, pinned=True))
    world.register()
    world.run_until(world.now_ns + SECOND)

    assert pinned in resident(world)


def test_weights_from_the_catalog_share_out_device_time():
    """A tenant of weight 3 is owed three times as much as one of weight 1."""
    bench = Bench()
    shares = Shares(bench.books)
    assert shares._tenant_weight(TenantId(2)) == 1.0

    bench.books.tenant_weights[TenantId(2)] = 3.0

    assert shares._tenant_weight(TenantId(2)) == 3.0
    assert shares._tenant_weight(TenantId(1)) == 1.0


def kept_by_tenant(weights, rates, seconds=4.0):
    """Let two tenants ask, each for a model of its own; count what was answered in time."""
    world = World(models=2)
    world.register()
    for tenant, weight in weights.items():
        world.feed(TenantWeighed(tenant_id=TenantId(tenant), weight=weight))
    start_ns, number = world.now_ns, 10_000
    asked = {1: [], 2: []}
    for tenant, rate in rates.items():
        for at in range(int(rate * seconds)):
            number += 1
            arrival_ns = start_ns + int(at * SECOND / rate)
            described = descriptor(
                number, world.specs[tenant - 1], arrival_ns, 50 * MS, tenant=tenant
            )
            world.requests[described.request_id] = described
            world.at(arrival_ns, world.feed, RequestArrived(descriptor=described))
            world.at(described.deadline_ns + 1, world.give_up, described.request_id)
            asked[tenant].append(described.request_id)
    world.run_until(start_ns + int((seconds + 1) * SECOND))
    return {tenant: sum(it in world.promised for it in ids) for tenant, ids in asked.items()}


def test_weights_are_honoured_at_overload_and_leave_nothing_idle():
    """Both ask for all that there is: 3 to 1. Alone, the lighter one gets what it asks for."""
    flood = kept_by_tenant({1: 3.0}, {1: 1500, 2: 1500})
    even = kept_by_tenant({}, {1: 1500, 2: 1500})
    alone = kept_by_tenant({1: 3.0}, {2: 100})

    assert 2.2 < flood[1] / flood[2] < 4.0
    assert 0.75 < even[1] / even[2] < 1.33
    assert sum(flood.values()) > 0.9 * sum(even.values())
    assert alone[2] >= 0.99 * 400
