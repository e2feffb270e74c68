"""Checkers catch what they watch for, and nothing else; and they forget what is over."""

import attrs
import pytest

from cw.errors import ConfigError
from cw.messages import (
    Abandon,
    Assign,
    Assignment,
    Failure,
    FailureKind,
    Infer,
    Promise,
    Refusal,
    RefusalReason,
    Refuse,
    Slot,
    Unload,
    Window,
)
from cw.sim.checkers import Checker, Checkers, InvariantBroken, ShareRule
from cw.sim.checkers.answers import OneAnswer
from cw.sim.checkers.decisions import DecisionsStand
from cw.sim.checkers.lanes import LanesAreSerial
from cw.sim.checkers.losses import NothingOfTheLost
from cw.sim.checkers.pages import PagesSuffice
from cw.sim.checkers.promises import PromisesHold
from cw.sim.checkers.shares import SharesHonoured
from cw.sim.checkers.windows import WindowsHold
from cw.sim.engine import Engine
from cw.sim.journal import End, RequestRecord
from cw.units import MS, SECOND


@attrs.define(eq=False)
class FakeProfile:
    pages_total: int = 4


@attrs.define(eq=False)
class FakeSpec:
    pages: int = 2


@attrs.define(eq=False)
class FakeWorld:
    profile: FakeProfile = attrs.field(factory=FakeProfile)
    engine: Engine = attrs.field(factory=Engine)


@attrs.define(eq=False)
class FakeExecutor:
    executor_id: int = 1
    name: str = "executor-0"
    world: FakeWorld = attrs.field(factory=FakeWorld)
    models: dict = attrs.field(factory=lambda: {7: FakeSpec()})


@attrs.define(eq=False)
class FakeLane:
    name: str = "infer"


@attrs.define(eq=False)
class FakePending:
    action: Infer
    model_id: int = 7


def infer(action_id=1, *, slots=(), batch_size=1, latest_ns=20):
    return Infer(
        action_id=action_id,
        model_id=7,
        batch_size=batch_size,
        slots=tuple(Slot(request_id=n, attempt=1, deadline_ns=9) for n in slots),
        ticket=1,
        expected_ns=5,
        window=Window(earliest_ns=10, latest_ns=latest_ns),
    )


def record(request_id=1, **changes):
    values = {"model": 0, "arrival_ns": 0, "deadline_ns": 50, **changes}
    return RequestRecord(request_id=request_id, **values)


def answer(checker, one, end=End.KEPT, *, at_ns=None, reason=""):
    one.end, one.reason = end, reason
    one.ended_ns = one.deadline_ns if at_ns is None else at_ns
    checker.answered(one)


def refusal(reason=RefusalReason.OVERLOAD, earliest_ns=60):
    told = Refusal(reason=reason, earliest_finish_ns=earliest_ns)
    return Refuse(request_id=1, attempt=1, refusal=told)


PROMISE = Promise(request_id=1, attempt=1, predicted_finish_ns=40)
ABANDON = Abandon(request_id=1, attempt=1, failure=Failure(kind=FailureKind.INTERNAL))


def assign(attempt=1, executor_id=1):
    return Assign(
        epoch=1,
        action_id=1,
        ticket=1,
        executor_id=executor_id,
        predicted_finish_ns=40,
        assignments=(Assignment(request_id=1, attempt=attempt, position=0),),
    )


# --- answers and decisions ------------------------------------------------------------------------


def test_a_second_answer_and_a_missing_one_are_caught():
    """Exactly one answer: neither two, nor none."""
    checker, one = OneAnswer(), record()
    checker.arrived(one)
    with pytest.raises(InvariantBroken, match="without an answer"):
        checker.finish()
    answer(checker, one)
    checker.finish()
    with pytest.raises(InvariantBroken, match="second answer"):
        answer(checker, one)


def test_an_answer_after_the_deadline_is_caught():
    """At the deadline a gateway answers whatever it knows: nobody waits longer than he said."""
    checker, one = OneAnswer(), record()
    checker.arrived(one)
    with pytest.raises(InvariantBroken, match="after its deadline"):
        answer(checker, one, at_ns=51)


