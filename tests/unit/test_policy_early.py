"""When the word is given: at arrival, within a share of the SLO, or when it is sent."""

import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import Decide
from cw.core.events import ExecutorLost
from cw.core.policies import composing
from cw.core.policies.default import DefaultPolicy
from cw.core.residency import Residency
from cw.units import MS, US
from tests.unit.late_desks import teach_near
from tests.unit.policy_bench import Bench
from tests.unit.scheduler_desk import Desk, of, sole
from tests.unit.scheduler_world import World, zipf

FIRST = m.ExecutorId(1)
MARGIN_NS = 1 * MS
DECISIONS = (m.Promise, m.Assign, m.Refuse, m.Abandon)


def desk_of(hold_ratio=1.0, **changes):
    """Make a desk whose executors are known to be near: an action starts as soon as it is sent."""
    desk = Desk(settings=SchedulerSettings(hold_ratio=hold_ratio), **changes)
    for executor_id in desk.scheduler.books.executors:
        teach_near(desk, executor_id)
    return desk


def hopeless_from_ns(desk, described):
    """Say from when on a request is late even on an idle lane."""
    books = desk.scheduler.books
    (place,) = books.models[described.model_id].places.values()
    pipe = place.executor.pipe
    alone_ns = place.costs.by_count[1] + pipe.delay_ns + pipe.overhead_ns
    return described.deadline_ns - books.allowance_ns - alone_ns


def by_request(world):
    """Say when which word was given first about each request of a world."""
    words = {}
    original = world.decide

    def remember(decision):
        if isinstance(decision, m.Assign):
            for each in decision.assignments:
                words.setdefault(each.request_id, (world.now_ns, decision))
        else:
            words.setdefault(decision.request_id, (world.now_ns, decision))
        original(decision)

    world.decide = remember
    return words


# --- nothing early: the default -------------------------------------------------------------------


def test_who_must_wait_is_told_nothing_until_it_is_sent():
    """A promise that is given with the assignment is broken by nothing but the device."""
    desk = desk_of()
    _, commands = desk.ask(500)
    action = sole(commands, m.Infer)
    waiting, commands = desk.ask(500)
    assert not of(commands, DECISIONS)
    commands = desk.answer(FIRST, action)

    assert [each.request_id for each in sole(commands, m.Assign).assignments] == [
        waiting.request_id
    ]
    assert not of(commands, m.Promise)


def test_who_waits_is_refused_when_it_is_past_hope_and_not_before():
    """Until then its company may be given up, or end early; after that it may go elsewhere."""
    desk = desk_of()
    _, commands = desk.ask(500)
    running = sole(commands, m.Infer)
    described, _ = desk.ask(13)
    for _ in range(4):  # denser, so that they go first, and there is no time for both
        desk.ask(13, model=1)
    commands = desk.answer(FIRST, running)
    assert len(sole(commands, m.Assign).assignments) == 4
    hopeless_ns = hopeless_from_ns(desk, described)
    desk.now_ns = hopeless_ns - 1
    assert not of(desk.step(), DECISIONS)
    assert desk.scheduler.wake_at_ns == hopeless_ns
    desk.now_ns = hopeless_ns
    refusal = sole(desk.step(), m.Refuse).refusal

    assert refusal.reason is m.RefusalReason.OVERLOAD
    assert refusal.earliest_finish_ns > described.deadline_ns


def test_who_waits_for_weights_is_refused_when_it_is_past_hope():
    """A model that is nowhere loaded must not hold its callers until the deadline, in vain."""
    bench = Bench()
    policy, request = DefaultPolicy(bench.books), bench.request(40)
    assert policy.hold_until_ns(request) == 36 * MS
    bench.place().residency = Residency.COLD
    bench.place().stop_serving()
    assert policy.hold_until_ns(request) == 36 * MS
    bench.models[0].places.clear()

    assert policy.hold_until_ns(request) == request.deadline_ns


def test_who_waits_a_moment_before_is_still_served():
    """What makes it worth to hold somebody that long: here the lane is free 10 us before."""
    desk = desk_of()
    _, commands = desk.ask(500)
    action = sole(commands, m.Infer)
    described, _ = desk.ask(20)
    hold_ns = desk.scheduler.books.requests[described.request_id].hold_until_ns
    sent_ms = (hold_ns - 10 * US - desk.now_ns) / MS
    commands = desk.answer(FIRST, action, ms=sent_ms)

    assert sole(commands, m.Assign).predicted_finish_ns <= described.deadline_ns


def test_what_is_hopeless_at_arrival_is_refused_at_arrival():
    """The lane is taken for longer than it has: no need to wait for what is known."""
    desk = desk_of()
    desk.ask(500)
    described, commands = desk.ask(9)

    refusal = sole(commands, m.Refuse).refusal
    assert refusal.earliest_finish_ns > described.deadline_ns


@pytest.mark.parametrize("hold_ratio", [1.0, 0.25, 0.0])
def test_every_refusal_under_overload_is_true_and_in_time(hold_ratio):
    """It comes while there is time for another device, and names an instant after the deadline."""
    settings = SchedulerSettings(hold_ratio=hold_ratio)
    world = World(models=4, settings=settings, noise=0.0)
    world.register()
    words = by_request(world)
    arrived = {}
    request = world.request
    world.request = lambda *given: arrived.setdefault((made := request(*given)).request_id, made)
    world.offer(1800, 1, 40 * MS, weights=zipf(4))
    refusals = {key: word for key, word in words.items() if isinstance(word[1], m.Refuse)}

    assert set(words) == set(arrived)
    assert len(refusals) > 200
    assert world.outcomes.broken_promises == 0
    for request_id, (at_ns, decision) in refusals.items():
        described = arrived[request_id]
        assert at_ns <= described.arrival_ns + max(hold_ratio * 40 * MS, MS) + MS
        assert at_ns <= described.deadline_ns - MARGIN_NS - int(4.7 * MS)
        if hold_ratio == 1.0:  # what is refused early might find a place, but costs others theirs
            assert decision.refusal.earliest_finish_ns >= described.deadline_ns


