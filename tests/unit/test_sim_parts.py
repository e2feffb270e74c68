"""The simulator's parts: its clock, its links, and checkers that do catch what they watch for."""

import random

import attrs
import pytest

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
    Window,
)
from cw.sim.checkers import (
    DecisionsStand,
    InvariantBroken,
    LanesAreSerial,
    OneAnswer,
    PagesSuffice,
    PromisesHold,
    WindowsHold,
)
from cw.sim.engine import Engine, SimulationStuck
from cw.sim.journal import End, Journal, RequestRecord
from cw.sim.network import Network, NetworkModel


def test_time_goes_from_one_occurrence_to_the_next_in_order():
    """Two things at one instant happen in the order in which they were asked for, always."""
    engine, seen = Engine(), []
    engine.at(20, seen.append, "late")
    engine.at(10, seen.append, "first")
    engine.at(10, seen.append, "second")
    engine.run(until_ns=15)

    assert seen == ["first", "second"]
    assert engine.now_ns == 15
    engine.run(until_ns=30)
    assert seen == ["first", "second", "late"]


def test_a_loop_without_end_is_noticed():
    """A timer that is due at once for ever would hang the run, and say nothing."""
    engine = Engine()

    def again():
        engine.after(0, again)

    engine.at(5, again)
    with pytest.raises(SimulationStuck):
        engine.run(until_ns=10)


def test_messages_on_a_link_keep_their_order():
    """Actions to an executor keep their order, whatever the jitter: the plan relies on it."""
    engine, seen = Engine(), []
    model = NetworkModel(delay_ns=100, jitter_ns=1000)
    link = Network(engine, model, random.Random(1)).link()
    for number in range(200):
        engine.at(number, link.send, 0, seen.append, number)
    engine.run(until_ns=10**9)

    assert seen == list(range(200))


def test_large_messages_wait_for_each_other():
    """Two inputs of 1 ms each on one link take 2 ms: bandwidth is shared."""
    engine, seen = Engine(), []
    model = NetworkModel(delay_ns=100, jitter_ns=0, bytes_per_second=1_000_000)
    link = Network(engine, model, random.Random(1)).link()
    for _ in range(2):
        link.send(1000, lambda: seen.append(engine.now_ns))
    engine.run(until_ns=10**9)

    assert seen == [1_000_100, 2_000_100]


# --- checkers -------------------------------------------------------------------------------------


@attrs.define(eq=False)
class FakeProfile:
    pages_total: int = 4


@attrs.define(eq=False)
class FakeWorld:
    profile: FakeProfile = attrs.field(factory=FakeProfile)


@attrs.define(eq=False)
class FakeExecutor:
    executor_id: int = 1
    name: str = "executor-0"
    world: FakeWorld = attrs.field(factory=FakeWorld)


@attrs.define(eq=False)
class FakeLane:
    name: str = "infer"


@attrs.define(eq=False)
class FakePending:
    action: Infer
    model_id: int = 7


def infer(action_id=1, *, slots=0, batch_size=1):
    return Infer(
        action_id=action_id,
        model_id=7,
        batch_size=batch_size,
        slots=tuple(Slot(request_id=n, attempt=1, deadline_ns=9) for n in range(slots)),
        ticket=1,
        expected_ns=5,
        window=Window(earliest_ns=10, latest_ns=20),
    )


def record(**changes):
    values = {"request_id": 1, "model": 0, "arrival_ns": 0, "deadline_ns": 50, **changes}
    return RequestRecord(**values)


REFUSAL = Refuse(request_id=1, attempt=1, refusal=Refusal(reason=RefusalReason.OVERLOAD))
PROMISE = Promise(request_id=1, attempt=1, predicted_finish_ns=40)
ABANDON = Abandon(request_id=1, attempt=1, failure=Failure(kind=FailureKind.INTERNAL))


def assign(attempt=1):
    return Assign(
        epoch=1,
        action_id=1,
        ticket=1,
        executor_id=1,
        predicted_finish_ns=40,
        assignments=(Assignment(request_id=1, attempt=attempt, position=0),),
    )


