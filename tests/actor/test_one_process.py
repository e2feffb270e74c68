"""A whole cluster on the virtual clock: what it promises it keeps, and what it can't it refuses."""

from functools import partial

import trio

from cw.messages import ModelState
from cw.units import MS
from tests.actor.fakes import make_model
from tests.actor.one_process import Tally, running_cluster, some_models


async def test_a_model_becomes_ready_and_answers(autojump_clock):
    """The way of every model: added at a gateway, prepared, loaded, measured, served."""
    async with running_cluster() as cluster:
        model, tally = make_model(), Tally()
        await cluster.add_model(model)
        registering = (await cluster.status_of(model)).state
        await cluster.ask(model, tally)
        await cluster.ready(model)
        status = await cluster.status_of(model)
        await cluster.ask(model, tally)

        assert registering is ModelState.REGISTERING
        assert [(each.batch_size, each.p50_ns) for each in status.profile] == [
            (size, 2 * MS) for size in model.batch_sizes
        ]
        assert tally.kinds() == {"notReady": 1, "kept": 1}


async def test_moderate_load_is_kept_to_the_last(autojump_clock):
    """Half of what the device can do one by one: nothing excuses a refusal or a broken promise."""
    models, tally = some_models(5), Tally()
    async with running_cluster(models=models) as cluster:
        await cluster.offer(models, tally, rate=250, count=200)

        assert tally.kinds() == {"kept": 200}


async def test_overload_refuses_and_breaks_nothing(autojump_clock):
    """Ten times what the device can do even in batches: the rest is refused, promises hold."""
    models, tally = some_models(5), Tally()
    async with running_cluster(models=models) as cluster:
        await cluster.offer(models, tally, rate=20_000, count=4000, slo_ns=30 * MS)
        kinds = tally.kinds()

        assert tally.broken == []
        assert kinds["kept"] + kinds["overload"] + kinds["deadlineTooShort"] == 4000
        assert kinds["kept"] > 400, "under overload the device is busy with full batches"
        assert cluster.batch_sizes[8] > cluster.batch_sizes[1]


async def test_a_lost_executor_breaks_at_most_what_was_on_it(autojump_clock):
    """What was only planned there is served by the others; what ran there has time for a retry."""
    models, tally = some_models(3), Tally()
    async with running_cluster(models=models, executors=2) as cluster:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(cluster.offer, models, tally, rate=400, count=400))
            await trio.sleep(0.5)
            cluster.kill_executor("executor-1")

        assert len(tally.answers) == 400
        assert tally.broken == [], "the SLO leaves time for a second attempt"
        assert tally.kinds()["kept"] >= 390


async def test_a_loss_without_time_for_a_retry_breaks_few_promises(autojump_clock):
    """Work is committed late: little hangs on any one executor at any moment."""
    models, tally = some_models(3), Tally()
    async with running_cluster(models=models, executors=2) as cluster:
        async with trio.open_nursery() as nursery:
            offer = partial(cluster.offer, models, tally, rate=1500, count=1500, slo_ns=7 * MS)
            nursery.start_soon(offer)
            await trio.sleep(0.5)
            cluster.kill_executor("executor-1")
        status = await cluster.gateways[0].session.status()

        assert len(tally.answers) == 1500
        assert len(tally.broken) <= 16, "two batches of eight"
        assert sum(count for _, count in status.ledger.broken) == len(tally.broken)


async def test_an_executor_comes_back_under_its_name(autojump_clock):
    """A restarted process is a new one with the old name: it must be served by, soon."""
    models, tally = some_models(2), Tally()
    async with running_cluster(models=models) as cluster:
        cluster.kill_executor("executor-1")
        await trio.sleep(0.1)
        await cluster.offer(models, tally, rate=100, count=5)
        await cluster.start_executor("executor-1")
        await trio.sleep(0.2)
        await cluster.prepared_everywhere()
        await cluster.offer(models, tally, rate=100, count=50)

        assert tally.kinds() == {"noExecutor": 5, "kept": 50}


