"""Best effort: who waits in which line, what is a gap, and what it may cost the others."""

import attrs
import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.events import ModelRemoved, RequestArrived
from cw.units import MS, SECOND
from tests.unit.scheduler_desk import Desk, of, sole
from tests.unit.scheduler_world import descriptor


def best_effort(desk, *, model=0, tenant=0, gateway=1):
    """Ask without an SLO."""
    desk.number += 1
    described = attrs.evolve(
        descriptor(
            desk.number, desk.world.specs[model], desk.now_ns, 0, gateway=gateway, tenant=tenant
        ),
        deadline_ns=m.NO_DEADLINE_NS,
    )
    return described, desk.step(RequestArrived(descriptor=described))


def riders(infer):
    """Say who rides."""
    return [slot.request_id for slot in infer.slots]


def test_an_idle_lane_runs_it_at_once():
    """Nobody else wants the time."""
    desk = Desk()
    described, commands = best_effort(desk)
    infer = sole(commands, m.Infer)

    assert riders(infer) == [described.request_id]
    assert infer.window.latest_ns <= infer.planned_start_ns + 2 * MS  # the lane waits for nobody
    assert infer.slots[0].deadline_ns < desk.now_ns + 10 * SECOND  # so its output is not kept on

    desk.answer(m.ExecutorId(1), infer)
    desk.settle(described)
    status = desk.scheduler.status(desk.now_ns)

    assert (status.best_effort.requests, status.best_effort.kept) == (1, 1)
    assert status.ledger == m.Ledger()


def test_a_request_with_an_slo_goes_first():
    """Those in line wait until nobody with an SLO wants the lane."""
    desk = Desk()
    running = sole(best_effort(desk)[1], m.Infer)
    waits, none = best_effort(desk)
    urgent, _ = desk.ask(slo_ms=50.0, model=1)
    commands = desk.answer(m.ExecutorId(1), running)

    assert not of(none, m.Infer)
    assert riders(of(commands, m.Infer)[0]) == [urgent.request_id]
    assert waits.request_id in desk.scheduler.books.requests


def test_free_seats_are_given_away():
    """Three with an SLO run as four: the fourth seat costs nothing."""
    desk = Desk()
    running = sole(desk.ask(model=1)[1], m.Infer)
    asked = [desk.ask()[0] for _ in range(3)]
    waits = [best_effort(desk, gateway=gateway)[0] for gateway in (2, 1, 1)]
    infer = sole(desk.answer(m.ExecutorId(1), running), m.Infer)

    assert infer.batch_size == 4
    assert set(riders(infer)) == {each.request_id for each in (*asked, waits[1])}


def test_a_full_line_refuses():
    """The answer says how many wait, and what the bounds are."""
    settings = SchedulerSettings(max_best_effort_per_line=2, max_best_effort_total=3)
    desk = Desk(settings=settings)
    best_effort(desk)  # runs
    for tenant in (0, 0, 1):
        best_effort(desk, tenant=tenant)
    own = sole(best_effort(desk, tenant=0)[1], m.Refuse).refusal
    all_in_all = sole(best_effort(desk, tenant=2)[1], m.Refuse).refusal

    assert own.reason is all_in_all.reason is m.RefusalReason.QUEUE_FULL
    assert "2 best-effort requests of this tenant" in own.message
    assert "3 in all (bounds: 2 and 3)" in all_in_all.message


def test_tenants_take_turns():
    """A long line of one tenant does not keep another's only request waiting."""
    settings = SchedulerSettings(best_effort_longest_ns=5 * MS)  # one to a batch
    desk = Desk(settings=settings)
    infer = sole(best_effort(desk, tenant=1)[1], m.Infer)
    for _ in range(5):
        best_effort(desk, tenant=1)
    quiet, _ = best_effort(desk, tenant=2)
    following = sole(desk.answer(m.ExecutorId(1), infer), m.Infer)

    assert riders(following) == [quiet.request_id]


def test_its_batches_are_bounded_in_time():
    """Who comes with an SLO waits for no more than `best_effort_longest`."""
    desk = Desk(settings=SchedulerSettings(best_effort_longest_ns=6 * MS))
    infer = sole(best_effort(desk)[1], m.Infer)
    for _ in range(8):
        best_effort(desk)
    following = sole(desk.answer(m.ExecutorId(1), infer), m.Infer)

    assert following.batch_size == 2  # four take 6.4 ms


def test_a_failed_attempt_waits_again_and_in_the_end_fails():
    """It may be the reason why attempts fail."""
    desk = Desk()
    described, commands = best_effort(desk)
    for _ in range(5):
        infer = sole(commands, m.Infer)
        commands = desk.answer(m.ExecutorId(1), infer, m.Outcome.INPUTS_LATE, ms=0)
    failure = sole(commands, m.Abandon)

    assert failure.request_id == described.request_id
    assert "given up after 5 attempts" in failure.failure.message
    assert desk.scheduler.tally.broken.total() == 0


def test_who_cancels_leaves_the_line():
    """Its place is free for another."""
    desk = Desk()
    best_effort(desk)
    waits, _ = best_effort(desk)
    desk.step(m.Cancel(request_id=waits.request_id, attempt=m.Attempt(1)))

    assert desk.scheduler.best_effort.count == 0
    assert desk.scheduler.status(desk.now_ns).best_effort.failed == (("cancelled", 1),)


def test_a_removed_model_refuses_those_in_line():
    """What runs still ends."""
    desk = Desk()
    best_effort(desk)
    waits, _ = best_effort(desk)
    commands = desk.step(ModelRemoved(model_id=desk.world.specs[0].model_id))

    assert sole(commands, m.Refuse).request_id == waits.request_id


@pytest.mark.parametrize(("asked_lately", "loads"), [(False, True), (True, False)])
def test_a_cold_model_takes_only_idle_pages(asked_lately, loads):
    """Not those of a model that somebody with an SLO asks for."""
    desk = Desk(pages=1)
    (executor,) = desk.scheduler.books.executors.values()
    warm = next(each for each in executor.places.values() if each.serves)
    cold = next(
        index for index, spec in enumerate(desk.world.specs) if spec.model_id != warm.model.model_id
    )
    if asked_lately:
        warm.model.rate.count(now_ns=desk.now_ns)
    _, commands = best_effort(desk, model=cold)

    assert bool(of(commands, m.Load)) == loads
