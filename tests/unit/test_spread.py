"""Spread: each model is known on enough executors to be safe, and on few enough to be cheap."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.books import Stage
from cw.core.commands import SendAction
from cw.core.events import ActionDone, ExecutorJoined, ExecutorLost, ModelAdded, ModelRemoved
from cw.core.residency import Residency
from cw.core.scheduler import Scheduler
from cw.units import MS, SECOND
from tests.unit.scheduler_world import CPU_MS, World, device, spec


def settings(places, **changes):
    return SchedulerSettings(places_per_model=places, probes_measured=2, **changes)


def cluster(places, *, executors=0, models=0, kinds=("one",)):
    """A scheduler whose executors never answer: what it would like to place where."""
    scheduler = Scheduler(settings(places), epoch=m.Epoch(1), ticket_seed=1)
    for number in range(executors):
        join(scheduler, number + 1, kind=kinds[number % len(kinds)])
    for index in range(models):
        scheduler.handle(ModelAdded(spec=spec(index)), now_ns=0)
    return scheduler


def join(scheduler, number, *, kind="one", prepared=(), now_ns=0):
    event = ExecutorJoined(
        executor_id=m.ExecutorId(number),
        name=f"executor-{number}",
        device=device(name=kind),
        prepared=tuple(prepared),
    )
    return scheduler.handle(event, now_ns=now_ns)


def counts(scheduler):
    """How many places each executor has, and each model."""
    books = scheduler.books
    return (
        [len(executor.places) for executor in books.executors.values()],
        [len(model.places) for model in books.models.values()],
    )


def known_on(scheduler, index):
    return set(scheduler.books.models[spec(index).model_id].places)


def test_a_model_is_known_on_a_bounded_number_of_executors_evenly():
    """40,000 models on 1,000 executors would be 40 million places, and as many PREPAREs."""
    scheduler = cluster(3, executors=8, models=16)
    on_executors, of_models = counts(scheduler)

    assert on_executors == [6] * 8
    assert of_models == [3] * 16
    scheduler.validate()


def test_where_executors_are_few_each_knows_every_model():
    """The bound is no reason to leave an executor of a small cluster out."""
    assert counts(cluster(16, executors=3, models=4)) == ([4] * 3, [3] * 4)


@pytest.mark.parametrize("models_first", [False, True])
def test_each_kind_of_device_knows_each_model(models_first):
    """A kind that never measured a model could not be planned for when the others are full."""
    kinds = ("one", "two", "three")
    scheduler = cluster(2, executors=0 if models_first else 6, models=5, kinds=kinds)
    for number in range(6 if models_first else 0):
        join(scheduler, number + 1, kind=kinds[number % 3])
    for model in scheduler.books.models.values():
        devices = [place.executor.device.name for place in model.places.values()]
        assert sorted(devices) == sorted(kinds)
    scheduler.validate()


def test_the_order_of_coming_makes_no_difference():
    """After a restart models come first and executors one by one: the first must not keep all."""
    scheduler = cluster(2, models=20)
    for number in range(10):
        join(scheduler, number + 1)
    on_executors, of_models = counts(scheduler)

    assert of_models == [2] * 20
    assert max(on_executors) <= 2 * min(on_executors)
    scheduler.validate()


def test_a_newcomer_takes_its_share_and_the_others_let_go_once_it_is_ready():
    """Moving a place must never leave its model with fewer executors than it had."""
    world = World(models=12, executors=3, settings=settings(2), validate=True)
    world.register()
    world.run_until(world.now_ns + 5 * SECOND)
    world.commands.clear()
    world.feed(ExecutorJoined(executor_id=m.ExecutorId(9), name="new", device=device()))
    assert sum(counts(world.scheduler)[1]) == 24 + 6  # until it has them ready, so have the others
    world.run_until(world.now_ns + 30 * SECOND)
    on_executors, of_models = counts(world.scheduler)

    assert on_executors == [6] * 4
    assert of_models == [2] * 12
    forgotten = [
        command.action
        for command in world.commands
        if isinstance(command, SendAction) and isinstance(command.action, m.Unload)
    ]
    assert [unload.forget for unload in forgotten] == [True] * 6


def test_a_newcomer_takes_nothing_that_is_at_work():
    """Its own PREPARE would be for nothing: the other place can't be given up."""
    scheduler = cluster(1, executors=2, models=6)
    for executor in scheduler.books.executors.values():
        for place in executor.places.values():
            place.residency = Residency.LOADING
    join(scheduler, 3)

    assert counts(scheduler)[0] == [3, 3, 0]


def test_a_lost_executor_is_made_up_for_elsewhere():
    """Each loss takes replicas away; without refilling, the last one takes the model."""
    world = World(models=8, executors=4, settings=settings(2), validate=True)
    world.register()
    world.run_until(world.now_ns + 5 * SECOND)
    world.feed(ExecutorLost(executor_id=m.ExecutorId(1)))
    assert counts(world.scheduler)[1] == [2] * 8
    world.run_until(world.now_ns + 30 * SECOND)

    for model in world.scheduler.books.models.values():
        assert [place.stage for place in model.places.values()] == [Stage.READY] * 2