async def test_models_come_and_go_while_requests_flow(autojump_clock):
    """A registration disturbs nobody, and a removal takes only what it removes."""
    steady, guest = some_models(2), make_model("guest")
    tally, guests = Tally(), Tally()
    async with running_cluster(models=steady) as cluster:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(cluster.offer, steady, tally, rate=200, count=800))
            await trio.sleep(0.5)
            await cluster.add_model(guest)
            await cluster.ready(guest)
            nursery.start_soon(partial(cluster.offer, [guest], guests, rate=50, count=50, seed=1))
            await trio.sleep(0.5)
            await cluster.gateways[0].session.remove_model(guest.model_id)

        assert tally.kinds() == {"kept": 800}
        assert guests.broken == []
        assert set(guests.kinds()) <= {"kept", "unknownModel", "notReady"}
        assert guests.kinds()["kept"] > 10
        assert guests.kinds()["unknownModel"] > 10


async def test_a_removed_model_may_be_added_again_at_once(autojump_clock):
    """What an operator does to mend a mistake; promises of its first life may still be open."""
    model, tally = make_model(), Tally()
    async with running_cluster(models=[model]) as cluster:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(cluster.ask, model, tally)
            await trio.sleep(0.002)
            await cluster.gateways[0].session.remove_model(model.model_id)
            await cluster.add_model(model)
        await cluster.ready(model)
        await cluster.ask(model, tally)

        assert tally.broken == []
        assert tally.answers[-1].outputs is not None


async def test_a_removed_model_finishes_elsewhere_when_its_executor_is_lost(autojump_clock):
    """Promises outlive both the catalog's entry and the place that they were made for."""
    models, tally = some_models(2), Tally()
    async with running_cluster(models=models, executors=2, pages=1) as cluster:
        await cluster.offer(models, Tally(), rate=200, count=100)
        status = await cluster.gateways[0].session.status()
        (model,) = (each for each in models if each.name in status.executors[0].resident)
        assert model.name not in status.executors[1].resident
        async with trio.open_nursery() as nursery:
            for _ in range(80):
                nursery.start_soon(partial(cluster.ask, model, tally, slo_ns=400 * MS))
            await trio.sleep(0.004)
            await cluster.gateways[0].session.remove_model(model.model_id)
            cluster.kill_executor(status.executors[0].name)

        assert tally.kinds() == {"kept": 80}


async def test_models_share_too_few_pages(autojump_clock):
    """Six models on a device for two: each request finds its weights, or is refused as cold."""
    models, tally = some_models(6), Tally()
    async with running_cluster(models=models, pages=2) as cluster:
        await cluster.offer(models, tally, rate=100, count=300, slo_ns=200 * MS)
        kinds = tally.kinds()

        assert tally.broken == []
        assert kinds["kept"] >= 280


async def test_two_gateways_share_batches(autojump_clock):
    """Gateways scale by count: requests of one model meet in one batch wherever they came in."""
    models, tally = some_models(1), Tally()
    async with running_cluster(models=models, gateways=2) as cluster:
        await cluster.offer(models, tally, rate=2500, count=1000)

        assert tally.broken == []
        assert tally.kinds()["kept"] > 900
        assert cluster.batch_sizes[8] > 100, "more than one gateway's share would fill in time"


async def test_a_gateway_that_dies_leaves_the_other_unharmed(autojump_clock):
    """Its requests ride in the other's batches: their places stay empty, no more."""
    models, tally = some_models(1), Tally()
    async with running_cluster(models=models, gateways=2) as cluster:
        lost = cluster.gateways.pop()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(cluster.offer, models, tally, rate=400, count=400))
            await trio.sleep(0.4)
            lost.close()

        assert tally.kinds() == {"kept": 400}


async def test_a_new_controller_takes_over_with_its_promises(autojump_clock):
    """State is soft: executors and gateways rejoin within a second, and requests go on."""
    models, tally = some_models(3), Tally()
    async with running_cluster(models=models, executors=2) as cluster:
        async with trio.open_nursery() as nursery:
            offer = partial(cluster.offer, models, tally, rate=200, count=600, slo_ns=2000 * MS)
            nursery.start_soon(offer)
            await trio.sleep(0.5)
            cluster.stop_controller()
            await trio.sleep(0.1)
            await cluster.start_controller(models=models)
        kinds = tally.kinds()

        assert len(tally.answers) == 600
        assert tally.broken == []
        assert kinds["kept"] > 400
