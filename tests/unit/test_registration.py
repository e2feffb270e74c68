"""Registration: nothing is promised of what was not measured, and nobody is kept out for ever."""

import attrs
import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.books import Stage
from cw.core.commands import AnnounceModel, SendAction
from cw.core.events import ActionDone, ExecutorJoined, ModelAdded, ModelRemoved, TimerFired
from cw.core.registration import GAP_PATIENCE_NS, GAP_POLL_NS, RETRIES, STAGES
from cw.core.scheduler import Scheduler
from cw.units import MS, SECOND
from tests.unit.scheduler_world import CPU_MS, World, device, spec


def sent(world, kind):
    return [
        command.action
        for command in world.commands
        if isinstance(command, SendAction) and isinstance(command.action, kind)
    ]


def test_a_new_program_is_prepared_loaded_and_probed():
    """Twelve measured runs of each batch size after two thrown away, then it is announced."""
    world = World(models=1)
    world.register()
    probes = sent(world, m.Infer)

    assert len(sent(world, m.Prepare)) == len(sent(world, m.Load)) == 1
    assert [probe.batch_size for probe in probes] == [s for s in CPU_MS for _ in range(14)]
    status = world.scheduler.model_status(world.specs[0].model_id, now_ns=world.now_ns)
    assert status.state is m.ModelState.READY
    assert [entry.samples for entry in status.profile] == [12] * 4
    assert status.steps_done == status.steps_total


def test_new_weights_of_a_warm_program_need_only_the_prepare():
    """A thousand weight sets of one architecture are measured once."""
    world = World(models=3)
    world.register()

    assert len(sent(world, m.Prepare)) == 3
    assert len(sent(world, m.Infer)) == 4 * 14


def test_the_second_executor_of_a_kind_only_warms_up():
    """The profile is known; only caches and allocators have to settle."""
    world = World(models=1)
    world.register()
    world.commands.clear()
    world.feed(ExecutorJoined(executor_id=m.ExecutorId(9), name="second", device=device(pages=10)))
    world.run_until(world.now_ns + 5 * SECOND)

    assert len(sent(world, m.Infer)) == 4 * 2
    place = world.scheduler.books.executors[m.ExecutorId(9)].places[world.specs[0].model_id]
    assert place.stage is Stage.READY


def test_a_model_that_cannot_be_prepared_fails_with_the_reason():
    """Its owner needs to read why, and requests must be told at once."""
    world = World(models=0)
    model = spec(0)
    world.feed(ModelAdded(spec=model))
    (prepare,) = sent(world, m.Prepare)
    world.feed(
        ActionDone(
            executor_id=m.ExecutorId(1),
            result=m.ActionResult(
                action_id=prepare.action_id,
                outcome=m.Outcome.INVALID,
                received_ns=0,
                ready_ns=0,
                start_ns=0,
                end_ns=0,
                device_ns=0,
                detail="operator frobnicate is unknown",
            ),
        )
    )
    status = world.scheduler.model_status(model.model_id, now_ns=world.now_ns)

    assert status.state is m.ModelState.FAILED
    assert "frobnicate" in status.detail


@pytest.mark.parametrize(
    ("outcome", "asked"), [(m.Outcome.HOST_MEMORY_FULL, 2), (m.Outcome.INVALID, 1)]
)
def test_a_model_without_room_is_prepared_elsewhere(outcome, asked):
    """One executor's full memory says nothing of another's; a program that is wrong is so there."""
    world = World(models=0, executors=2, settings=SchedulerSettings(places_per_model=1))
    model = spec(0)
    world.feed(ModelAdded(spec=model))
    (prepare,) = sent(world, m.Prepare)
    refused = m.ActionResult(
        action_id=prepare.action_id,
        outcome=outcome,
        received_ns=0,
        ready_ns=0,
        start_ns=0,
        end_ns=0,
        device_ns=0,
        detail="expected 1 MiB of host memory",
    )
    world.feed(ActionDone(executor_id=m.ExecutorId(1), result=refused))
    prepares = sent(world, m.Prepare)
    assert len(prepares) == asked

    if asked > 1:
        second = attrs.evolve(refused, action_id=prepares[-1].action_id)
        world.feed(ActionDone(executor_id=m.ExecutorId(2), result=second))
    status = world.scheduler.model_status(model.model_id, now_ns=world.now_ns)
    assert len(sent(world, m.Prepare)) == asked
    assert status.state is m.ModelState.FAILED
    assert "1 MiB of host memory" in status.detail


def test_a_model_larger_than_the_device_fails():
    """It would wait for pages for ever."""
    world = World(models=1, pages=2, image_bytes=3 * (16 << 20))
    world.run_until(5 * SECOND)
    status = world.scheduler.model_status(world.specs[0].model_id, now_ns=world.now_ns)

    assert status.state is m.ModelState.FAILED
    assert "3 pages" in status.detail


