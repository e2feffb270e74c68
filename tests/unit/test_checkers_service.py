"""The checkers of what users are owed: that promises hold, and that shares are honoured."""

import attrs
import pytest

from cw.errors import ConfigError
from cw.sim.checkers import InvariantBroken, ShareRule
from cw.sim.checkers.promises import PromisesHold
from cw.sim.journal import End
from cw.units import MS
from tests.unit.checker_fakes import (
    MADE_NS,
    TWO_TENANTS,
    FakeExecutor,
    FakeLane,
    FakePending,
    answer,
    infer,
    overrun,
    record,
    shares,
)

# --- promises -------------------------------------------------------------------------------------


def broken(checker, *, before=(), **changes):
    """Have a request promised at MADE_NS end broken 50 ms later, after what `before` does."""
    one = record(arrival_ns=MADE_NS - MS, deadline_ns=MADE_NS + 50 * MS, promised_ns=MADE_NS)
    checker.arrived(one)
    for happens in before:
        happens(checker)
    answer(checker, one, End.BROKEN, **{"reason": "late", **changes})


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


def test_what_nobody_can_know_yet_is_not_judged():
    """A flood is one only once it was seen to be: the first windows are for learning."""
    checker = shares(attrs.evolve(TWO_TENANTS, learning_ns=500 * MS))
    ask(checker, 100, every_ms=10, kept=0)
    ask(checker, 100, every_ms=10, kept=0, first=100)
    with pytest.raises(InvariantBroken, match="window from 1000000000"):
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
