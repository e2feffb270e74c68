"""Cold models on shared lanes: a LOAD stands among the batches, at what it costs the lane."""

from cw import messages as m
from cw.core.commands import SendAction
from cw.core.policies.cold import cold_candidates
from cw.messages import ModelId
from cw.units import MS
from tests.unit.scheduler_desk import Desk, of
from tests.unit.scheduler_world import World, zipf

MODEL_PAGES = 3
IMAGE_BYTES = 3 * (16 << 20)


class ColdDesk(Desk):
    """Two models on a device that has room for one, with one lane for all; the first is warm."""

    def __init__(self, **changes):
        super().__init__(
            shared=True, pages=MODEL_PAGES, image_bytes=IMAGE_BYTES, models=2, **changes
        )

    def warm_everywhere(self):
        """Keep what registration has loaded."""


def busy_desk():
    """Make a desk whose lane runs a batch of its warm model; return the model and the batch."""
    desk = ColdDesk()
    [executor] = desk.scheduler.books.executors.values()
    [warm] = [place.model.model_id for place in executor.places.values() if place.serves]
    [warm_index] = [n for n, spec in enumerate(desk.world.specs) if spec.model_id == warm]
    _, commands = desk.ask(1000, model=warm_index)
    [action] = of(commands, m.Infer)
    return desk, warm_index, action


def test_a_cold_models_batch_costs_its_load_as_well():
    """Or it would push out batches that serve as many in half the time."""
    desk, warm_index, _ = busy_desk()
    desk.ask(200, model=1 - warm_index)
    books = desk.scheduler.books
    [executor] = books.executors.values()
    [candidate] = cold_candidates(books, executor, allowance_ns=0, now_ns=desk.now_ns)
    load_ns = books.profiles.load_ns(executor.device, IMAGE_BYTES)

    assert candidate.count == 1
    assert candidate.cost_ns >= load_ns + candidate.place.costs.by_count[1]


def test_the_more_urgent_of_a_load_and_a_batch_goes_first():
    """Neither starves the other: both stand in one order, by when they are due."""
    for cold_slo_ms, warm_slo_ms, first in ((60, 400, m.Load), (400, 60, m.Infer)):
        desk, warm_index, action = busy_desk()
        desk.ask(cold_slo_ms, model=1 - warm_index)
        desk.ask(warm_slo_ms, model=warm_index)
        commands = desk.answer(1, action)
        sent = [
            command.action
            for command in commands
            if isinstance(command, SendAction) and not isinstance(command.action, m.Unload)
        ]

        assert isinstance(sent[0], first), (cold_slo_ms, sent)


def test_swapping_on_one_lane_keeps_nearly_all():
    """Twelve models through room for four, at two thirds of what the lane can do."""
    world = World(
        models=12, pages=4 * MODEL_PAGES, image_bytes=IMAGE_BYTES, shared=True, validate=True
    )
    world.register()
    world.commands.clear()
    world.offer(60, 5, 200 * MS, weights=zipf(12, 0.9))
    asked = world.outcomes.kept + world.outcomes.refused.total()

    assert world.outcomes.kept > 0.95 * asked
    assert world.outcomes.broken_promises == 0


def test_what_is_warm_by_now_is_no_longer_waited_for():
    """Its batch stands among the others already; twice would count it double."""
    desk = ColdDesk()
    books = desk.scheduler.books
    [executor] = books.executors.values()
    executor.wanted.update({each.model.model_id: each for each in executor.places.values()})

    assert cold_candidates(books, executor, allowance_ns=0, now_ns=desk.now_ns) == []
    assert dict[ModelId, object]() == executor.wanted