def test_a_steady_load_does_not_keep_a_model_out():
    """Without a gap made for it, a busy executor would never take a new model."""
    world = World(models=1, settings=SchedulerSettings(probes_measured=2))
    world.register()
    second = spec(1, program="another")
    world.specs.append(second)
    world.at(world.now_ns + 100 * MS, world.feed, ModelAdded(spec=second))
    world.offer(150, 4, 100 * MS, weights=[1, 0])

    assert second.model_id in world.ready
    assert world.outcomes.broken_promises == 0


def test_after_a_while_without_a_gap_one_is_made():
    """What is planned comes first, but a lane that is never free must be made free."""
    world = World(models=1)
    world.register()
    (executor,) = world.scheduler.books.executors.values()
    (place,) = executor.places.values()
    registrar, begin_ns = world.scheduler.registrar, world.now_ns
    world.scheduler.dispatcher.prepare(place, SECOND, begin_ns)  # something long
    world.scheduler.handle(ModelAdded(spec=spec(1)), now_ns=begin_ns)
    assert registrar.advance(executor, now_ns=begin_ns) == begin_ns + GAP_POLL_NS
    assert not executor.quiescing

    late_ns = begin_ns + GAP_PATIENCE_NS + 1
    assert registrar.advance(executor, now_ns=late_ns) == late_ns + GAP_POLL_NS
    assert executor.quiescing

    executor.infer.outstanding.clear()
    executor.infer.ended_ns = late_ns
    assert registrar.advance(executor, now_ns=late_ns + MS) is None
    assert not executor.quiescing
    assert executor.bring_up[0].stage is Stage.PREPARING


def test_probes_break_no_promise():
    """Registering a model is no excuse: its probes fit into gaps or wait."""
    world = World(models=2, settings=SchedulerSettings(probes_measured=4))
    world.register()
    late = spec(2, program="another")
    world.specs.append(late)
    world.at(world.now_ns + 50 * MS, world.feed, ModelAdded(spec=late))
    world.offer(100, 3, 60 * MS, weights=[1, 1, 0])

    assert world.outcomes.kept > 150
    assert world.outcomes.broken_promises == 0


def test_a_model_removed_while_it_is_registered_is_forgotten():
    """Its PREPARE may be on its way: the executor must be told to drop what comes of it."""
    world = World(models=1)
    world.feed(ModelRemoved(model_id=world.specs[0].model_id))
    world.run_until(5 * SECOND)

    assert not world.scheduler.books.models
    assert [unload.forget for unload in sent(world, m.Unload)] == [True]


def test_ready_is_announced_once():
    """Gateways open their doors by it."""
    world = World(models=1, executors=2)
    world.register()
    world.run_until(world.now_ns + 5 * SECOND)
    announced = [each for each in world.commands if isinstance(each, AnnounceModel)]

    assert [each.ready for each in announced] == [True]


@pytest.mark.parametrize("shared", [False, True])
def test_a_new_model_is_loaded_while_there_are_idle_pages(shared):
    """Or its first request is a cold one, which a tight SLO does not bear."""
    world = World(models=5, shared=shared, pages=3 * spec(0).pages)
    world.register()
    world.run_until(world.now_ns + SECOND)
    books = world.scheduler.books

    assert sum(bool(model.serving) for model in books.models.values()) == 3
    assert not sent(world, m.Unload)


class Slowly:
    """One executor and one model, brought up answer by answer."""

    def __init__(self):
        self.scheduler = Scheduler(
            SchedulerSettings(probes_measured=1), epoch=m.Epoch(1), ticket_seed=1
        )
        self.now_ns = 0
        joined = ExecutorJoined(executor_id=m.ExecutorId(1), name="one", device=device())
        (self.action,) = self.step(joined, ModelAdded(spec=spec(0)))

    def step(self, *events):
        commands = self.scheduler.handle(*events, now_ns=self.now_ns)
        self.scheduler.validate()
        return [command.action for command in commands if isinstance(command, SendAction)]

    def answer(self, outcome=m.Outcome.OK):
        """Answer the last action; return the kind of the next."""
        start_ns, self.now_ns = self.now_ns, self.now_ns + 5 * MS
        result = m.ActionResult(
            action_id=self.action.action_id,
            outcome=outcome,
            received_ns=start_ns,
            ready_ns=start_ns,
            start_ns=start_ns,
            end_ns=self.now_ns,
            device_ns=5 * MS,
            running_ns=5 * MS,
        )
        actions = self.step(ActionDone(executor_id=m.ExecutorId(1), result=result))
        while not actions:
            self.now_ns = self.scheduler.wake_at_ns
            actions = self.step(TimerFired())
        self.action = actions[-1]
        return type(self.action)