def test_a_number_that_a_gateway_gives_twice_is_caught():
    """Two requests of one name would get each other's outputs."""
    checker = OneAnswer()
    checker.arrived(record(5))
    with pytest.raises(InvariantBroken, match="arrived after"):
        checker.arrived(record(5))


@pytest.mark.parametrize(
    "decisions",
    [
        [PROMISE, refusal()],
        [assign(), refusal()],
        [refusal(), PROMISE],
        [refusal(), refusal()],
        [PROMISE, ABANDON, assign()],
        [assign(1), assign(1)],
        [refusal(earliest_ns=None)],
        [attrs.evolve(PROMISE, predicted_finish_ns=51)],
        [attrs.evolve(PROMISE, request_id=2)],
    ],
)
@pytest.mark.parametrize("answered", [False, True])
def test_a_decision_that_does_not_stand_is_caught(decisions, answered):
    """A promise taken back is the one thing that must not happen, be it answered or not."""
    checker, one = DecisionsStand(), record()
    checker.arrived(one)
    for decision in decisions[:-1]:
        checker.decided(decision, on=1, now_ns=0)
    if answered:
        answer(checker, one)

    with pytest.raises(InvariantBroken):
        checker.decided(decisions[-1], on=1, now_ns=0)


def test_a_second_attempt_is_no_contradiction():
    """A checker that cries wolf would be switched off."""
    checker = DecisionsStand()
    checker.arrived(record())
    late = attrs.evolve(PROMISE, predicted_finish_ns=60)
    for decision in [PROMISE, assign(1), late, assign(2), ABANDON]:
        checker.decided(decision, on=1, now_ns=0)


def test_a_refusal_for_another_reason_need_not_say_when():
    """Nobody can say when a model that nobody has will be there."""
    checker = DecisionsStand()
    checker.arrived(record())
    checker.decided(refusal(RefusalReason.NO_EXECUTOR, None), on=None, now_ns=0)


# --- executors ------------------------------------------------------------------------------------


def test_an_overlap_on_a_lane_is_caught():
    """Two INFERs at once make every measured duration worthless."""
    checker = LanesAreSerial()
    checker.started(FakeExecutor(), FakeLane(), FakePending(infer(1)), now_ns=0)
    checker.started(FakeExecutor(), FakeLane("load"), FakePending(infer(2)), now_ns=0)

    with pytest.raises(InvariantBroken, match="beside"):
        checker.started(FakeExecutor(), FakeLane(), FakePending(infer(3)), now_ns=0)
    with pytest.raises(InvariantBroken, match="while 1 ran"):
        checker.ended(FakeExecutor(), FakeLane(), FakePending(infer(3)))


@pytest.mark.parametrize("now_ns", [9, 21])
def test_a_start_outside_of_its_window_is_caught(now_ns):
    """Windows are all that keeps one late action from making the next ones late."""
    with pytest.raises(InvariantBroken, match="outside"):
        WindowsHold().started(FakeExecutor(), FakeLane(), FakePending(infer()), now_ns=now_ns)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (infer(slots=(1, 2, 3), batch_size=2), "3 slots"),
        (infer(slots=(1, 1), batch_size=2), "two slots"),
        (infer(latest_ns=14), "nothing can start"),
        (Unload(action_id=0, model_id=7), "sent after"),
    ],
)
def test_an_action_that_cannot_be_meant_is_caught(action, says):
    """An executor would reject it, and its riders would pay with their time."""
    with pytest.raises(InvariantBroken, match=says):
        WindowsHold().sent(1, action, now_ns=15)


