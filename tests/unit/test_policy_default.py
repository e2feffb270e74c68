"""The default policy: near the possible at overload, no promise broken, nobody's pitfall.

The bounds in these tests are a little under what the policy reaches, so that a change that costs a
few per cent fails here. Shares are of `cw.sim.bound`, which no scheduler can exceed.
"""

import itertools

import pytest

from cw.config import SchedulerSettings
from cw.sim.bound import BoundRequest, upper_bound
from cw.units import MS, SECOND
from tests.unit.scheduler_world import CPU_MS, H100_MS, V100_MS, World, zipf

FAR = {"rpc_ns": 1 * MS, "jitter_ns": 100_000}
"""Executors a millisecond away, as in a rack; the default world's are nearer, as on one machine."""


def share_of_bound(world, rate, seconds, slo_ms, *, weights=None):
    """Offer a load and say which share of the possible was answered in time."""
    world.register()
    arrivals = world.offer(rate, seconds, int(slo_ms * MS), weights=weights)
    bound = upper_bound(
        [BoundRequest(*arrival) for arrival in arrivals],
        {
            model.model_id: {size: int(ms * MS) for size, ms in world.durations_ms.items()}
            for model in world.specs
        },
        executors=len(world.scheduler.books.executors),
    )
    world.scheduler.validate()
    return world.outcomes.kept / bound


@pytest.mark.parametrize(
    ("models", "rate", "slo_ms", "least"),
    [
        (8, 106, 50, 0.995),
        (8, 254, 50, 0.99),
        (8, 424, 50, 0.96),
        (8, 424, 100, 0.99),
        (8, 254, 25, 0.91),
        (64, 254, 100, 0.99),
        (64, 424, 100, 0.86),
    ],
)
def test_goodput_on_a_processor_is_near_the_possible(models, rate, slo_ms, least, seed):
    """The picture that the project is for: many small models on one core, kept or refused."""
    world = World(models=models, seed=seed)

    assert share_of_bound(world, rate, 4, slo_ms, weights=zipf(models)) >= least
    assert world.outcomes.broken_promises == 0


@pytest.mark.parametrize(
    ("durations_ms", "rate", "slo_ms", "least"),
    [
        (V100_MS, 1100, 25, 0.75),
        (V100_MS, 1100, 100, 0.82),
        (H100_MS, 7500, 50, 0.82),
    ],
)
def test_goodput_of_fifteen_equal_models_at_overload(durations_ms, rate, slo_ms, least, seed):
    """The published case: equal models, far more offered than one device can do."""
    world = World(models=15, durations_ms=durations_ms, seed=seed, **FAR)

    assert share_of_bound(world, rate, 1.5, slo_ms) >= least
    assert world.outcomes.broken_promises <= 1


@pytest.mark.parametrize("factor", [1.0, 1.3, 3, 10])
def test_one_overloaded_model_keeps_its_goodput(factor):
    """A lone model gives no other to drop: a death spiral on its head cost half the goodput."""
    world = World(models=1, durations_ms=CPU_MS)

    assert share_of_bound(world, factor * 1039, 2, 50) >= 0.95
    assert world.outcomes.broken_promises == 0


@pytest.mark.parametrize("factor", [1.3, 10])
def test_one_overloaded_model_with_a_tight_slo_is_not_caught_in_small_batches(factor):
    """A full plan that admits what just fits keeps the size it has: 79 % in place of 95 %."""
    world = World(models=1, durations_ms=V100_MS, **FAR)

    assert share_of_bound(world, factor * 765, 2, 25) >= 0.8


def test_goodput_does_not_fall_as_the_load_grows():
    """Overload must never make things worse than saturation."""
    kept = []
    for rate in (300, 600, 1200, 2400):
        world = World(models=8)
        share_of_bound(world, rate, 2, 50, weights=zipf(8))
        kept.append(world.outcomes.kept)

    assert all(later >= 0.97 * earlier for earlier, later in itertools.pairwise(kept))


def test_no_model_is_starved_among_equals():
    """Counting requests alone hides a model that gets nothing: look at the least of them."""
    world = World(models=15, durations_ms=V100_MS, **FAR)
    share_of_bound(world, 1100, 2, 100)
    kept = [world.outcomes.kept_of[model.model_id] for model in world.specs]

    assert min(kept) > 0.6 * sum(kept) / len(kept)


def test_it_does_better_than_clockwork_where_models_share_a_processor():
    """The reference to beat, on the same arrivals."""
    shares = {}
    for policy in ("default", "clockwork"):
        world = World(models=8, settings=SchedulerSettings(policy=policy))
        shares[policy] = share_of_bound(world, 424, 4, 50, weights=zipf(8))

    assert shares["default"] > shares["clockwork"] + 0.02


def test_mixed_slos_on_one_model_do_not_block_each_other():
    """First in first out would let a patient request make an urgent one late."""
    world = World(models=1)
    world.register()
    patient = [world.request(world.specs[0], 500 * MS) for _ in range(40)]
    world.run_until(world.now_ns + 3 * MS)
    urgent = world.request(world.specs[0], 30 * MS)
    world.run_until(world.now_ns + SECOND)

    assert world.outcomes.kept == len(patient) + 1
    assert world.finished[urgent.request_id] <= urgent.deadline_ns


def test_an_idle_lane_runs_what_is_there_at_once():
    """Waiting for company on an idle device only adds to the latency."""
    world = World(models=2, noise=0.0)
    world.register()
    asked = world.request(world.specs[0], 500 * MS)
    world.run_until(world.now_ns + SECOND)

    assert world.finished[asked.request_id] - asked.arrival_ns < 8 * MS


def test_two_executors_share_the_load():
    """A request goes where it ends first, so equal executors are equally busy."""
    world = World(models=8, executors=2, shared=True)

    assert share_of_bound(world, 700, 3, 50, weights=zipf(8)) >= 0.97
    busy = sorted(world.busy_ns.values())
    assert busy[0] > 0.8 * busy[1]


def test_the_promise_is_an_upper_bound():
    """The client is told when it will have its answer at the latest: that has to be true."""
    world = World(models=8)
    share_of_bound(world, 300, 3, 60 * 1, weights=zipf(8))
    late = [
        request_id
        for request_id, finished_ns in world.finished.items()
        if finished_ns > world.predicted[request_id]
    ]

    assert len(late) <= 0.02 * len(world.finished)