def test_a_probe_that_found_no_weights_has_them_loaded_again():
    """An executor may lose pages; the model is not broken by that."""
    slowly = Slowly()
    assert slowly.answer() is m.Load
    assert slowly.answer() is m.Infer
    assert slowly.answer(m.Outcome.NOT_RESIDENT) is m.Load
    assert slowly.answer() is m.Infer


def test_a_probe_that_found_no_model_has_it_prepared_again():
    """An executor may have been replaced by one that never heard of the model."""
    slowly = Slowly()
    assert slowly.answer() is m.Load
    assert slowly.answer() is m.Infer
    assert slowly.answer(m.Outcome.UNKNOWN_MODEL) is m.Prepare
    assert slowly.answer() is m.Load


def test_a_prepare_that_came_too_late_is_sent_again():
    """A stalled executor is no fault of the model's."""
    slowly = Slowly()
    assert slowly.answer(m.Outcome.TOO_LATE) is m.Prepare
    assert slowly.answer() is m.Load


def test_a_model_waits_for_pages_that_promised_work_holds():
    """Its probes can wait; what was promised can not."""
    world = World(models=1, pages=1)
    world.register()
    (executor,) = world.scheduler.books.executors.values()
    (place,) = executor.places.values()
    place.in_flight += 1
    other = spec(1, program="another")
    world.feed(ModelAdded(spec=other))
    world.run_until(world.now_ns + SECOND)
    assert executor.places[other.model_id].stage is Stage.PREPARED
    place.in_flight -= 1
    world.specs.append(other)
    world.run_until(world.now_ns + 5 * SECOND)

    assert executor.places[other.model_id].stage is Stage.READY


def test_a_measurement_that_did_not_run_ends_the_doubt():
    """The lane has other work, which teaches as well."""
    world = World(models=1)
    world.register()
    (model,) = world.scheduler.books.models.values()
    (place,) = model.places.values()
    world.commands.clear()
    world.now_ns += 2 * SECOND
    world.scheduler.books.doubtful[model.model_id] = model
    (send,) = world.scheduler.handle(TimerFired(), now_ns=world.now_ns)
    result = m.ActionResult(
        action_id=send.action.action_id,
        outcome=m.Outcome.TOO_LATE,
        received_ns=0,
        ready_ns=0,
        start_ns=0,
        end_ns=0,
        device_ns=0,
    )
    world.feed(ActionDone(executor_id=m.ExecutorId(1), result=result))

    assert not place.probes
    assert not sent(world, m.Infer)


def test_a_model_whose_probes_never_run_fails_with_the_reason():
    """It would be probed for ever, and its owner never told."""
    slowly = Slowly()
    assert slowly.answer() is m.Load
    assert slowly.answer() is m.Infer
    for _ in range(RETRIES):
        assert slowly.answer(m.Outcome.TOO_LATE) is m.Infer
    result = m.ActionResult(
        action_id=slowly.action.action_id,
        outcome=m.Outcome.TOO_LATE,
        received_ns=0,
        ready_ns=0,
        start_ns=0,
        end_ns=0,
        device_ns=0,
    )
    slowly.step(ActionDone(executor_id=m.ExecutorId(1), result=result))
    (model,) = slowly.scheduler.books.models.values()

    assert model.state is m.ModelState.FAILED
    assert "tooLate" in model.detail


def test_the_result_of_a_probe_that_nobody_waits_for_changes_nothing():
    """Its executor forgot the model meanwhile: what it measured before says nothing of now."""
    slowly = Slowly()
    assert slowly.answer() is m.Load
    assert slowly.answer() is m.Infer
    (model,) = slowly.scheduler.books.models.values()
    (place,) = model.places.values()
    probe = slowly.action
    slowly.scheduler.registrar.again(place)
    slowly.scheduler.registrar.on_result(
        place,
        probe,
        m.ActionResult(
            action_id=probe.action_id,
            outcome=m.Outcome.OK,
            received_ns=0,
            ready_ns=0,
            start_ns=0,
            end_ns=0,
            device_ns=0,
        ),
        now_ns=slowly.now_ns,
    )

    assert place.stage is Stage.NEW
    assert not place.probes_done


def test_a_place_that_failed_stays_failed():
    """The reason that was told first is the one that helps."""
    world = World(models=1)
    world.register()
    (model,) = world.scheduler.books.models.values()
    (place,) = model.places.values()
    place.stage = Stage.FAILED
    world.scheduler.registrar.fail(place, "once more")
    stale = ActionDone(
        executor_id=m.ExecutorId(1),
        result=m.ActionResult(
            action_id=m.ActionId(10**6),
            outcome=m.Outcome.OK,
            received_ns=0,
            ready_ns=0,
            start_ns=0,
            end_ns=0,
            device_ns=0,
        ),
    )
    world.feed(stale)

    assert model.state is m.ModelState.FAILED
    assert model.detail == "once more"


def test_every_stage_has_its_row():
    """The table is the whole lifecycle: a stage without a row would be illegal to leave."""
    assert set(STAGES) == set(Stage)
