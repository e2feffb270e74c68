"""A bench for the default policy's parts: executors with round costs, and whoever waits there."""

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place, Stage
from cw.core.pages import PageBooks
from cw.core.plan import PlannedBatch
from cw.core.policies.selection import select
from cw.core.profile import Profiles
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.core.timeline import PipeDelay
from cw.units import MS
from tests.unit.scheduler_world import device, spec

COSTS_MS = {1: 4, 2: 5, 4: 7, 8: 10}
"""Batches pay: 0.25, 0.4, 0.57 and 0.8 requests per ms."""
ALLOWANCE_NS = 1 * MS
"""The margin of the settings, which is what is aimed at before each deadline."""
OWED = 2
"""The tenant that is owed device time, where one is."""


class Bench:
    """Executors without a pipe's delay, all models warm on each, the time 0.

    Args:
        costs_ms: Of each model, by batch size.
        executors: How many.
        settings: Of the scheduler.
    """

    def __init__(self, *costs_ms, executors=1, settings=None):
        self.books = Books(settings or SchedulerSettings(), Profiles())
        self.number = 0
        for number in range(executors):
            executor = ExecutorBooks(
                executor_id=m.ExecutorId(number + 1),
                name=f"executor-{number + 1}",
                device=device(),
                pages=PageBooks(100),
                pipe=PipeDelay(0, 10 * MS),
            )
            self.books.executors[executor.executor_id] = executor
        self.executor = self.books.executors[m.ExecutorId(1)]
        self.models = []
        for index, by_size_ms in enumerate(costs_ms or (COSTS_MS,)):
            program = f"program-{index}"
            model = ModelBooks(spec(index, sizes=by_size_ms, program=program))
            self.books.models[model.model_id] = model
            self.models.append(model)
            for size, ms in by_size_ms.items():
                self.books.profiles.seed(program, size, self.executor.key, [int(ms * MS)] * 3)
            for executor in self.books.executors.values():
                costs = self.books.profiles.costs(program, tuple(by_size_ms), executor.key)
                place = Place(model, executor, costs, Stage.READY, Residency.WARM)
                executor.places[model.model_id] = model.places[executor.executor_id] = place
                place.serve_if_ready()

    def place(self, index=0, executor=1):
        """Find a model's place."""
        return self.models[index].places[m.ExecutorId(executor)]

    def request(self, due_ms, *, index=0, arrival_ms=0.0, tenant=0, promised=False):
        """Make a request; its deadline is the allowance after its due time."""
        self.number += 1
        due_ns = int(due_ms * MS)
        return Request(
            request_id=m.RequestId(self.number),
            gateway_id=m.GatewayId(1),
            model=self.models[index],
            arrival_ns=int(arrival_ms * MS),
            deadline_ns=due_ns + ALLOWANCE_NS,
            due_ns=due_ns,
            hold_until_ns=due_ns,
            attempt=m.Attempt(1),
            tenant_id=m.TenantId(tenant),
            promised=promised,
        )

    def wait(self, *dues_ms, **changes):
        """Let requests wait for a model."""
        requests = [self.request(due_ms, **changes) for due_ms in dues_ms]
        for each in requests:
            self.books.enqueue(each)
        return requests

    def promise(self, due_ms, *, count=1, index=0, executor=1):
        """Plan a promised batch, in due order."""
        place = self.place(index, executor)
        plan = place.executor.plan
        due_ns = int(due_ms * MS)
        batch = PlannedBatch(place, place.costs, due_ns, place.warm_ns)
        plan.insert(plan.force_index(due_ns), batch)
        place.batches.append(batch)
        for _ in range(count):
            rider = self.request(due_ms, index=index, promised=True)
            rider.move(RequestState.PLANNED)
            rider.batch = batch
            batch.add(rider)
        return batch

    def expect(self, per_ms, *, index=0):
        """Have so many requests per ms expected of a model."""
        for _ in range(round(per_ms * 200)):  # what counts are the last 200 ms
            self.models[index].rate.count(now_ns=0)


def chosen(bench, *, worth_of=(), reserved=0.0, now_ms=0.0, allowance_ns=ALLOWANCE_NS):
    """Choose; `worth_of` gives a request's worth by its model, 1 where it gives none."""

    def worth(place, request):
        each = dict(enumerate(worth_of)).get(bench.models.index(place.model), 1.0)
        return each, request.tenant_id == OWED

    return select(
        bench.executor,
        worth,
        reserved=reserved,
        allowance_ns=allowance_ns,
        now_ns=int(now_ms * MS),
    )
