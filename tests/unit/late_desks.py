"""A desk for the policies that promise late, and pieces to ask their parts by hand."""

from types import SimpleNamespace

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.queues import ModelQueue
from cw.core.requests import Request
from cw.units import MS
from tests.unit.scheduler_desk import Desk, of, sole


def desk_of(policy, **changes):
    """Make a desk whose executors are known to be near: an action starts as soon as it is sent."""
    desk = Desk(settings=SchedulerSettings(policy=policy, clockwork_ahead_ns=2 * MS), **changes)
    for executor_id in desk.scheduler.books.executors:
        teach_near(desk, executor_id)
    return desk


def teach_near(desk, executor_id):
    """Run one request on an executor: its answer says that nothing lies between."""
    _, commands = desk.ask(5000)
    while not of(commands, m.Infer):  # some policies wait for company
        desk.now_ns = desk.scheduler.wake_at_ns
        commands = desk.step()
    desk.answer(executor_id, sole(commands, m.Infer))


def busy_desk(policy, **changes):
    """Make a desk whose only lane is busy: what is asked from now on waits for `running`."""
    desk = desk_of(policy, **changes)
    _, commands = desk.ask(12)
    while not of(commands, m.Infer):
        desk.now_ns = desk.scheduler.wake_at_ns
        commands = desk.step()
    return desk, sole(commands, m.Infer)


def riders(action):
    """Name who rides in an action."""
    return [slot.request_id for slot in action.slots]


def place_of(by_count_ms, dues_ms=(), *, arrival_ms=0):
    """Make a place with costs and a queue, as the parts of policies look at it."""
    queue = ModelQueue()
    by_count = [int(ms * MS) for ms in (0, *by_count_ms)]
    model = SimpleNamespace(queue=queue, model_id=m.ModelId(1))
    for number, due_ms in enumerate(dues_ms):
        queue.add(
            Request(
                request_id=m.RequestId(number),
                gateway_id=m.GatewayId(1),
                model=model,
                arrival_ns=arrival_ms * MS,
                deadline_ns=due_ms * MS,
                due_ns=due_ms * MS,
                hold_until_ns=due_ms * MS,
                attempt=m.Attempt(1),
            )
        )
    return SimpleNamespace(
        model=model,
        costs=SimpleNamespace(by_count=by_count, largest=len(by_count_ms)),
        executor=SimpleNamespace(pipe=SimpleNamespace(overhead_ns=0)),
    )
