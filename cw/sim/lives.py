"""The lives of simulated executors: how one begins, new or with what it had before.

Neighbours: `executor.py` is what lives, `world.py` says when.
"""

import hashlib
import random
from typing import TYPE_CHECKING

from cw.core.residency import Residency, Step
from cw.messages import DeviceDescription, ExecutorId
from cw.sim.clocks import EdgeClock
from cw.sim.executor import SimExecutor
from cw.sim.lane import SimLane

if TYPE_CHECKING:
    from cw.sim.controller import SimController
    from cw.sim.world import World


def new_executor(
    world: "World",
    executor_id: ExecutorId,
    name: str,
    *,
    controller: "SimController",
    clock: EdgeClock,
    seed: int,
    survived: SimExecutor | None = None,
) -> SimExecutor:
    """Bring an executor to life.

    Args:
        world: Where it lives.
        executor_id: Given by the controller.
        name: Stays the same over all of its lives.
        controller: Of its cell.
        clock: What it lives by.
        seed: Of its durations.
        survived: The same process before its connection was cut: what it had prepared and loaded
            is still there. What was queued is not.
    """
    device = describe(world)

    def lane(kind: str) -> SimLane:
        digest = hashlib.sha256(f"{seed} {name} {kind} {executor_id}".encode()).digest()
        return SimLane(kind, random.Random(digest))

    infer_lane = lane("infer")
    executor = SimExecutor(
        world=world,
        executor_id=executor_id,
        name=name,
        controller=controller,
        to_executor=world.network.link(),
        to_controller=world.network.link(),
        infer_lane=infer_lane,
        load_lane=infer_lane if device.shared_lanes else lane("load"),
        free_pages=list(range(device.pages_total))[::-1],
        clock=clock,
    )
    if survived is not None:
        _take_over(survived, executor)
    return executor


def _take_over(before: SimExecutor, after: SimExecutor) -> None:
    """Move what a cut-off executor still has into its next life."""
    for model in before.models.values():
        after.keep(model)
    taken: set[int] = set()
    for model_id in before.residency.known(Residency.COLD, Residency.WARM):
        after.residency.step(model_id, Step.PREPARED)
        if before.residency.state(model_id) is Residency.WARM:
            after.residency.step(model_id, Step.LOAD_BEGINS)
            after.residency.step(model_id, Step.LOAD_ENDS)
            after.pages_of[model_id] = before.pages_of[model_id]
            after.controller.checkers.pages_claimed(after, model_id, after.pages_of[model_id])
            taken.update(before.pages_of[model_id])
    after.free_pages = [page for page in after.free_pages if page not in taken]


def describe(world: "World") -> DeviceDescription:
    """Describe the emulated device, as `devices/emulated.py` does."""
    profile = world.profile
    return DeviceDescription(
        kind="emulated",
        name=profile.name,
        pages_total=profile.pages_total,
        shared_lanes=profile.shared_lanes,
        load_bytes_per_second=profile.load_bytes_per_second or 10**15,
    )
