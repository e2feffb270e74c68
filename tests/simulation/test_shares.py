"""Tenants' shares in whole runs: what is said of neighbours that are loud, and that are not."""

import pytest

from cw.config import SchedulerSettings
from cw.devices.profile_file import read_profile
from cw.sim.checkers import InvariantBroken, ShareRule
from cw.sim.scenario import Scenario, SimModel
from cw.sim.world import World
from cw.units import MS, SECOND
from cw.workload.arrivals import Uniform, parse_arrivals
from cw.workload.streams import OpenLoop
from cw.workload.workload import Workload
from tests.simulation.drawn import POLICIES

pytestmark = pytest.mark.simulation

SLO_NS = 100 * MS
LONGEST_BATCH_NS = 20 * MS
HALF_EACH = ShareRule(weights={0: 1, 1: 1}, slack_ns=LONGEST_BATCH_NS + 5 * MS, at_least=0.9)


def stream(rate_rps, models):
    return OpenLoop(
        arrivals=parse_arrivals("poisson", rate_rps=float(rate_rps)),
        popularity=Uniform(),
        models=models,
        slo_ns=SLO_NS,
    )


def two_tenants(*, policy, flood_rps, seed=1):
    """Tenant 0 asks for 0.22 of a V100 in batches of one; tenant 1 asks for `flood_rps`."""
    return Scenario(
        profile=read_profile("v100"),
        models=tuple(SimModel(name=f"model-{n}", tenant=int(n >= 2)) for n in range(6)),
        workload=Workload(streams=(stream(80, (0, 1)), stream(flood_rps, (2, 3, 4, 5)))),
        slo_ns=SLO_NS,
        duration_ns=3 * SECOND,
        seed=seed,
        settings=SchedulerSettings(policy=policy),
        shares=HALF_EACH,
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("flood_rps", [1, 100])
def test_where_there_is_room_for_all_everybody_gets_a_share(policy, flood_rps, seed):
    """Else the checker asks for what cannot be had, and its verdicts are worth nothing."""
    World(two_tenants(policy=policy, flood_rps=flood_rps, seed=seed)).run()


def test_a_flood_that_takes_anothers_share_is_caught():
    """Clockwork's policy knows of no tenants: a threefold load drowns the neighbour's."""
    with pytest.raises(InvariantBroken, match=r"tenant 0 asked for .* within its share"):
        World(two_tenants(policy="clockwork", flood_rps=2000)).run()