def test_those_that_are_asked_for_are_made_up_for_first():
    """An executor brings up one place at a time: whoever is waited for must not stand behind."""
    world = World(models=9, executors=2, settings=settings(1))
    world.register()
    world.run_until(world.now_ns + 5 * SECOND)
    lost = next(iter(world.scheduler.books.executors.values()))
    popular = list(lost.places.values())[-1].model
    popular.popularity.use(now_ns=world.now_ns)
    world.feed(ExecutorLost(executor_id=lost.executor_id))
    (left,) = world.scheduler.books.executors.values()

    assert left.bring_up[0].model is popular


def test_what_an_executor_has_prepared_already_is_known_there():
    """After a controller's restart a PREPARE of every model would take minutes of lane time."""
    scheduler = cluster(2)
    for number in range(6):
        join(scheduler, number + 1, prepared=[spec(number % 3).model_id])
    for index in range(3):
        scheduler.handle(ModelAdded(spec=spec(index)), now_ns=0)
        assert known_on(scheduler, index) == {m.ExecutorId(index + 1), m.ExecutorId(index + 4)}
    scheduler.validate()


def test_what_returns_with_models_prepared_takes_them_back():
    """A cut connection is no reason to prepare elsewhere what is still prepared here."""
    scheduler = cluster(2, executors=4, models=8)
    before = {place.model.model_id for place in scheduler.books.executors[2].places.values()}
    scheduler.handle(ExecutorLost(executor_id=m.ExecutorId(2)), now_ns=0)
    join(scheduler, 12, prepared=before | {m.ModelId(77)})

    assert before <= set(scheduler.books.executors[12].places)
    assert counts(scheduler)[1] == [2] * 8
    scheduler.validate()
    scheduler.handle(ExecutorLost(executor_id=m.ExecutorId(12)), now_ns=0)
    scheduler.validate()


def test_more_than_enough_prepared_is_forgotten_in_time():
    """Every extension lets go of some of what is too much elsewhere, so that nothing piles up."""
    world = World(models=3, executors=0, settings=settings(1))
    ids = [model.model_id for model in world.specs]
    for number in (1, 2, 3):
        join(world.scheduler, number, prepared=ids)
    spread = world.scheduler.registrar.spread
    # The first is being loaded everywhere, to be probed; the others went as they came.
    assert counts(world.scheduler)[1] == [3, 1, 1]
    model = world.scheduler.books.models[ids[1]]
    for executor in world.scheduler.books.executors.values():
        if executor.executor_id not in model.places:
            world.scheduler.registrar.place_model(model, executor)
    for place in model.places.values():
        place.stage = Stage.READY
    spread.trim_some()

    assert len(model.places) == 1
    world.scheduler.validate()


def test_a_place_in_use_is_not_given_up_however_many_there_are():
    """Weights that serve stay: only what is prepared and cold costs nothing to forget."""
    world = World(models=1, executors=3, settings=settings(3))
    world.register()
    world.run_until(world.now_ns + 5 * SECOND)
    (model,) = world.scheduler.books.models.values()
    for place in model.places.values():
        if place.residency is Residency.COLD:
            world.scheduler.dispatcher.load(place, world.now_ns)
    world.scheduler.books.settings = settings(1)
    world.scheduler.registrar.spread.trim(model)

    assert len(model.places) == 3


def answer(scheduler, executor_id, action, outcome):
    result = m.ActionResult(
        action_id=action.action_id,
        outcome=outcome,
        received_ns=0,
        ready_ns=0,
        start_ns=0,
        end_ns=0,
        device_ns=0,
        detail="unknown operator",
    )
    return scheduler.handle(ActionDone(executor_id=executor_id, result=result), now_ns=0)


def prepares(commands):
    return [
        (command.executor_id, command.action)
        for command in commands
        if isinstance(command, SendAction) and isinstance(command.action, m.Prepare)
    ]


def test_what_fails_on_one_kind_of_device_is_tried_on_another():
    """A thousand small devices should not all be asked to prepare what is too large for them."""
    scheduler = cluster(2, executors=8, kinds=("small", "small", "small", "large"))
    todo = prepares(scheduler.handle(ModelAdded(spec=spec(0)), now_ns=0))
    asked = []
    while todo:
        executor_id, action = todo.pop()
        asked.append(executor_id)
        small = scheduler.books.executors[executor_id].device.name == "small"
        outcome = m.Outcome.INVALID if small else m.Outcome.OK
        todo += prepares(answer(scheduler, executor_id, action, outcome))

    assert {4, 8} <= set(asked)
    assert len(asked) == 3
    scheduler.validate()


