"""An accepted action on its way through an executor, and what became of it.

Both sides of a clock meet here: inside the executor instants are on its own clock, in results and
records they are cluster time.
"""

import attrs

from cw.actors.clock import date_ns
from cw.actors.controller_link import ControllerLink
from cw.actors.telemetry import ActionRecord
from cw.core.input_batch import ActionKey
from cw.core.lane import tighten
from cw.messages import (
    Action,
    ActionResult,
    Infer,
    ModelId,
    Outcome,
    Prepare,
    Unload,
    Window,
    gateway_of,
)


@attrs.frozen(kw_only=True, eq=False)
class Queued:
    """An accepted action. Instants are on this process's clock."""

    action: Action
    link: ControllerLink
    turn: int
    """Its place in the order of all accepted actions."""
    received_ns: int
    window: Window | None
    """Tightened by the clock's error; None for an UNLOAD."""
    key: ActionKey | None
    """For an INFER with slots: what joins its inputs to it."""


@attrs.frozen(kw_only=True)
class Ended:
    """How an action ended. Instants are on this process's clock."""

    outcome: Outcome
    start_ns: int
    end_ns: int
    ready_ns: int
    device_ns: int = 0
    running_ns: int = 0
    ran: tuple[bool, ...] = ()
    detail: str = ""


def model_of(action: Action) -> ModelId:
    """Say which model an action is for."""
    return action.model.model_id if isinstance(action, Prepare) else action.model_id


def local_window(link: ControllerLink, action: Action, *, now_ns: int) -> Window | None:
    """Bring an action's window onto this process's clock, less that clock's error."""
    if isinstance(action, Unload):
        return None
    window = Window(
        earliest_ns=link.clock.to_local_ns(action.window.earliest_ns),
        latest_ns=link.clock.to_local_ns(action.window.latest_ns),
    )
    return tighten(window, link.clock.error_bound_ns(now_ns))


def result_of(queued: Queued, ended: Ended) -> ActionResult:
    """Say in cluster time how an action ended, and by what that was converted."""
    action, clock = queued.action, queued.link.clock
    offset_ns = clock.to_cluster_ns(0)
    return ActionResult(
        action_id=action.action_id,
        outcome=ended.outcome,
        received_ns=queued.received_ns + offset_ns,
        ready_ns=ended.ready_ns + offset_ns,
        start_ns=ended.start_ns + offset_ns,
        end_ns=ended.end_ns + offset_ns,
        device_ns=ended.device_ns,
        running_ns=ended.running_ns,
        planned_start_ns=action.planned_start_ns,
        expected_ns=action.expected_ns,
        clock_offset_ns=offset_ns,
        clock_error_ns=clock.error_bound_ns(ended.end_ns),
        ran=ended.ran,
        detail=ended.detail,
    )


def record_of(
    queued: Queued, result: ActionResult, *, executor: str, device: str, model: str
) -> ActionRecord:
    """Make an action's line in the telemetry.

    Args:
        queued: The action.
        result: What the controller is told of it.
        executor: This executor's name.
        device: Its device, as equal devices call themselves.
        model: The action's model by its name; empty if that is not known here.
    """
    action, link = queued.action, queued.link
    window = None if isinstance(action, Unload) else action.window
    slots = action.slots if isinstance(action, Infer) else ()
    return ActionRecord(
        date_ns=date_ns(result.local_ns(result.end_ns)),
        executor=executor,
        device=device,
        epoch=link.epoch,
        executor_id=link.executor_id,
        action_id=action.action_id,
        kind=type(action).__name__.upper(),
        model_id=model_of(action),
        model=model,
        outcome=result.outcome.value,
        batch_size=action.batch_size if isinstance(action, Infer) else 0,
        slots=len(slots),
        gateways=len({gateway_of(slot.request_id) for slot in slots}),
        ran=sum(result.ran),
        earliest_ns=0 if window is None else window.earliest_ns,
        latest_ns=0 if window is None else window.latest_ns,
        expected_ns=result.expected_ns,
        planned_start_ns=result.planned_start_ns,
        planned_end_ns=result.planned_end_ns,
        received_ns=result.received_ns,
        ready_ns=result.ready_ns,
        start_ns=result.start_ns,
        end_ns=result.end_ns,
        device_ns=result.device_ns,
        running_ns=result.running_ns,
        clock_offset_ns=result.clock_offset_ns,
        clock_error_ns=result.clock_error_ns,
        detail=result.detail,
    )
