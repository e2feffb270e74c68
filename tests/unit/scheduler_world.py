"""A small world for the scheduler's own tests: seeded executors and gateways in virtual time.

Not the simulator (`cw/sim/`), which is larger and has faults and checkers: this one is here so that
the scheduler's unit tests depend on nothing but the core.
"""

import heapq
import itertools
import random
from collections import Counter

import attrs

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import AnnounceModel, Decide, DropExecutor, SendAction, SendCancel
from cw.core.events import ActionDone, ExecutorJoined, ModelAdded, RequestArrived, TimerFired
from cw.core.scheduler import Scheduler
from cw.units import MS, SECOND

CPU_MS = {1: 4.7, 2: 5.8, 4: 6.4, 8: 7.7}
V100_MS = {1: 2.6, 2: 4.1, 4: 6.6, 8: 11.0, 16: 20.9}
H100_MS = {1: 0.9, 2: 1.0, 4: 1.2, 8: 1.7, 16: 2.7, 32: 4.9}


def spec(index, *, sizes=(1, 2, 4, 8), image_bytes=16 << 20, program="program"):
    return m.ModelSpec(
        model_id=m.ModelId(index + 1),
        name=f"model-{index}",
        program_sha256=program,
        weights_sha256=str(index),
        image_bytes=image_bytes,
        inputs=(),
        outputs=(),
        batch_sizes=tuple(sizes),
    )


def device(*, pages=1000, shared=False, name="test", load_rate=12_300_000_000):
    return m.DeviceDescription(
        kind="emulated",
        name=name,
        pages_total=pages,
        shared_lanes=shared,
        load_bytes_per_second=load_rate,
    )


def descriptor(
    sequence, model, arrival_ns, slo_ns, *, gateway=1, promised=False, attempt=1, tenant=0
):
    return m.Descriptor(
        request_id=m.request_id_for(m.GatewayId(gateway), sequence),
        model_id=model.model_id,
        arrival_ns=arrival_ns,
        deadline_ns=arrival_ns + slo_ns,
        promised=promised,
        attempt=m.Attempt(attempt),
        tenant_id=m.TenantId(tenant),
    )


@attrs.define
class Outcomes:
    """What became of the requests of one run."""

    kept: int = 0
    late: int = 0
    refused: Counter = attrs.field(factory=Counter)
    abandoned: Counter = attrs.field(factory=Counter)
    broken_promises: int = 0
    kept_of: Counter = attrs.field(factory=Counter)
    waits_ns: list = attrs.field(factory=list)