def test_pages_sold_twice_made_up_or_taken_from_others_are_caught():
    """Another model's weights under a request would be a wrong answer, in time."""
    executor, checker = FakeExecutor(), PagesSuffice()
    checker.pages_claimed(executor, 7, [0, 1])
    checker.started(executor, FakeLane(), FakePending(infer()), now_ns=15)
    with pytest.raises(InvariantBroken, match="belongs to 7"):
        checker.pages_claimed(executor, 8, [1])
    with pytest.raises(InvariantBroken, match="of 4"):
        checker.pages_claimed(executor, 8, [4])
    with pytest.raises(InvariantBroken, match="taken from model 8"):
        checker.pages_freed(executor, 8, [0])


def test_an_inference_without_all_of_its_weights_is_caught():
    """Half a model gives a wrong answer, too."""
    executor, checker = FakeExecutor(), PagesSuffice()
    pending = FakePending(infer())
    with pytest.raises(InvariantBroken, match="0 pages of 2"):
        checker.started(executor, FakeLane(), pending, now_ns=15)
    checker.pages_claimed(executor, 7, [0, 1])
    checker.pages_freed(executor, 7, [1])
    with pytest.raises(InvariantBroken, match="1 pages of 2"):
        checker.started(executor, FakeLane(), pending, now_ns=15)


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [PROMISE, assign()])
def test_a_promise_on_a_dead_executor_is_excused_until_it_had_to_be_noticed(decision):
    """For two milliseconds nobody can know; after that it would be a lie."""
    checker = NothingOfTheLost()
    checker.silenced(1, noticed_ns=100)
    checker.decided(decision, on=1, now_ns=100)
    with pytest.raises(InvariantBroken, match="was gone"):
        checker.decided(decision, on=1, now_ns=101)


def test_nothing_is_asked_of_an_executor_after_its_loss_was_told():
    """What is sent there is lost time, and the next executor may have its name."""
    checker = NothingOfTheLost()
    checker.lost(1, ())
    checker.sent(2, infer(), now_ns=5)
    with pytest.raises(InvariantBroken, match="was gone"):
        checker.sent(1, infer(2), now_ns=5)


def test_a_promise_without_a_place_is_caught():
    """A promise is a place in a plan; without one it is a hope."""
    with pytest.raises(InvariantBroken, match="without a place"):
        NothingOfTheLost().decided(PROMISE, on=None, now_ns=5)


def test_an_executor_that_worked_must_not_be_cut_off():
    """Its promises would be broken by the scheduler's own choice."""
    checker = NothingOfTheLost()
    with pytest.raises(InvariantBroken, match="nothing had disturbed"):
        checker.dropped(1, "it seemed slow")
    checker.disturbed("a stall", now_ns=0, until_ns=10)
    checker.dropped(1, "it never answered")


# --- promises -------------------------------------------------------------------------------------

MADE_NS = SECOND


def broken(checker, *, before=(), **changes):
    """Have a request promised at MADE_NS end broken 50 ms later, after what `before` does."""
    one = record(arrival_ns=MADE_NS - MS, deadline_ns=MADE_NS + 50 * MS, promised_ns=MADE_NS)
    checker.arrived(one)
    for happens in before:
        happens(checker)
    answer(checker, one, End.BROKEN, **{"reason": "late", **changes})


def overrun(by_ns, *, at_ns=MADE_NS + 10 * MS):
    """Have an action that was expected to take 5 ns end at an instant, later by `by_ns`."""

    def happens(checker):
        executor, pending = FakeExecutor(), FakePending(infer())
        executor.world.engine.now_ns = at_ns - by_ns - 5
        checker.started(executor, FakeLane(), pending, now_ns=0)
        executor.world.engine.now_ns = at_ns
        checker.ended(executor, FakeLane(), pending)

    return happens


@pytest.mark.parametrize(
    "before",
    [
        (),
        (lambda checker: checker.disturbed("long ago", now_ns=0, until_ns=MS),),
        (lambda checker: checker.lost(1, (99,)),),
        (overrun(200),),
        (overrun(10 * MS, at_ns=MADE_NS - 30 * MS),),
    ],
    ids=["nothing", "long ago", "of others", "within the margin", "known before"],
)
def test_a_promise_broken_for_no_reason_is_caught(before):
    """A plan that could never hold must not hide among faults that had nothing to do with it."""
    with pytest.raises(InvariantBroken, match="nothing disturbed"):
        broken(PromisesHold(slack_ns=500), before=before)


