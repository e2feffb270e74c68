"""The scheduler against any order of events: its books always hold, each request ends once."""

from typing import ClassVar, assert_never

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import AnnounceModel, Decide, DropExecutor, SendAction, SendCancel
from cw.core.events import (
    ActionDone,
    ExecutorJoined,
    ExecutorLost,
    GatewayLost,
    ModelAdded,
    ModelRemoved,
    RequestArrived,
    TimerFired,
)
from cw.core.policies import POLICIES
from cw.core.scheduler import Scheduler
from cw.units import MS, SECOND
from tests.unit.scheduler_world import descriptor, device, spec

OUTCOMES = [outcome for outcome in m.Outcome if outcome is not m.Outcome.OK]
MODELS = [spec(index, sizes=(1, 2, 4), program=f"program-{index % 2}") for index in range(4)]


class AnyOrder(RuleBasedStateMachine):
    """Feeds whatever may happen, in whatever order, and keeps what the gateways know."""

    chosen: ClassVar = {}
    """The settings that differ."""
    executors = Bundle("executors")

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler(
            SchedulerSettings(
                probes_warm_up=0,
                probes_measured=1,
                max_queue_per_model=5,
                max_queue_total=8,
                **self.chosen,
            ),
            epoch=m.Epoch(3),
            ticket_seed=1,
        )
        self.now_ns = SECOND
        self.next_request, self.next_executor = 0, 0
        self.open = {}  # request id -> descriptor, as its gateway knows it
        self.attempts, self.promised, self.ended = {}, set(), {}
        self.flying = {}  # executor -> actions sent, not answered
        self.over = []  # (executor, result) that were told: an executor may tell them again
        self.arrived = 0

    @initialize(target=executors, ready=st.sampled_from([True, True, True, False]))
    def cluster_starts(self, ready):
        """Most runs begin with a cluster that serves: most of what matters needs one."""
        first, second = (self.executor_joined(3, shared, set()) for shared in (False, True))
        if ready:
            for model in MODELS[:3]:
                self.feed(ModelAdded(spec=model))
            self.executors_work(1.0)
        return multiple(first, second)

    # --- what the world sees ----------------------------------------------------------------------

    def feed(self, *events):
        for command in self.scheduler.handle(*events, now_ns=self.now_ns):
            match command:
                case SendAction(executor_id=executor_id, action=action):
                    assert executor_id in self.flying, "sent to an executor that is gone"
                    self.flying[executor_id].append(action)
                case DropExecutor(executor_id=executor_id):
                    self.flying.pop(executor_id, None)
                case Decide(decision=decision):
                    self.decide(decision)
                case SendCancel(executor_id=executor_id):
                    assert executor_id in self.flying, "cancelled at an executor that is gone"
                case AnnounceModel():
                    pass
                case _:
                    assert_never(command)

    def decide(self, decision):
        match decision:
            case m.Promise(request_id=request_id, attempt=attempt):
                assert request_id in self.open, "promised what had ended"
                assert attempt >= self.attempts[request_id]
                self.promised.add(request_id)
                self.attempts[request_id] = attempt
            case m.Assign(assignments=assignments, epoch=epoch):
                assert epoch == 3
                for each in assignments:
                    assert each.request_id in self.open, "assigned what had ended"
                    assert each.attempt >= self.attempts[each.request_id]
                    self.promised.add(each.request_id)
                    self.attempts[each.request_id] = each.attempt
            case m.Refuse(request_id=request_id):
                assert request_id not in self.promised, "refused what was promised"
                self.end(request_id)
            case m.Abandon(request_id=request_id):
                self.end(request_id)

    def end(self, request_id):
        assert request_id in self.open, f"ended twice: {self.scheduler.story(request_id)}"
        del self.open[request_id]

    # --- what may happen --------------------------------------------------------------------------

    @rule(ms=st.floats(0, 30))
    def time_passes(self, ms):
        self.now_ns += int(ms * MS)
        self.feed(TimerFired())
        self.gateways_answer()

    @rule()
    def the_alarm_rings(self):
        wake_ns = self.scheduler.wake_at_ns
        if wake_ns is not None:
            assert wake_ns > self.now_ns, "an alarm that rings for ever"
            self.now_ns = wake_ns
            self.feed(TimerFired())
            self.gateways_answer()

    def gateways_answer(self):
        """A gateway answers at the deadline whatever it knows; a second late here, at most."""
        for request_id, described in list(self.open.items()):
            if described.deadline_ns + SECOND < self.now_ns:
                self.settle(request_id, m.SettledAs.LATE)

    @rule(model=st.sampled_from(MODELS))
    def model_added(self, model):
        self.feed(ModelAdded(spec=model))

    def model_removed(self, model):
        self.feed(ModelRemoved(model_id=model.model_id))

    @rule(
        target=executors,
        pages=st.integers(0, 3),
        shared=st.booleans(),
        prepared=st.sets(st.sampled_from(MODELS)),
    )
    def another_executor(self, pages, shared, prepared):
        return self.executor_joined(pages, shared, prepared)

    def executor_joined(self, pages, shared, prepared):
        self.next_executor += 1
        executor_id = m.ExecutorId(self.next_executor)
        self.flying[executor_id] = []
        names = tuple(model.model_id for model in prepared)
        self.feed(
            ExecutorJoined(
                executor_id=executor_id,
                name=f"executor-{executor_id}",
                device=device(pages=pages, shared=shared),
                prepared=names,
                resident=names[:pages],
            )
        )
        return executor_id

    def executor_lost(self, executor_id):
        self.flying.pop(executor_id, None)
        self.feed(ExecutorLost(executor_id=executor_id))

    @rule(
        model=st.sampled_from(MODELS),
        slo_ms=st.sampled_from([2, 20, 60, 500]),
        gateway=st.integers(1, 2),
        tenant=st.integers(0, 2),
        count=st.integers(1, 6),
        promised=st.sampled_from([False, False, False, True]),
        twice=st.sampled_from([False, False, False, True]),
    )
    def requests_arrive(self, model, slo_ms, gateway, tenant, count, promised, twice):
        events = []
        for _ in range(count):
            self.next_request += 1
            described = descriptor(
                self.next_request,
                model,
                self.now_ns,
                slo_ms * MS,
                gateway=gateway,
                promised=promised,
                attempt=2 if promised else 1,
                tenant=tenant,
            )
            self.open[described.request_id] = described
            self.attempts[described.request_id] = described.attempt
            if promised:
                self.promised.add(described.request_id)
            events.append(RequestArrived(descriptor=described))
        self.arrived += count
        self.feed(*events)
        if twice:  # as after a reconnection: what is open is still one request
            self.feed(*(each for each in events if each.descriptor.request_id in self.open))

    @rule(
        executor_id=executors,
        outcome=st.sampled_from([m.Outcome.OK] * 12 + OUTCOMES),
        which=st.integers(0, 3),
        ms=st.floats(0.1, 20),
        missing=st.sampled_from([0, 0, 0, 1]),
    )
    def some_action_done(self, executor_id, outcome, which, ms, missing):
        self.action_done(executor_id, outcome, which, ms, missing)

    def action_done(self, executor_id, outcome, which, ms, missing):
        actions = self.flying.get(executor_id)
        if not actions:
            return
        action = actions.pop(min(which, len(actions) - 1))
        start_ns, self.now_ns = self.now_ns, self.now_ns + int(ms * MS)
        ok = outcome is m.Outcome.OK
        slots = action.slots if isinstance(action, m.Infer) else ()
        result = m.ActionResult(
            action_id=action.action_id,
            outcome=outcome,
            received_ns=start_ns,
            ready_ns=start_ns,
            start_ns=start_ns,
            end_ns=self.now_ns if ok else start_ns,
            device_ns=int(ms * MS) if ok else 0,
            ran=tuple(ok and index >= missing for index in range(len(slots))),
        )
        self.over.append((executor_id, result))
        self.feed(ActionDone(executor_id=executor_id, result=result))

    @rule(ms=st.floats(0.1, 6))
    def executors_work(self, ms):
        """All goes well for a while: what was sent is done, and the answers are told."""
        for _ in range(40):
            busy = [each for each, actions in self.flying.items() if actions]
            if not busy:
                break
            for executor_id in busy:
                if not self.flying.get(executor_id):
                    continue  # cut off in the meantime
                action = self.flying[executor_id][0]
                self.action_done(executor_id, m.Outcome.OK, 0, ms, 0)
                for slot in action.slots if isinstance(action, m.Infer) else ():
                    current = self.attempts.get(slot.request_id) == slot.attempt
                    if slot.request_id in self.open and current:
                        in_time = self.now_ns < slot.deadline_ns
                        self.settle(
                            slot.request_id, m.SettledAs.KEPT if in_time else m.SettledAs.LATE
                        )

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def a_result_comes_again(self, data):
        """An executor repeats itself, or speaks up after it was lost: nothing may follow."""
        executor_id, result = data.draw(st.sampled_from(self.over))
        self.feed(ActionDone(executor_id=executor_id, result=result))

    def a_result_of_nothing(self, executor_id, outcome, number):
        """A result of an action that this reign never sent, as after a restart."""
        result = m.ActionResult(
            action_id=m.ActionId(10**9 + number),
            outcome=outcome,
            received_ns=self.now_ns,
            ready_ns=self.now_ns,
            start_ns=self.now_ns,
            end_ns=self.now_ns,
            device_ns=0,
        )
        self.feed(ActionDone(executor_id=executor_id, result=result))

    def words_about_nobody(self, outcome):
        """What a gateway says of requests that this reign never heard of, or has forgotten."""
        nobody = m.request_id_for(m.GatewayId(9), 1)
        attempt = m.Attempt(1)
        settled = m.Settled(
            request_id=nobody, attempt=attempt, outcome=outcome, finished_ns=self.now_ns
        )
        failed = m.AttemptFailed(request_id=nobody, attempt=attempt, detail="no outputs")
        self.feed(settled, failed, m.Cancel(request_id=nobody, attempt=attempt))

    @rule(data=st.data(), outcome=st.sampled_from(m.SettledAs))
    def settled(self, data, outcome):
        if not self.open:
            return
        self.settle(data.draw(st.sampled_from(sorted(self.open))), outcome)

    def settle(self, request_id, outcome):
        self.end(request_id)
        settled = m.Settled(
            request_id=request_id,
            attempt=self.attempts[request_id],
            outcome=outcome,
            finished_ns=self.now_ns,
        )
        # Told twice, as after a reconnection: the second time it is unknown.
        self.feed(settled, settled)

    @rule(data=st.data(), current=st.booleans())
    def attempt_failed(self, data, current):
        if not self.open:
            return
        request_id = data.draw(st.sampled_from(sorted(self.open)))
        attempt = self.attempts[request_id] - (not current)
        self.feed(m.AttemptFailed(request_id=request_id, attempt=attempt, detail="no outputs"))

    @rule(data=st.data())
    def cancelled(self, data):
        if not self.open:
            return
        request_id = data.draw(st.sampled_from(sorted(self.open)))
        self.end(request_id)
        self.feed(m.Cancel(request_id=request_id, attempt=self.attempts[request_id]))

    def gateway_lost(self, gateway):
        for request_id in [each for each in self.open if m.gateway_of(each) == gateway]:
            self.end(request_id)
        self.feed(GatewayLost(gateway_id=m.GatewayId(gateway)))

    @rule(
        what=st.sampled_from(["executor", "gateway", "model", "result", "words"]),
        executor_id=executors,
        model=st.sampled_from(MODELS),
        gateway=st.integers(1, 2),
        outcome=st.sampled_from(m.Outcome),
        number=st.integers(0, 3),
    )
    def something_rare(self, what, executor_id, model, gateway, outcome, number):
        """One rule for all of it: were each one of its own, little else would happen."""
        match what:
            case "executor":
                self.executor_lost(executor_id)
            case "gateway":
                self.gateway_lost(gateway)
            case "model":
                self.model_removed(model)
            case "result":
                self.a_result_of_nothing(executor_id, outcome, number)
            case "words":
                self.words_about_nobody(m.SettledAs.KEPT if number else m.SettledAs.LATE)

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def books_hold(self):
        self.scheduler.validate()
        requests = self.scheduler.books.requests
        assert set(requests) == set(self.open), "gateway and books differ"
        for request_id, described in self.open.items():
            assert requests[request_id].tenant_id == described.tenant_id, "another tenant's"

    def teardown(self):
        """Let all silent peers run into their bounds: nothing may be left."""
        self.now_ns += 2 * SECOND
        for _ in range(50):
            self.feed(TimerFired())
            self.gateways_answer()
            self.scheduler.validate()
            self.now_ns += 20 * SECOND
        assert not self.open, [self.scheduler.story(each) for each in self.open]
        tally = self.scheduler.tally
        assert tally.requests == tally.ended == self.arrived


def any_order(examples, **chosen):
    """Make the test of one way to schedule."""
    name = "_".join(map(str, chosen.values()))
    case = type(f"AnyOrder_{name}", (AnyOrder,), {"chosen": chosen}).TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=60)
    return case


TestDefault = any_order(150)
TestDefaultEarly = any_order(150, hold_ratio=0.25, weights="tenant:1=3", objective="gpu_time")
TestDefaultAtArrival = any_order(60, hold_ratio=0.0)
TestClockwork = any_order(60, policy="clockwork")
TestSymphony = any_order(60, policy="symphony")
TestShepherd = any_order(60, policy="shepherd")
TestNexus = any_order(60, policy="nexus")
TestFcfs = any_order(60, policy="fcfs")


def test_every_policy_is_put_to_the_test():
    """A new one must not be forgotten here."""
    tested = {"default"} | {name.removeprefix("Test").lower() for name in globals()}

    assert set(POLICIES) <= tested