# --- early words ----------------------------------------------------------------------------------


def test_at_a_hold_of_nothing_everybody_is_told_at_once():
    """Whoever asks a second server next must not wait for the word of the first."""
    desk = desk_of(0.0)
    told = [of(desk.ask(40)[1], DECISIONS) for _ in range(60)]

    assert all(told)
    assert any(isinstance(each, m.Promise) for decisions in told for each in decisions)
    assert any(isinstance(each, m.Refuse) for decisions in told for each in decisions)
    assert not desk.scheduler.books.waiting


@pytest.mark.parametrize("hold_ratio", [0.05, 0.25, 0.5])
def test_everybody_is_told_within_the_hold(hold_ratio):
    """That is what the setting is: how long a caller waits for the word."""
    desk = desk_of(hold_ratio)
    held = {}
    told = {}
    for number in range(40):
        described, commands = desk.ask(80, model=number % 2)
        held[described.request_id] = desk.now_ns + int(hold_ratio * 80 * MS)
        while True:
            for each in of(commands, DECISIONS):
                names = getattr(each, "assignments", [each])
                told |= {name.request_id: desk.now_ns for name in names if name not in told}
            wake_ns = desk.scheduler.wake_at_ns
            if wake_ns is None or wake_ns > desk.now_ns + MS:
                break
            desk.now_ns = wake_ns
            commands = desk.step()
        desk.now_ns += MS

    due = {each for each, until_ns in held.items() if until_ns < desk.now_ns}
    assert due
    assert due <= set(told)


def test_a_promise_of_a_lost_executor_joins_another_batch_where_that_hurts_nobody():
    """Its new place is the soonest that there is, in a batch or in one of its own."""
    desk = desk_of(0.25, executors=2)
    for _ in range(12):
        desk.ask(90)
    planned = {
        executor_id: [each for batch in executor.plan.batches for each in batch.requests]
        for executor_id, executor in desk.scheduler.books.executors.items()
    }
    lost = next(key for key, riders in planned.items() if riders)
    moved = planned[lost]
    desk.step(ExecutorLost(executor_id=lost))

    assert moved
    assert all(each.batch is not None or each.committed is not None for each in moved)


def test_a_promise_of_another_reign_is_kept_whoever_is_hurt():
    """The gateway resubmits what was promised: it is planned even where there is no room."""
    desk = desk_of(0.25)
    for _ in range(30):
        desk.ask(30)
    described, commands = desk.ask(9, promised=True)

    assert sole(commands, m.Promise).request_id == described.request_id


# --- who rides in the end -------------------------------------------------------------------------


def test_those_who_are_held_fill_a_batch_up_as_far_as_promises_allow():
    """1 promised and 5 held: with 4 it takes 7 ms, with 5 it would take 10 and be late."""
    for due_ms, rides in ((40, 5), (9, 3), (4.5, 0)):
        bench = Bench()
        batch = bench.promise(due_ms)
        bench.executor.plan.take(batch)
        bench.wait(*[50] * 5)

        assert len(composing.fill_up(batch, 0, 0)) == rides, due_ms


def test_nobody_fills_a_batch_up_at_the_cost_of_the_next():
    """The batch behind it has 3 ms to spare: 4 take as much longer than 1, 5 do not."""
    bench = Bench()
    batch = bench.promise(40)
    bench.executor.plan.take(batch)
    bench.promise(17, count=8)
    bench.wait(*[50] * 5)

    assert len(composing.fill_up(batch, 0, 0)) == 3


def test_a_full_batch_takes_nobody_more():
    """Eight is all that is captured."""
    bench = Bench()
    batch = bench.promise(40, count=6)
    bench.executor.plan.take(batch)
    bench.wait(*[50] * 5)

    assert len(composing.fill_up(batch, 0, 0)) == 2


def test_the_ninth_of_a_badly_padded_batch_is_left_behind():
    """5 run as 8 do, in 10 ms; 4 and then 1 take 11 with padding, but 9 where these are cheap."""
    cheap = {1: 2, 4: 7, 8: 10}
    bench = Bench(cheap)
    batch = bench.promise(40, count=5)
    bench.executor.plan.take(batch)
    bench.place().batches.remove(batch)
    fit = composing.split_off(batch, 0, 0)

    assert fit is not None
    assert fit.batch is None
    assert fit.finish_ns == 9 * MS
    batch.requests[4].due_ns = 8 * MS
    assert composing.split_off(batch, 0, 0) is None


def test_decisions_are_told_to_gateways_only():
    """A policy sends nothing by itself: each word is a `Decide` of the step."""
    desk = desk_of(0.25)
    _, commands = desk.ask(90)
    _, more = desk.ask(90)

    told = [each.decision for each in commands + more if isinstance(each, Decide)]
    assert {each.request_id for each in told if isinstance(each, m.Promise)} <= set(
        desk.scheduler.books.requests
    )
