"""Checkers catch what they watch for, and nothing else; and they forget what is over."""

import attrs
import pytest

from cw.messages import (
    RefusalReason,
    Unload,
)
from cw.sim.checkers import Checker, Checkers, InvariantBroken
from cw.sim.checkers.answers import OneAnswer
from cw.sim.checkers.decisions import DecisionsStand
from cw.sim.checkers.lanes import LanesAreSerial
from cw.sim.checkers.losses import NothingOfTheLost
from cw.sim.checkers.pages import PagesSuffice
from cw.sim.checkers.promises import PromisesHold
from cw.sim.checkers.windows import WindowsHold
from cw.units import MS
from tests.unit.checker_fakes import (
    ABANDON,
    PROMISE,
    FakeExecutor,
    FakeLane,
    FakePending,
    answer,
    assign,
    infer,
    overrun,
    record,
    refusal,
    shares,
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
