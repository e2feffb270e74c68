"""Membership: nothing asked for is lost by a coming or going."""

from cw import messages as m
from cw.core.events import ExecutorJoined, ExecutorLost, ModelAdded, ModelRemoved
from cw.units import MS, SECOND
from tests.unit.scheduler_desk import Desk
from tests.unit.scheduler_world import World, device


def test_who_asked_before_a_removal_is_served():
    """A model is switched for its next version under load: nobody need notice."""
    world = World(models=1)
    world.register()
    asked = [world.request(world.specs[0], 200 * MS) for _ in range(40)]
    world.run_until(world.now_ns + MS)
    world.feed(ModelRemoved(model_id=world.specs[0].model_id))
    late = world.request(world.specs[0], 200 * MS)
    world.run_until(world.now_ns + SECOND)

    assert world.outcomes.kept == len(asked)
    assert late.request_id not in world.finished
    assert not world.scheduler.books.models


def test_an_executor_that_joins_twice_is_one_executor():
    """A repeated word must not forget what the first one runs."""
    world = World(models=1)
    world.register()
    before = world.scheduler.books.executors[m.ExecutorId(1)]
    world.feed(ExecutorJoined(executor_id=m.ExecutorId(1), name="again", device=device()))

    assert world.scheduler.books.executors[m.ExecutorId(1)] is before


def test_a_model_is_forgotten_once():
    """Its name may be taken again in the same step: the new one must not go with the old."""
    world = World(models=1)
    world.register()
    (model,) = world.scheduler.books.models.values()
    world.feed(ModelRemoved(model_id=model.model_id), ModelAdded(spec=model.spec))
    (again,) = world.scheduler.books.models.values()
    world.scheduler.membership.forget_if_done(model)

    assert again is not model
    assert list(world.scheduler.books.models.values()) == [again]


def test_a_removed_model_goes_with_the_executor_that_ran_its_last_work():
    """Nothing of it is left then, and nobody else would notice."""
    desk = Desk(models=1, executors=1)
    described, _ = desk.ask(slo_ms=50.0)
    desk.step(ModelRemoved(model_id=described.model_id))
    assert desk.scheduler.books.models
    desk.step(ExecutorLost(executor_id=m.ExecutorId(1)))
    desk.step(m.Cancel(request_id=described.request_id, attempt=m.Attempt(1)))

    assert not desk.scheduler.books.models


def test_one_of_six_executors_dies_and_only_its_own_requests_may_break():
    """What the others promised is none of its business, and cold models find weights elsewhere."""
    world = World(models=60, executors=6, pages=8)
    world.register()
    world.run_until(world.now_ns + 20 * SECOND)
    lost = m.ExecutorId(3)
    died_ns = world.now_ns + SECOND

    def die():
        world.silent.add(lost)
        world.feed(ExecutorLost(executor_id=lost))

    world.at(died_ns, die)
    arrivals = world.offer(300, 3, 100 * MS)

    assert world.outcomes.kept > 0.97 * len(arrivals)
    assert world.outcomes.broken_promises <= 4  # an INFER takes 4.7 ms: few were on their way
    world.scheduler.validate()
