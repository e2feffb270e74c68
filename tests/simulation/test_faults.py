"""Faults: what breaks is what was hit, everything is answered, and what comes back serves again."""

import pytest

from cw.errors import ConfigError
from cw.sim.faults import FaultKind, draw_faults, parse_faults
from cw.sim.journal import End
from cw.sim.report import make_report
from cw.units import MS, SECOND
from tests.simulation.scenarios import QUIET, check_sums, run

pytestmark = pytest.mark.simulation

TWO = "--executors 2 --rate 250 --seconds 3 --slo 60ms --models 8"


@pytest.mark.parametrize("policy", ["default", "clockwork"])
def test_whatever_goes_wrong_every_request_gets_one_answer(policy, seed):
    """The one test that looks everywhere: all invariants, under faults drawn from the seed."""
    world = run(
        f"--policy {policy} --seed {seed} --rate 600 --seconds 3 --models 12 --executors 2 "
        "--gateways 2 --pages 20 --faults random:4"
    )

    check_sums(make_report(world.scenario, world.journal))


def test_a_death_breaks_only_what_was_on_the_dead_executor(seed):
    """The others' promises stand: a fault's damage ends at the fault."""
    world = run(f"{TWO} --seed {seed} {QUIET} --faults die@1500ms:on=1")
    died_ns = world.begin_ns + 1500 * MS
    noticed_ns = died_ns + world.scenario.detection_ns
    broken = [one for one in world.journal.requests.values() if one.end is End.BROKEN]

    assert len(broken) <= 16  # two batches of eight are at most in flight
    for record in broken:
        assert record.arrival_ns <= noticed_ns
        assert record.deadline_ns >= died_ns
        assert set(record.executors) <= {"executor-0", "executor-1"}
        assert "executor-1" in record.executors


def test_after_a_death_the_other_executor_goes_on(seed):
    """Half of the cluster is half of the goodput, not none."""
    world = run(f"{TWO} --seed {seed} {QUIET} --faults die@1s:on=0")
    late = [
        one
        for one in world.journal.requests.values()
        if one.arrival_ns > world.begin_ns + 2 * SECOND
    ]
    kept = [one for one in late if one.end is End.KEPT]

    assert len(kept) > 0.5 * len(late) > 50
    assert {one.executors[-1] for one in kept} == {"executor-1"}


def test_a_returned_executor_serves_again(seed):
    """A restart must not need anybody's help."""
    world = run(f"{TWO} --seed {seed} --rate 400 --faults die@500ms:on=0:for=200ms")
    after_ns = world.begin_ns + 2500 * MS
    late = [one for one in world.journal.requests.values() if one.arrival_ns > after_ns]

    assert "executor-0" in {one.executors[-1] for one in late if one.executors}
    assert len(world.controller.core.status(world.engine.now_ns).executors) == 2


def test_a_silent_executor_is_given_up_and_keeps_its_weights(seed):
    """A process that was stopped for too long joins anew with what it still has in memory."""
    world = run(f"{TWO} --seed {seed} --rate 100 --faults stall@200ms:on=1:for=1200ms")
    again = max(world.executors.values(), key=lambda executor: executor.executor_id)

    assert again.name == "executor-1"
    assert again.executor_id == 3
    assert again.pages_of


def test_a_dead_gateway_takes_its_own_requests_only(seed):
    """Its clients lost their connections; the others' clients must not notice."""
    world = run(f"{TWO} --seed {seed} {QUIET} --gateways 2 --faults gateway@1s:on=1")
    reasons = {one.reason for one in world.journal.requests.values() if one.end is End.BROKEN}

    assert reasons <= {"gatewayLost"}


def test_a_slow_network_is_survived(seed):
    """Promises made on the old delay may break; once it is measured, new ones hold."""
    world = run(f"{TWO} --seed {seed} --faults lag@500ms:by=4ms")
    after_ns = world.begin_ns + 2 * SECOND
    late = [one for one in world.journal.requests.values() if one.arrival_ns > after_ns]

    assert sum(one.end is End.BROKEN for one in late) <= 0.02 * len(late)
    assert sum(one.end is End.KEPT for one in late) > 0.8 * len(late)


# --- how faults are written -----------------------------------------------------------------------


def parse(text):
    return parse_faults(text, seed=1, duration_ns=10 * SECOND, executors=4, gateways=2)


@pytest.mark.parametrize("seed_of_faults", range(5))
def test_what_is_drawn_can_be_written_and_read(seed_of_faults):
    """A random run that failed is repeated, and cut down, by writing its faults out."""
    drawn = draw_faults(20, seed=seed_of_faults, duration_ns=10 * SECOND, executors=4, gateways=2)

    assert list(parse(",".join(map(str, drawn)))) == drawn
    assert sum(fault.kind is FaultKind.GATEWAY for fault in drawn) <= 1


@pytest.mark.parametrize(
    "text",
    [
        "die",
        "die@soon",
        "melt@5s",
        "die@5s:on=x",
        "die@5s:how=now",
        "die@5s:on=4",
        "stall@5s",
        "lag@5s",
        "random:few",
    ],
)
def test_what_cannot_be_read_says_what_was_expected(text):
    """A fault that silently does not happen makes a test pass for nothing."""
    with pytest.raises(ConfigError, match=r"expected|needs"):
        parse(text)
