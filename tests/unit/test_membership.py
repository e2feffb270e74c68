"""Membership: nothing promised is lost by a coming or going, and nothing held is left hanging."""

from cw import messages as m
from cw.core.events import ExecutorJoined, ExecutorLost, ModelAdded, ModelRemoved
from cw.units import MS, SECOND
from tests.unit.scheduler_desk import Desk, of
from tests.unit.scheduler_world import World, device


def test_who_is_held_for_a_removed_model_is_refused():
    """Nobody will serve it any more: its caller should hear that at once, not at the deadline."""
    desk = Desk(models=1, executors=1)
    asked = [desk.ask(slo_ms=20.0)[0] for _ in range(40)]
    (model,) = desk.scheduler.books.models.values()
    held = {request.request_id for request in model.queue}
    assert held
    refused = of(desk.step(ModelRemoved(model_id=model.model_id)), m.Refuse)

    assert {each.request_id for each in refused} == held
    assert {each.refusal.reason for each in refused} == {m.RefusalReason.NOT_READY}
    assert len(held) < len(asked)  # those that were promised finish
    assert model.model_id in desk.scheduler.books.models


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