class World:
    """Executors that run FIFO lanes, one gateway, an RPC delay each way, noise on durations."""

    def __init__(
        self,
        *,
        settings=None,
        durations_ms=None,
        executors=1,
        models=1,
        seed=0,
        noise=0.003,
        rpc_ns=200_000,
        jitter_ns=50_000,
        pages=1000,
        image_bytes=16 << 20,
        shared=False,
        validate=False,
        overhead_ns=0,
    ):
        self.durations_ms = durations_ms or CPU_MS
        self.scheduler = Scheduler(settings or SchedulerSettings(), epoch=m.Epoch(1), ticket_seed=7)
        self.random = random.Random(seed)
        self.noise, self.rpc_ns, self.jitter_ns = noise, rpc_ns, jitter_ns
        self.now_ns = 0
        self.shared, self.validate_each, self.overhead_ns = shared, validate, overhead_ns
        self.heap, self.order = [], itertools.count()
        self.specs = [
            spec(index, sizes=self.durations_ms, image_bytes=image_bytes) for index in range(models)
        ]
        self.free_ns = {}  # (executor, lane) -> when free
        self.ready, self.sequence = set(), itertools.count()
        self.requests, self.promised, self.predicted = {}, {}, {}
        self.outcomes = Outcomes()
        self.commands, self.silent, self.slow = [], set(), Counter()
        self.finished = {}
        self.busy_ns = Counter()
        for model in self.specs:
            self.feed(ModelAdded(spec=model))
        for index in range(executors):
            self.feed(
                ExecutorJoined(
                    executor_id=m.ExecutorId(index + 1),
                    name=f"executor-{index + 1}",
                    device=device(pages=pages, shared=shared),
                )
            )

    # --- time -------------------------------------------------------------------------------------

    def delay_ns(self):
        return self.rpc_ns + int(self.random.expovariate(1 / self.jitter_ns))

    def at(self, time_ns, call, *args):
        heapq.heappush(self.heap, (time_ns, next(self.order), call, args))

    def run_until(self, until_ns):
        while True:
            wake_ns = self.scheduler.wake_at_ns
            next_ns = self.heap[0][0] if self.heap else None
            if wake_ns is not None and (next_ns is None or wake_ns < next_ns):
                if wake_ns > until_ns:
                    break
                self.now_ns = max(self.now_ns, wake_ns)
                self.feed(TimerFired())
                continue
            if next_ns is None or next_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, next_ns)
            _, _, call, args = heapq.heappop(self.heap)
            call(*args)
        self.now_ns = until_ns

    def register(self, limit_ns=1000 * SECOND):
        """Run until every model is ready."""
        while len(self.ready) < len(self.specs):
            assert self.now_ns < limit_ns, "registration never ended"
            self.run_until(self.now_ns + SECOND)

    # --- the scheduler's surroundings -------------------------------------------------------------

    def feed(self, *events):
        commands = self.scheduler.handle(*events, now_ns=self.now_ns)
        if self.validate_each:
            self.scheduler.validate()
        self.commands += commands
        for command in commands:
            match command:
                case SendAction(executor_id=executor_id, action=action):
                    self.at(self.now_ns + self.delay_ns(), self.receive, executor_id, action)
                case Decide(decision=decision):
                    self.decide(decision)
                case AnnounceModel(model_id=model_id, ready=ready):
                    (self.ready.add if ready else self.ready.discard)(model_id)
                case SendCancel() | DropExecutor():
                    pass

    def decide(self, decision):
        match decision:
            case m.Promise():
                self.promised[decision.request_id] = decision.attempt
                self.predicted.setdefault(decision.request_id, decision.predicted_finish_ns)
                self.outcomes.waits_ns.append(
                    self.now_ns - self.requests[decision.request_id].arrival_ns
                )
            case m.Refuse():
                assert decision.request_id not in self.promised, "refused after a promise"
                del self.requests[decision.request_id]
                self.outcomes.refused[decision.refusal.reason.value] += 1
            case m.Abandon():
                del self.requests[decision.request_id]
                self.outcomes.abandoned[decision.failure.kind.value] += 1
                self.outcomes.broken_promises += decision.request_id in self.promised
            case m.Assign():
                for assignment in decision.assignments:
                    self.promised[assignment.request_id] = assignment.attempt
                    self.predicted.setdefault(assignment.request_id, decision.predicted_finish_ns)

    def receive(self, executor_id, action):
        received_ns = self.now_ns
        if executor_id in self.silent:
            return
        if isinstance(action, m.Unload):
            return
        lane = "load" if isinstance(action, m.Load) and not self.shared else "infer"
        start_ns = max(self.free_ns.get((executor_id, lane), 0), received_ns)
        outcome, device_ns = m.Outcome.OK, self.duration_ns(action)
        if start_ns > action.window.latest_ns:
            outcome, device_ns = m.Outcome.TOO_LATE, 0
        end_ns = start_ns + device_ns + (self.overhead_ns if device_ns else 0)
        self.free_ns[executor_id, lane] = end_ns
        if lane == "infer":
            self.busy_ns[executor_id] += device_ns
        slots = action.slots if isinstance(action, m.Infer) else ()
        result = m.ActionResult(
            action_id=action.action_id,
            outcome=outcome,
            received_ns=received_ns,
            ready_ns=received_ns,
            start_ns=start_ns,
            end_ns=end_ns,
            device_ns=device_ns,
            running_ns=device_ns,
            ran=tuple(outcome is m.Outcome.OK for _ in slots),
        )
        self.at(
            end_ns + self.delay_ns(),
            self.feed,
            ActionDone(executor_id=executor_id, result=result),
        )
        if outcome is m.Outcome.OK:
            for slot in slots:
                self.at(end_ns + self.delay_ns(), self.deliver, slot)

    def duration_ns(self, action):
        match action:
            case m.Prepare():
                base_ns = 50 * MS
            case m.Load(model_id=model_id):
                base_ns = self.specs[model_id - 1].image_bytes * SECOND // 12_300_000_000
            case m.Infer(batch_size=size):
                base_ns = int(self.durations_ms[size] * MS) + self.slow[size]
        return max(1, int(base_ns * (1 + self.random.gauss(0, self.noise))))

    def deliver(self, slot):
        request = self.requests.pop(slot.request_id, None)
        if request is None:
            return
        kept = self.now_ns <= request.deadline_ns
        self.outcomes.kept += kept
        self.outcomes.late += not kept
        self.outcomes.kept_of[request.model_id] += kept
        self.outcomes.broken_promises += not kept
        self.finished[slot.request_id] = self.now_ns
        self.feed(
            m.Settled(
                request_id=slot.request_id,
                attempt=slot.attempt,
                outcome=m.SettledAs.KEPT if kept else m.SettledAs.LATE,
                finished_ns=self.now_ns,
            )
        )

    def give_up(self, request_id):
        """The deadline has passed: the gateway answers itself."""
        if self.requests.pop(request_id, None) is None:
            return
        self.outcomes.late += 1
        self.outcomes.broken_promises += request_id in self.promised
        self.feed(
            m.Settled(
                request_id=request_id,
                attempt=m.Attempt(self.promised.get(request_id, 1)),
                outcome=m.SettledAs.LATE,
                finished_ns=self.now_ns,
            )
        )

    # --- load -------------------------------------------------------------------------------------

    def request(self, model, slo_ns, arrival_ns=None):
        """Let a request arrive now at the gateway; its descriptor takes one delay."""
        arrival_ns = self.now_ns if arrival_ns is None else arrival_ns
        described = descriptor(next(self.sequence), model, arrival_ns, slo_ns)
        self.requests[described.request_id] = described
        self.at(self.now_ns + self.delay_ns(), self.feed, RequestArrived(descriptor=described))
        # A nanosecond late, so that an answer at the deadline itself still counts.
        self.at(described.deadline_ns + 1, self.give_up, described.request_id)
        return described

    def offer(self, rate, seconds, slo_ns, *, weights=None, slos_ns=None):
        """Let Poisson arrivals come, models drawn by `weights`; return (arrival, due, model)."""
        arrivals = []
        time_ns = self.now_ns
        weights = weights or [1.0] * len(self.specs)
        while (time_ns := time_ns + int(self.random.expovariate(rate) * SECOND)) < (
            self.now_ns + int(seconds * SECOND)
        ):
            model = self.random.choices(self.specs, weights)[0]
            slo = slos_ns[model.model_id] if slos_ns else slo_ns
            self.at(time_ns, self.request, model, slo)
            arrivals.append((time_ns, time_ns + slo, model.model_id))
        self.run_until(time_ns + 2 * slo_ns + SECOND)
        return arrivals


def zipf(models, exponent=0.9):
    return [1 / (rank + 1) ** exponent for rank in range(models)]
