"""What the controller tells a gateway of its requests."""

import attrs

from cw.messages.catalog import DirectoryChange
from cw.messages.ids import (
    ActionId,
    Attempt,
    Epoch,
    ExecutorId,
    ModelId,
    RequestId,
    Ticket,
)
from cw.messages.models import ModelSpec
from cw.messages.requests import Failure, Refusal
from cw.messages.versions import Route


@attrs.frozen(kw_only=True)
class Promise:
    """The request will be answered by `predicted_finish_ns` (which is before its deadline)."""

    request_id: RequestId
    attempt: Attempt
    predicted_finish_ns: int


@attrs.frozen(kw_only=True)
class Refuse:
    """The request was refused: final."""

    request_id: RequestId
    attempt: Attempt
    refusal: Refusal


@attrs.frozen(kw_only=True)
class Abandon:
    """The request failed after it was taken on, and no further attempt will be made: final."""

    request_id: RequestId
    attempt: Attempt
    failure: Failure


@attrs.frozen(kw_only=True)
class Assignment:
    """One request's place in an assigned action."""

    request_id: RequestId
    attempt: Attempt
    position: int


@attrs.frozen(kw_only=True)
class Assign:
    """Bring these requests' inputs to that executor; implies a promise for each."""

    epoch: Epoch
    action_id: ActionId
    ticket: Ticket
    executor_id: ExecutorId
    predicted_finish_ns: int
    assignments: tuple[Assignment, ...]


Decision = Promise | Refuse | Abandon | Assign


@attrs.frozen(kw_only=True)
class ExecutorAddress:
    """Where a gateway brings inputs for an executor."""

    executor_id: ExecutorId
    address: str


@attrs.frozen(kw_only=True)
class Notices:
    """Controller to gateway, many to a message; fields apply in this order."""

    directory: tuple[DirectoryChange, ...] = ()
    models_added: tuple[ModelSpec, ...] = ()
    routes: tuple[Route, ...] = ()
    models_removed: tuple[ModelId, ...] = ()
    executors_joined: tuple[ExecutorAddress, ...] = ()
    executors_lost: tuple[ExecutorId, ...] = ()
    decisions: tuple[Decision, ...] = ()
