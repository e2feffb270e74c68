"""Every policy in the simulated world: under faults no invariant breaks, without noise no promise.

`default` and `clockwork` have tests of their own beside these; the references must not be able to
win a comparison by doing what must never happen.
"""

import pytest

from cw.core.policies import POLICIES
from cw.sim.journal import End
from cw.sim.report import make_report
from tests.simulation.scenarios import QUIET, check_sums, run

pytestmark = pytest.mark.simulation

REFERENCES = [name for name in POLICIES if name != "default"]


@pytest.mark.parametrize("policy", REFERENCES)
@pytest.mark.parametrize("profile", ["v100", "cpu-resnet18"])
def test_under_faults_every_request_gets_one_answer(policy, profile, seed):
    """All checkers watch, with LOADs in short supply, on two lanes and on one."""
    world = run(
        f"--policy {policy} --seed {seed} --profile {profile} --rate 600 --seconds 2 --models 12 "
        "--executors 2 --gateways 2 --pages 60 --faults random:4"
    )

    check_sums(make_report(world.scenario, world.journal))


@pytest.mark.parametrize("policy", REFERENCES)
def test_without_noise_nothing_promised_is_late(policy, seed):
    """They promise by the same estimates as the default policy, and must be as honest."""
    world = run(
        f"--policy {policy} --seed {seed} --profile v100 --rate 900 --seconds 2 --models 15 "
        f"--slo 50ms {QUIET}"
    )
    broken = [one for one in world.journal.requests.values() if one.end is End.BROKEN]

    assert not broken


@pytest.mark.parametrize("hold_ratio", [0.05, 0.25, 1.0])
def test_the_death_of_an_executor_breaks_no_promise_of_the_others(hold_ratio, seed):
    """Those who lost their place find another only where that costs no other promise its own."""
    world = run(
        f"--seed {seed} --profile v100 --executors 3 --models 12 --rate 2400 --seconds 2 "
        f"--slo 50ms --set hold_ratio={hold_ratio} --faults die@1s:on=1:for=1s"
    )

    check_sums(make_report(world.scenario, world.journal))