@pytest.mark.parametrize(
    "decisions",
    [
        [PROMISE, REFUSAL],
        [assign(), REFUSAL],
        [REFUSAL, PROMISE],
        [REFUSAL, REFUSAL],
        [PROMISE, ABANDON, assign()],
        [assign(1), assign(1)],
    ],
)
def test_a_decision_that_does_not_stand_is_caught(decisions):
    """A promise taken back is the one thing that must not happen."""
    checker = DecisionsStand()
    for decision in decisions[:-1]:
        checker.decided(decision)

    with pytest.raises(InvariantBroken):
        checker.decided(decisions[-1])


def test_a_second_attempt_is_no_contradiction():
    """A checker that cries wolf would be switched off."""
    checker = DecisionsStand()
    for decision in [PROMISE, assign(1), assign(2), ABANDON]:
        checker.decided(decision)


def test_a_second_answer_and_a_missing_one_are_caught():
    """Exactly one answer: neither two, nor none."""
    checker, journal = OneAnswer(), Journal()
    journal.add(record())
    with pytest.raises(InvariantBroken, match="without an answer"):
        checker.finish(journal)
    checker.answered(record())
    with pytest.raises(InvariantBroken, match="second answer"):
        checker.answered(record())


def test_an_overlap_on_a_lane_is_caught():
    """Two INFERs at once make every measured duration worthless."""
    checker = LanesAreSerial()
    checker.started(FakeExecutor(), FakeLane(), FakePending(infer(1)), now_ns=0)
    checker.started(FakeExecutor(), FakeLane("load"), FakePending(infer(2)), now_ns=0)

    with pytest.raises(InvariantBroken, match="beside"):
        checker.started(FakeExecutor(), FakeLane(), FakePending(infer(3)), now_ns=0)


@pytest.mark.parametrize("now_ns", [9, 21])
def test_a_start_outside_of_its_window_is_caught(now_ns):
    """Windows are all that keeps one late action from making the next ones late."""
    with pytest.raises(InvariantBroken, match="outside"):
        WindowsHold().started(FakeExecutor(), FakeLane(), FakePending(infer()), now_ns=now_ns)


def test_too_many_slots_are_caught():
    """A batch larger than what was captured cannot run at all."""
    with pytest.raises(InvariantBroken, match="slots"):
        WindowsHold().sent(1, infer(slots=3, batch_size=2))


def test_pages_sold_twice_made_up_or_taken_from_others_are_caught():
    """Another model's weights under a request would be a wrong answer, in time."""
    executor, checker = FakeExecutor(), PagesSuffice()
    checker.pages_claimed(executor, 7, [0, 1])
    with pytest.raises(InvariantBroken, match="belongs to 7"):
        checker.pages_claimed(executor, 8, [1])
    with pytest.raises(InvariantBroken, match="of 4"):
        checker.pages_claimed(executor, 8, [4])
    with pytest.raises(InvariantBroken, match="taken from model 8"):
        checker.pages_freed(executor, 8, [0])
    with pytest.raises(InvariantBroken, match="without its weights"):
        checker.started(executor, FakeLane(), FakePending(infer(), model_id=9), now_ns=15)


def test_a_promise_broken_for_no_reason_is_caught_and_one_with_a_reason_is_not():
    """Outliers and deaths break promises; a plan that could never hold must not hide among them."""
    broken = record(
        promised_ns=10**9, end=End.BROKEN, reason="late", ended_ns=10**9 + 50, deadline_ns=10**9
    )
    journal = Journal(requests={1: broken})
    journal.disturb("long ago", at_ns=0, for_ns=1000)
    journal.disturb("afterwards", at_ns=10**9 + 60)
    with pytest.raises(InvariantBroken, match="nothing disturbed"):
        PromisesHold().finish(journal)

    journal.disturb("ran long", at_ns=10**9 + 20)
    PromisesHold().finish(journal)
