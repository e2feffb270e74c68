"""Admission: a refusal comes at once, for the true reason, and says when it could have been."""

import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import Decide
from cw.core.events import ExecutorLost, ModelAdded, ModelRemoved, RequestArrived
from cw.units import MS
from tests.unit.scheduler_world import World, descriptor, spec

EARLY = SchedulerSettings(hold_ratio=0.25)


def ready(**changes):
    world = World(**{"models": 1, "noise": 0.0, **changes})
    world.register()
    world.commands.clear()
    return world


def ask(world, slo_ms, *, model=None, number=1000, **changes):
    """Let one request arrive and return the decisions on it."""
    described = descriptor(
        number, model or world.specs[0], world.now_ns, int(slo_ms * MS), **changes
    )
    commands = world.scheduler.handle(RequestArrived(descriptor=described), now_ns=world.now_ns)
    return [each.decision for each in commands if isinstance(each, Decide)]


def test_a_possible_request_is_promised_at_once():
    """An idle device has no reason to make anyone wait for the word."""
    world = ready()
    (decision,) = ask(world, 50)

    assert isinstance(decision, m.Assign)
    assert decision.predicted_finish_ns <= world.now_ns + 50 * MS


def test_what_no_device_could_do_is_refused_with_the_time_it_takes():
    """The caller learns how much longer it has to allow."""
    world = ready()
    (decision,) = ask(world, 3)

    assert decision.refusal.reason is m.RefusalReason.DEADLINE_TOO_SHORT
    assert decision.refusal.earliest_finish_ns >= world.now_ns + int(4.7 * MS)
    assert "3.00 ms were allowed" in decision.refusal.message


def test_behind_a_full_plan_the_refusal_says_so():
    """Overload is not the caller's mistake: it may go elsewhere, or ask later."""
    world = ready(settings=EARLY)
    refusals = []
    for number in range(200):
        decisions = ask(world, 30, number=number)
        refusals += [each.refusal for each in decisions if isinstance(each, m.Refuse)]
    world.scheduler.validate()
    world.now_ns += 8 * MS
    for command in world.scheduler.handle(now_ns=world.now_ns):
        if isinstance(command, Decide) and isinstance(command.decision, m.Refuse):
            refusals.append(command.decision.refusal)

    assert refusals
    assert {refusal.reason for refusal in refusals} == {m.RefusalReason.OVERLOAD}
    assert all(refusal.earliest_finish_ns > world.now_ns for refusal in refusals)


def test_cold_weights_count_with_their_load():
    """A promise that forgets the LOAD is broken before it is made."""
    # One of both fits; a LOAD takes 10 ms.
    world = ready(settings=EARLY, image_bytes=123_000_000, pages=8, models=2)
    cold = next(
        each for each in world.specs if not world.scheduler.books.models[each.model_id].serving
    )
    (decision,) = ask(world, 12, model=cold)

    assert decision.refusal.reason is m.RefusalReason.COLD
    assert decision.refusal.earliest_finish_ns >= world.now_ns + int(14.7 * MS)

    (decision,) = ask(world, 60, model=cold, number=2)
    assert isinstance(decision, m.Promise)
    assert decision.predicted_finish_ns >= world.now_ns + int(14.7 * MS)


def test_a_model_in_registration_is_not_ready():
    """Its durations are unknown, so nothing can be promised."""
    world = ready()
    model = spec(7, program="another")
    world.specs.append(model)
    world.feed(ModelAdded(spec=model))
    (decision,) = ask(world, 50, model=model)

    assert decision.refusal.reason is m.RefusalReason.NOT_READY


def test_without_an_executor_there_is_a_refusal_not_silence():
    """The client must be free to go elsewhere at once."""
    world = ready()
    world.feed(ExecutorLost(executor_id=m.ExecutorId(1)))
    (decision,) = ask(world, 50)

    assert decision.refusal.reason is m.RefusalReason.NO_EXECUTOR


def test_an_unknown_or_removed_model_is_an_error():
    """No time or capacity would help: the caller mends its request."""
    world = ready()
    (decision,) = ask(world, 50, model=spec(8))
    assert decision.failure.kind is m.FailureKind.UNKNOWN_MODEL

    world.feed(ModelRemoved(model_id=world.specs[0].model_id))
    (decision,) = ask(world, 50, number=2)
    assert decision.failure.kind is m.FailureKind.UNKNOWN_MODEL


@pytest.mark.parametrize("policy", ["default", "clockwork"])
def test_queues_are_bounded(policy):
    """A flood must end in refusals, not in memory."""
    world = ready(
        settings=SchedulerSettings(policy=policy, max_queue_per_model=3, probes_measured=2)
    )
    seen = []
    for number in range(400):
        seen += ask(world, 40, number=number)
    waiting = world.scheduler.books.waiting_count

    assert waiting <= 3
    assert any("bounds: 3" in each.refusal.message for each in seen if isinstance(each, m.Refuse))


def test_a_held_request_is_decided_within_its_share_of_the_slo():
    """A refusal late in the SLO leaves the caller no time to go elsewhere."""
    world = ready(settings=EARLY, models=4)
    decided = {}
    original = world.decide

    def remember(decision):
        if isinstance(decision, m.Assign):
            for each in decision.assignments:
                decided.setdefault(each.request_id, world.now_ns)
        else:
            decided.setdefault(decision.request_id, world.now_ns)
        original(decision)

    world.decide = remember
    arrived = {}
    request = world.request
    world.request = lambda *given: arrived.setdefault((made := request(*given)).request_id, made)
    world.offer(900, 1, 40 * MS)

    assert world.outcomes.refused
    assert set(decided) == set(arrived)
    slowest = max(decided[each] - arrived[each].arrival_ns for each in arrived)
    assert slowest <= 10 * MS + 1 * MS  # a quarter of the SLO; the way to the controller