@pytest.mark.parametrize(
    "before",
    [
        (lambda checker: checker.disturbed("a lag", now_ns=0, until_ns=MADE_NS - MS),),
        (lambda checker: checker.lost(1, (1,)),),
        (overrun(300), overrun(300, at_ns=MADE_NS + 20 * MS)),
    ],
    ids=["disturbed", "its executor lost", "overruns that add up"],
)
def test_a_promise_broken_for_a_reason_is_none(before):
    """Outliers and deaths break promises, and nobody is to blame."""
    broken(PromisesHold(slack_ns=500), before=before)


def test_an_action_that_still_runs_counts_for_as_long_as_it_has_run():
    """Whoever waits behind it is late before it ends."""
    executor = FakeExecutor()
    executor.world.engine.now_ns = MADE_NS
    broken(
        PromisesHold(slack_ns=500),
        before=[lambda one: one.started(executor, FakeLane(), FakePending(infer()), now_ns=0)],
    )


def test_a_gateway_that_died_breaks_its_own_promises():
    """Its clients lost their connections: no plan could have helped."""
    broken(PromisesHold(slack_ns=500), reason="gatewayLost")


# --- shares ---------------------------------------------------------------------------------------

TWO_TENANTS = ShareRule(weights={0: 1, 1: 1}, slack_ns=2 * MS, at_least=0.9)


def shares(rule=TWO_TENANTS):
    """One executor; model 0 of tenant 0 takes 4 ms, model 1 of tenant 1 takes 2 ms."""
    return SharesHonoured(rule, tenants=[0, 1], costs_ns=[4 * MS, 2 * MS], executors=1)


def ask(checker, count, *, every_ms, kept, model=0, slo_ms=20, first=0):
    for number in range(first, first + count):
        at_ns = int(number * every_ms * MS)
        one = record(number, model=model, arrival_ns=at_ns, deadline_ns=at_ns + slo_ms * MS)
        checker.arrived(one)
        answer(checker, one, End.KEPT if number - first < kept else End.REFUSED)


def test_a_tenant_within_its_share_that_is_not_served_is_caught():
    """Half of a device is 125 requests of 4 ms a second: this one asks for 100 and gets 89."""
    checker = shares()
    ask(checker, 100, every_ms=10, kept=89)
    with pytest.raises(InvariantBroken, match=r"expected 360000000 ns .* 356000000"):
        checker.finish()


def test_a_tenant_within_its_share_that_is_served_is_fine():
    """The rule says 90 %, and 90 % are enough."""
    checker = shares()
    ask(checker, 100, every_ms=10, kept=90)
    checker.finish()


def test_more_than_the_share_need_not_be_served():
    """Four times its share: as much as a quarter of it must be kept, whichever requests it is."""
    checker = shares()
    ask(checker, 500, every_ms=2, kept=125)
    checker.finish()

    checker = shares()
    ask(checker, 500, every_ms=2, kept=113)
    with pytest.raises(InvariantBroken, match="tenant 0"):
        checker.finish()


def test_a_burst_conforms_only_as_far_as_its_own_machine_could_do_it():
    """Ten at once with 14 ms: at half speed only the first is done in time, at 8 + 4 + 2 ms."""
    checker = shares()
    ask(checker, 10, every_ms=0, kept=0, slo_ms=14)
    with pytest.raises(InvariantBroken, match=r"40000000 ns of .* which 4000000 ns were within"):
        checker.finish()


def test_a_slo_that_its_own_machine_cannot_meet_is_nobodys_promise():
    """An SLO under the time at half speed could be had by luck only."""
    checker = shares(attrs.evolve(TWO_TENANTS, at_least=1.0))
    ask(checker, 100, every_ms=20, kept=0, slo_ms=13)
    checker.finish()


