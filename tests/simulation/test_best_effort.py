"""Best effort in whole runs: what it costs those with an SLO, and that the gaps are used."""

import attrs
import pytest

from cw.config import SchedulerSettings
from cw.devices.profile_file import read_profile
from cw.sim.faults import Fault, FaultKind
from cw.sim.scenario import Scenario, equal_models
from cw.sim.tally import End
from cw.sim.world import World
from cw.units import MS, SECOND
from cw.workload.arrivals import Uniform, parse_arrivals
from cw.workload.streams import OpenLoop
from cw.workload.workload import Workload

pytestmark = pytest.mark.simulation

SLO_NS = 100 * MS
SECONDS = 3
LONGEST_MS = 11
"""A batch of 8 on a V100: what one best-effort action may take here."""


def stream(rate_rps, models, slo_ns):
    return OpenLoop(
        arrivals=parse_arrivals("poisson", rate_rps=float(rate_rps)),
        popularity=Uniform(),
        models=models,
        slo_ns=slo_ns,
    )


def scenario(*streams, seed, slo_ns=SLO_NS):
    return Scenario(
        profile=read_profile("v100"),
        models=equal_models(6),
        workload=Workload(streams=streams),
        slo_ns=slo_ns,
        duration_ns=SECONDS * SECOND,
        seed=seed,
        settings=SchedulerSettings(best_effort_longest_ns=LONGEST_MS * MS),
    )


@pytest.mark.parametrize("rate_rps", [100, 500])
@pytest.mark.parametrize("models", [(0, 1, 2, 3), (4, 5)])
def test_a_flood_costs_no_more_than_one_action(rate_rps, models, seed):
    """Whoever has an SLO waits for one action at most: as if each SLO were so much shorter.

    The same requests are run alone, with SLOs shorter by the longest best-effort batch: that bounds
    from below what may be kept beside a flood, whatever models the flood is for. Half a percent is
    left for chance: the two runs make different choices.
    """
    asked = stream(rate_rps, (0, 1, 2, 3), SLO_NS)
    flood = stream(2000, models, None)
    beside = World(scenario(asked, flood, seed=seed)).run().tally
    hastier = attrs.evolve(asked, slo_ns=SLO_NS - LONGEST_MS * MS)
    alone = World(scenario(hastier, seed=seed)).run().tally

    assert beside.requests == alone.requests
    assert beside.kept >= alone.kept - 0.005 * alone.requests
    assert beside.broken.total() <= alone.broken.total()


def test_gaps_are_used(seed):
    """Best effort gets what is left of the device: with little else asked for, most of it."""
    journal = World(scenario(stream(20, (0,), SLO_NS), stream(2000, (4, 5), None), seed=seed)).run()
    answered = journal.tally.best_effort

    assert answered[End.KEPT] + answered[End.REFUSED] == sum(answered.values())
    assert answered[End.KEPT] > 1000
    assert journal.infer_busy_ns > 0.8 * SECONDS * SECOND


def test_every_request_is_answered_when_executors_die(seed):
    """What was lost with an executor is run by another one."""
    world = attrs.evolve(scenario(stream(50, (4, 5), None), seed=seed), executors=2)
    fault = Fault(kind=FaultKind.DIE, at_ns=SECOND, on=0, for_ns=SECOND)
    tally = World(attrs.evolve(world, faults=(fault,)), validate_every=20).run().tally

    assert set(tally.best_effort) == {End.KEPT}
