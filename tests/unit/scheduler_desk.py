"""A desk for the scheduler's tests: a ready cluster whose executors answer only when told to."""

from cw import messages as m
from cw.core.events import ActionDone, RequestArrived
from cw.units import MS, SECOND
from tests.unit.scheduler_world import World, descriptor


class Desk:
    """A ready cluster whose executors do nothing by themselves: the test answers for them."""

    def __init__(self, **changes):
        self.world = World(**{"models": 2, "noise": 0.0, **changes})
        self.world.register()
        # Ends between two of the scheduler's own looks, which are a second apart.
        self.world.run_until(self.world.now_ns + 5 * SECOND + 300 * MS)
        self.scheduler, self.number = self.world.scheduler, 0
        self.now_ns = self.world.now_ns
        self.warm_everywhere()

    def warm_everywhere(self):
        """Have every model's weights loaded on every executor."""
        for executor in self.scheduler.books.executors.values():
            for place in executor.places.values():
                if place.residency.value == "cold":
                    self.scheduler.dispatcher.load(place, self.now_ns)
        for command in self.scheduler.dispatcher.take_commands():
            self.answer(command.executor_id, command.action)

    def step(self, *events, ms=0.0):
        self.now_ns += int(ms * MS)
        commands = self.scheduler.handle(*events, now_ns=self.now_ns)
        self.scheduler.validate()
        return commands

    def ask(self, slo_ms=50.0, *, model=0, gateway=1, **changes):
        self.number += 1
        described = descriptor(
            self.number,
            self.world.specs[model],
            self.now_ns,
            int(slo_ms * MS),
            gateway=gateway,
            **changes,
        )
        return described, self.step(RequestArrived(descriptor=described))

    def answer(self, executor_id, action, outcome=m.Outcome.OK, *, ms=4.7, ran=None, detail=""):
        slots = action.slots if isinstance(action, m.Infer) else ()
        start_ns, self.now_ns = self.now_ns, self.now_ns + int(ms * MS)
        ok = outcome is m.Outcome.OK
        result = m.ActionResult(
            action_id=action.action_id,
            outcome=outcome,
            received_ns=start_ns,
            ready_ns=start_ns,
            start_ns=start_ns,
            end_ns=self.now_ns if ok else start_ns,
            device_ns=int(ms * MS) if ok else 0,
            running_ns=int(ms * MS) if ok else 0,
            ran=tuple(ok for _ in slots) if ran is None else ran,
            detail=detail,
        )
        return self.step(ActionDone(executor_id=executor_id, result=result))

    def settle(self, described, outcome=m.SettledAs.KEPT, attempt=1):
        return self.step(
            m.Settled(
                request_id=described.request_id,
                attempt=m.Attempt(attempt),
                outcome=outcome,
                finished_ns=self.now_ns,
            )
        )


def of(commands, kind):
    """Pick decisions or actions of a kind out of a step's commands."""
    found = []
    for command in commands:
        inner = getattr(command, "decision", None) or getattr(command, "action", command)
        if isinstance(inner, kind):
            found.append(inner)
    return found


def sole(commands, kind):
    (found,) = of(commands, kind)
    return found
