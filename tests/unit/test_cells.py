"""Which cell takes a request: home, unless home is clearly the busier one."""

from collections import Counter

import pytest

from cw.core.cells import SPILL_REQUESTS, CellLoad, choose_cells, home_order
from cw.messages import ModelId

MODEL = ModelId(77)


def loads(*open_requests, executors=1, cells=None):
    """Give cells with so many open requests each."""
    return [
        CellLoad(cell=cell, open_requests=count, executors=executors)
        for cell, count in zip(cells or range(len(open_requests)), open_requests, strict=True)
    ]


@pytest.mark.parametrize("cells", [2, 3, 8])
def test_cells_are_home_to_equal_parts_of_the_models(cells):
    """An uneven deal would fill one cell's devices while another idles."""
    homes = Counter(home_order(ModelId(model), cells)[0] for model in range(1000 * cells))

    assert set(homes) == set(range(cells))
    assert all(abs(count - 1000) < 150 for count in homes.values()), homes


def test_most_models_stay_at_home_when_a_cell_is_added():
    """Otherwise a new cell would have all weights loaded anew everywhere."""
    before = [home_order(ModelId(model), 2)[0] for model in range(3000)]
    after = [home_order(ModelId(model), 3)[0] for model in range(3000)]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]

    assert set(moved) == {2}
    assert len(moved) < 1200


def test_level_cells_leave_a_model_at_home():
    """Its requests fill each other's batches there, and its weights lie there."""
    home, other = home_order(MODEL, 2)

    assert choose_cells(MODEL, loads(5, 5), cells=2) == [home, other]


def test_small_difference_is_not_worth_leaving():
    """A batch that forms at home looks like load; it is none that another cell could take."""
    home, other = home_order(MODEL, 2)
    open_requests = [0, 0]
    open_requests[home] = int(SPILL_REQUESTS)

    assert choose_cells(MODEL, loads(*open_requests), cells=2) == [home, other]


def test_busy_home_spills_to_the_least_busy_cell():
    """A model that everybody asks for must be able to use all devices there are."""
    order = home_order(MODEL, 3)
    open_requests = {order[0]: 40, order[1]: 20, order[2]: 3}
    given = loads(*(open_requests[cell] for cell in range(3)))

    assert choose_cells(MODEL, given, cells=3) == [order[2], order[0], order[1]]


def test_load_counts_per_executor():
    """A cell with ten times the executors is not busy with twice the requests."""
    home, other = home_order(MODEL, 2)
    given = [
        CellLoad(cell=home, open_requests=20, executors=10),
        CellLoad(cell=other, open_requests=10, executors=1),
    ]

    assert choose_cells(MODEL, given, cells=2)[0] == home


def test_cell_without_executors_comes_last():
    """Its controller would only refuse; it may just have restarted."""
    home, other = home_order(MODEL, 2)
    given = [
        CellLoad(cell=home, open_requests=0, executors=0),
        CellLoad(cell=other, open_requests=50, executors=1),
    ]

    assert choose_cells(MODEL, given, cells=2) == [other, home]


def test_cell_that_is_gone_is_not_chosen():
    """Only what can be reached and holds the model is given; the rest is no choice."""
    _, other = home_order(MODEL, 2)

    assert choose_cells(MODEL, loads(99, cells=[other]), cells=2) == [other]
    assert choose_cells(MODEL, [], cells=2) == []
