"""Many small worlds, each unlike the others: no invariant breaks in any of them."""

import pytest

from cw.sim.report import make_report
from tests.simulation.drawn import WORLDS_PER_SEED, world_text
from tests.simulation.scenarios import check_sums, run

pytestmark = pytest.mark.simulation


@pytest.mark.parametrize("part", range(5))
def test_no_invariant_breaks_in_any_world(part, seed):
    """What nobody thought of: most of the scheduler's mistakes were first met in such a world."""
    each = WORLDS_PER_SEED // 5
    first = seed * WORLDS_PER_SEED + part * each
    for number in range(first, first + each):
        world = run(world_text(number), validate_every=25)
        check_sums(make_report(world.scenario, world.journal))


def test_worlds_differ_and_repeat_themselves():
    """A hundred runs of one world would prove little; a world that changes can't be had again."""
    texts = [world_text(number) for number in range(WORLDS_PER_SEED)]

    assert len(set(texts)) == WORLDS_PER_SEED
    assert texts == [world_text(number) for number in range(WORLDS_PER_SEED)]
    assert sum("--faults" in text for text in texts) > WORLDS_PER_SEED // 2
