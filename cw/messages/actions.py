"""What the controller orders an executor to do, and what the executor measured of it."""

import enum

import attrs

from cw.messages.ids import ActionId, Attempt, Epoch, ModelId, RequestId, Ticket
from cw.messages.models import ModelSpec


@attrs.frozen(kw_only=True)
class Window:
    """Bounds on an action's *start*, both ends included."""

    earliest_ns: int
    latest_ns: int

    def __attrs_post_init__(self) -> None:
        assert self.earliest_ns <= self.latest_ns, f"empty window {self}"


@attrs.frozen(kw_only=True)
class Slot:
    """One request's place in a batch; its position is its index in `Infer.slots`."""

    request_id: RequestId
    attempt: Attempt
    deadline_ns: int


@attrs.frozen(kw_only=True)
class Prepare:
    """Load a model's program, reserve its addresses and open its image: once, at registration.

    An action like the others, on the INFER lane, since loading a program takes long (0.3-2 s) and
    would disturb what runs beside it.
    """

    action_id: ActionId
    model: ModelSpec
    expected_ns: int
    window: Window


@attrs.frozen(kw_only=True)
class Load:
    """Copy a model's weights into free pages."""

    action_id: ActionId
    model_id: ModelId
    expected_ns: int
    window: Window


@attrs.frozen(kw_only=True)
class Unload:
    """Free a model's pages. `forget` also drops what PREPARE made: the model was removed."""

    action_id: ActionId
    model_id: ModelId
    forget: bool = False


@attrs.frozen(kw_only=True)
class Infer:
    """Run one batch. With no slots it is a *probe*: random inputs, run to be measured."""

    action_id: ActionId
    model_id: ModelId
    batch_size: int
    """The captured size that runs; `len(slots)` of it are requests, the rest is padding."""
    slots: tuple[Slot, ...]
    ticket: Ticket
    expected_ns: int
    window: Window


Action = Prepare | Load | Unload | Infer


class Outcome(enum.Enum):
    """How an action ended. Everything but OK left the device as it was."""

    OK = "ok"
    TOO_LATE = "tooLate"
    """Its window had closed before it could start."""
    INPUTS_LATE = "inputsLate"
    """No inputs had come by `latest`."""
    NOT_RESIDENT = "notResident"
    PAGES_EXHAUSTED = "pagesExhausted"
    UNKNOWN_MODEL = "unknownModel"
    CANCELLED = "cancelled"
    """Every slot was cancelled before the start."""
    STALE_EPOCH = "staleEpoch"
    INVALID = "invalid"
    """The program or image could not be prepared: `ActionResult.detail` says why."""
    DEVICE_FAULT = "deviceFault"


@attrs.frozen(kw_only=True)
class ActionResult:
    """One action's end, measured. Instants are cluster time."""

    action_id: ActionId
    outcome: Outcome
    received_ns: int
    """When the executor had the action."""
    ready_ns: int
    """When its last inputs came (`received_ns` for actions without)."""
    start_ns: int
    end_ns: int
    device_ns: int
    """Duration on the device alone; what profiles learn from. 0 unless OK."""
    running_ns: int = 0
    """Of `device_ns`, the time that the device's own thread was on a processor: the difference is
    the machine's doing, not the model's. Equal to `device_ns` where it can't be told."""
    ran: tuple[bool, ...] = ()
    """Per slot: its inputs were there and it ran."""
    detail: str = ""


@attrs.frozen(kw_only=True)
class CancelSlot:
    """A gateway's caller went away: leave its position out if the action has not started."""

    request_id: RequestId
    attempt: Attempt


@attrs.frozen(kw_only=True)
class Orders:
    """Controller to executor, many to a message."""

    epoch: Epoch
    actions: tuple[Action, ...] = ()
    cancels: tuple[CancelSlot, ...] = ()
