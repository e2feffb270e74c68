"""What the tests of checkers show to them: requests, decisions, and executors that do nothing."""

import attrs

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
from cw.sim.checkers import ShareRule
from cw.sim.checkers.shares import SharesHonoured
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
        planned_start_ns=0,
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


MADE_NS = SECOND


def overrun(by_ns, *, at_ns=MADE_NS + 10 * MS):
    """Have an action that was expected to take 5 ns end at an instant, later by `by_ns`."""

    def happens(checker):
        executor, pending = FakeExecutor(), FakePending(infer())
        executor.world.engine.now_ns = at_ns - by_ns - 5
        checker.started(executor, FakeLane(), pending, now_ns=0)
        executor.world.engine.now_ns = at_ns
        checker.ended(executor, FakeLane(), pending)

    return happens


TWO_TENANTS = ShareRule(weights={0: 1, 1: 1}, slack_ns=2 * MS, at_least=0.9)


def shares(rule=TWO_TENANTS):
    """One executor; model 0 of tenant 0 takes 4 ms, model 1 of tenant 1 takes 2 ms."""
    return SharesHonoured(rule, tenants=[0, 1], costs_ns=[4 * MS, 2 * MS], executors=1)