def test_a_model_that_fails_everywhere_is_not_tried_everywhere():
    """A broken program must not visit every executor of a large cluster."""
    scheduler = cluster(2, executors=20)
    todo = prepares(scheduler.handle(ModelAdded(spec=spec(0)), now_ns=0))
    asked = 0
    while todo:
        executor_id, action = todo.pop()
        asked += 1
        todo += prepares(answer(scheduler, executor_id, action, m.Outcome.INVALID))

    assert asked == 2
    assert scheduler.books.models[spec(0).model_id].state is m.ModelState.FAILED


def test_a_forgotten_model_leaves_no_trace():
    """Models come and go for years; an index that keeps them is a leak."""
    scheduler = cluster(2, executors=5, models=3)
    for index in range(3):
        scheduler.handle(ModelRemoved(model_id=spec(index).model_id), now_ns=0)
    # Their PREPAREs are on their way: only then is nothing left of them.
    for executor in list(scheduler.books.executors.values()):
        for committed in list(executor.infer.outstanding.values()):
            answer(scheduler, executor.executor_id, committed.action, m.Outcome.OK)

    assert not scheduler.books.models
    assert counts(scheduler) == ([0] * 5, [])
    scheduler.validate()


def test_demand_makes_a_model_known_where_there_is_room():
    """One model suddenly at three executors' worth: its one executor must not be all it gets."""
    world = World(models=4, executors=4, settings=settings(1), durations_ms=CPU_MS)
    world.register()
    world.run_until(world.now_ns + 5 * SECOND)
    arrivals = world.offer(2400, 3, 50 * MS, weights=[1, 0, 0, 0])
    model = world.scheduler.books.models[world.specs[0].model_id]

    assert len(model.serving) >= 3
    assert world.outcomes.kept > 0.75 * len(arrivals)  # one executor can do 1,039/s: 43 %
    assert world.outcomes.broken_promises == 0
    world.scheduler.validate()


def test_no_second_extension_while_one_is_on_its_way():
    """A PREPARE takes time: asking for more meanwhile would prepare the model everywhere."""
    scheduler = cluster(1, executors=6, models=1)
    model = scheduler.books.models[spec(0).model_id]
    assert scheduler.registrar.spread.choose_roomy(model, 0) is None
    for place in model.places.values():
        place.stage = Stage.READY
    scheduler.registrar.extend(model, now_ns=0)
    assert len(model.places) == 2
    scheduler.registrar.extend(model, now_ns=0)
    assert len(model.places) == 2


def test_a_removed_model_is_not_extended():
    """Its last promised requests need no new executor; one would have to forget it again."""
    scheduler = cluster(1, executors=6, models=1)
    model = scheduler.books.models[spec(0).model_id]
    model.removed = True
    scheduler.registrar.extend(model, now_ns=0)

    assert len(model.places) == 1


def test_an_executor_without_room_is_not_chosen():
    """A PREPARE on a busy executor would be paid for by the models it serves."""
    scheduler = cluster(1, executors=2, models=1)
    model = scheduler.books.models[spec(0).model_id]
    for place in model.places.values():
        place.stage = Stage.READY
    for executor in scheduler.books.executors.values():
        executor.bring_up.clear()
        executor.quiescing = True

    assert scheduler.registrar.spread.choose_roomy(model, 0) is None
    scheduler.registrar.extend(model, now_ns=0)
    assert len(model.places) == 1


STEPS = st.lists(
    st.tuples(st.sampled_from("jjlaardx"), st.integers(0, 7), st.sampled_from(["one", "two"])),
    max_size=40,
)


@given(STEPS, st.integers(1, 3))
def test_whatever_comes_and_goes_the_indexes_stay_in_step(steps, places):
    """A wrong count sends every later model to the same executor, unseen."""
    scheduler, numbers = cluster(places), itertools.count(1)
    for what, index, kind in steps:
        executors = list(scheduler.books.executors.values())
        match what:
            case "j":
                join(scheduler, next(numbers), kind=kind, prepared=[spec(index).model_id])
            case "l" if executors:
                executor = executors[index % len(executors)]
                scheduler.handle(ExecutorLost(executor_id=executor.executor_id), now_ns=0)
            case "a":
                scheduler.handle(ModelAdded(spec=spec(index)), now_ns=0)
            case "r":
                scheduler.handle(ModelRemoved(model_id=spec(index).model_id), now_ns=0)
            case "d" | "x" if executors:
                executor = executors[index % len(executors)]
                outcome = m.Outcome.OK if what == "d" else m.Outcome.INVALID
                for committed in list(executor.infer.outstanding.values()):
                    answer(scheduler, executor.executor_id, committed.action, outcome)
            case _:
                pass
        scheduler.validate()
        kinds = {executor.key for executor in scheduler.books.executors.values()}
        for model in scheduler.books.models.values():
            known = list(model.places.values())
            if model.removed or any(place.stage is Stage.FAILED for place in known):
                continue
            assert {place.executor.key for place in known} == kinds
            assert len(known) >= min(places, len(scheduler.books.executors))