def test_each_window_is_judged_as_soon_as_it_is_over():
    """A minute of starvation must not vanish in an hour; and nothing old is kept in memory."""
    checker = shares()
    ask(checker, 100, every_ms=10, kept=0)
    with pytest.raises(InvariantBroken, match="window from 0 on"):
        ask(checker, 1, every_ms=10, kept=1, first=101)


def test_what_a_disturbance_touches_is_not_judged_and_what_comes_after_is():
    """A stalled executor keeps nobody's share; once it is over, shares are owed again."""
    checker = shares()
    checker.disturbed("a stall", now_ns=0, until_ns=5 * MS)
    ask(checker, 100, every_ms=10, kept=0)
    ask(checker, 100, every_ms=10, kept=100, first=100)
    ask(checker, 100, every_ms=10, kept=0, first=200)
    with pytest.raises(InvariantBroken, match="window from 2000000000"):
        checker.finish()


def test_after_a_loss_nothing_is_judged():
    """Shares of a cluster that shrank are smaller by as much as nobody here can know."""
    checker = shares()
    ask(checker, 50, every_ms=10, kept=0)
    checker.lost(1, ())
    ask(checker, 200, every_ms=10, kept=0, first=50)
    checker.finish()


def test_weights_are_numbers_of_shares():
    """A weight of nothing would divide by nothing."""
    with pytest.raises(ConfigError, match="weights"):
        ShareRule(weights={0: 1, 1: 0}, slack_ns=0)
    assert ShareRule(weights={0: 3, 1: 1}, slack_ns=0).speed(0, executors=2) == 1.5


# --- all of them ----------------------------------------------------------------------------------


def test_each_checker_is_shown_what_it_watches_for():
    """A method that is not passed on would be a checker that sees nothing."""
    seen = []

    def watching(name):
        return lambda *arguments, **_: seen.append(name)

    names = [name for name in vars(Checker) if not name.startswith("_")]
    everything = type("Everything", (Checker,), {name: watching(name) for name in names})()
    checkers = Checkers([everything, Checker()])
    executor, lane, pending = FakeExecutor(), FakeLane(), FakePending(infer())
    checkers.arrived(record())
    checkers.decided(PROMISE, on=1, now_ns=0)
    checkers.answered(record())
    checkers.sent(1, infer(), now_ns=0)
    checkers.started(executor, lane, pending, now_ns=0)
    checkers.ended(executor, lane, pending)
    checkers.pages_claimed(executor, 7, [0])
    checkers.pages_freed(executor, 7, [0])
    checkers.disturbed("a stall", now_ns=0, until_ns=1)
    checkers.silenced(1, noticed_ns=0)
    checkers.dropped(1, "silent")
    checkers.lost(1, ())
    checkers.finish()

    assert seen == names


def test_what_is_over_is_forgotten(monkeypatch):
    """An hour of ten thousand requests a second must fit into memory, checked."""
    monkeypatch.setattr("cw.sim.checkers.decisions._REMEMBERED", 10)
    decisions, answers, promises, share = (
        DecisionsStand(),
        OneAnswer(),
        PromisesHold(slack_ns=0),
        shares(),
    )
    checkers = Checkers([decisions, answers, promises, share])
    for number in range(1, 1000):
        at_ns = number * 10 * MS
        one = record(number, arrival_ns=at_ns, deadline_ns=at_ns + 20 * MS, promised_ns=at_ns)
        checkers.arrived(one)
        promise = attrs.evolve(PROMISE, request_id=number, predicted_finish_ns=at_ns + MS)
        checkers.decided(promise, on=1, now_ns=at_ns)
        overrun(100, at_ns=at_ns + MS)(checkers)
        answer(checkers, one, at_ns=at_ns + 2 * MS)
    sizes = [len(decisions._words), len(answers._open), len(promises._open), len(share._windows)]

    assert sizes == [0, 0, 0, 0]
    assert len(decisions._closed) == 10
    assert len(share._machines[0].windows) == 1
    assert len(promises._overruns[1].ended) <= 5
