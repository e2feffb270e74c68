"""Several controllers in the simulated world: all invariants hold in each, whatever dies."""

import attrs
import pytest

from cw.sim.cells import RULES
from cw.sim.report import make_report
from cw.sim.world import World
from tests.simulation.scenarios import check_sums, scenario

pytestmark = pytest.mark.simulation


def run_cells(text, **changed):
    """Run a scenario in cells, with the scheduler's own audit."""
    world = World(attrs.evolve(scenario(text), **changed), validate_every=50)
    world.run()
    return world, make_report(world.scenario, world.journal)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_the_books_of_two_cells(rule):
    """Two schedulers that know nothing of each other must not answer a request twice, or never."""
    _, report = run_cells(
        "--rate 900 --seconds 2 --executors 4 --models 12 --gateways 2", cells=2, cell_rule=rule
    )

    check_sums(report)
    assert report.broken == 0
    assert report.kept > 0.95 * report.requests


@pytest.mark.parametrize("number", range(1, 6))
def test_deaths_in_one_cell_break_no_invariant(number):
    """Executors die, stall and come back; each belongs to its own controller again."""
    world, report = run_cells(
        f"--seed {number} --rate 600 --seconds 2 --executors 4 --models 9 --faults random:3",
        cells=2,
    )

    check_sums(report)
    homes = {executor.name: set() for executor in world.executors.values()}
    for executor in world.executors.values():
        homes[executor.name].add(id(executor.controller))
    assert all(len(controllers) == 1 for controllers in homes.values())


def test_both_cells_serve_one_model_that_is_too_much_for_either():
    """Home alone would leave half of the devices idle."""
    text = "--rate 3500 --seconds 2 --executors 2 --models 1 --slo 100ms"
    _, spilled = run_cells(text, cells=2)
    _, stuck = run_cells(text, cells=2, cell_rule="home")

    assert spilled.kept > 1.5 * stuck.kept
