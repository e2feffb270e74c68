"""Open-loop load: requests leave at their scheduled instants, however slow the answers are.

A closed loop (send, wait, send) slows down with the server and hides its queue; an open loop shows
what users would have seen. Each request's latency and SLO count from its *scheduled* start, so that
the generator's own lateness is not forgiven.

Neighbours: `arrivals.py` (the schedule), `report.py` (what became of it).
"""

import enum
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
import trio

from cw.actors.clock import PreciseTimer, now_ns
from cw.client import Array, Result
from cw.errors import CwError, PeerDisconnected
from cw.messages import Datatype, ModelSpec
from cw.units import SECOND

_MARKS_INPUTS = frozenset(("mask", "attention_mask"))
_TOKENS_MAX = 100
_STARTED_AT_ONCE = 64
"""Clients of a closed loop: thousands at once would keep the first answers unread for seconds."""


class Asks(Protocol):
    """Asks a server: cw's own client, or another's (`cw/benchmarks/peers/http_client.py`)."""

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        slo: str | int | None,
        started_ns: int | None = None,
    ) -> Result:
        """Ask for one inference; see `cw.client.Client.infer`."""
        ...


class End(enum.Enum):
    """How a request ended, by the client's own clock."""

    KEPT = "kept"
    REFUSED = "refused"
    BROKEN = "broken"
    """Promised, then late or failed; or answered with outputs that came late."""
    FAILED = "failed"


@attrs.frozen(kw_only=True)
class Planned:
    """One request to send."""

    at_ns: int
    """From the start of the run."""
    model: str
    inputs: Mapping[str, Array]
    tag: int = 0
    """The sender's own: which of its inputs this is, for checking the outputs."""


@attrs.frozen(kw_only=True)
class Sent:
    """One request, sent and answered (or given up)."""

    planned: Planned
    scheduled_ns: int
    """This process's clock."""
    lateness_ns: int
    """By how much the generator missed the schedule."""
    latency_ns: int
    """From the scheduled start to the answer."""
    end: End
    reason: str
    """Refusal's reason, or failure's kind; empty when kept."""
    result: Result | None


def classify(result: Result, *, in_time: bool) -> tuple[End, str]:
    """Judge an answer by the client's clock."""
    if result.outputs is not None:
        return (End.KEPT, "") if in_time else (End.BROKEN, "late")
    if result.refusal is not None:
        return End.REFUSED, result.refusal.reason.value
    assert result.failure is not None
    end = End.BROKEN if result.promised else End.FAILED
    return end, result.failure.kind.value


async def send_one(
    client: Asks, planned: Planned, *, scheduled_ns: int, slo_ns: int | None, keep_results: bool
) -> Sent:
    """Send one request now and judge its answer from its scheduled start."""
    lateness_ns = now_ns() - scheduled_ns
    result: Result | None = None
    try:
        result = await client.infer(
            planned.model, planned.inputs, slo=slo_ns, started_ns=scheduled_ns
        )
        latency_ns = now_ns() - scheduled_ns
        end, reason = classify(result, in_time=slo_ns is None or latency_ns <= slo_ns)
        if not keep_results:
            result = attrs.evolve(result, outputs=None)
    except CwError as exc:
        latency_ns = now_ns() - scheduled_ns
        end, reason = End.FAILED, type(exc).__name__
    return Sent(
        planned=planned,
        scheduled_ns=scheduled_ns,
        lateness_ns=lateness_ns,
        latency_ns=latency_ns,
        end=end,
        reason=reason,
        result=result,
    )


async def run_open_loop(
    client: Asks,
    plan: Sequence[Planned],
    *,
    slo_ns: int | None,
    keep_results: bool = False,
    progress: Callable[[int], object] | None = None,
    scope: trio.CancelScope | None = None,
) -> list[Sent]:
    """Send a plan and wait for every answer.

    Args:
        client: Where to.
        plan: Ascending by `at_ns`.
        slo_ns: Of every request, from its scheduled start; None: best effort.
        keep_results: Keep the outputs in `Sent.result`; otherwise only what they say of time.
        progress: Called with the number of requests sent so far, about ten times a second.
        scope: Cancel it to end early.

    Returns:
        One entry per planned request, in the order of the plan; without those that were not sent,
        or not answered, when `scope` was cancelled.
    """
    sent: dict[int, Sent] = {}
    start_ns = now_ns() + SECOND // 20

    async def send(index: int, planned: Planned) -> None:
        sent[index] = await send_one(
            client,
            planned,
            scheduled_ns=start_ns + planned.at_ns,
            slo_ns=slo_ns,
            keep_results=keep_results,
        )

    shown_ns = start_ns
    with PreciseTimer() as timer, scope or trio.CancelScope():
        async with trio.open_nursery() as nursery:
            for index, planned in enumerate(plan):
                at_ns = start_ns + planned.at_ns
                if at_ns > now_ns():
                    await timer.sleep_until_ns(at_ns)
                nursery.start_soon(send, index, planned)
                if progress is not None and at_ns - shown_ns > SECOND // 10:
                    shown_ns = at_ns
                    progress(index + 1)
    if progress is not None:
        progress(len(plan))
    return [sent[index] for index in sorted(sent)]


async def run_closed_loop(
    client: Asks,
    plan: Sequence[Planned],
    *,
    slo_ns: int | None,
    in_flight: int,
    seconds: float,
    scope: trio.CancelScope | None = None,
) -> list[Sent]:
    """Keep `in_flight` requests open, drawn from `plan` in turn: measures capacity, not service.

    Ends when `seconds` are over, `scope` is cancelled, or the server is gone: to ask it again at
    once would only count the same loss for as long as the run lasts.

    Returns:
        One entry per answer (or loss), in their order.
    """
    sent: list[Sent] = []
    turn = itertools.cycle(plan)
    end_ns = now_ns() + round(seconds * SECOND)

    async def keep_one_open() -> None:
        while (start_ns := now_ns()) < end_ns:
            one = await send_one(
                client, next(turn), scheduled_ns=start_ns, slo_ns=slo_ns, keep_results=False
            )
            sent.append(one)
            if one.reason == PeerDisconnected.__name__:
                return

    with scope or trio.CancelScope():
        async with trio.open_nursery() as nursery:
            for number in range(1, in_flight + 1):
                nursery.start_soon(keep_one_open)
                if number % _STARTED_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()  # answers are read meanwhile
    return sent


def random_inputs(spec: ModelSpec, generator: np.random.Generator) -> dict[str, Array]:
    """Make one sample of valid inputs for a model: noise, small token numbers, masks of ones."""
    inputs: dict[str, Any] = {}
    for tensor in spec.inputs:
        dtype = np.dtype(tensor.datatype.numpy_name)
        if tensor.name in _MARKS_INPUTS or tensor.datatype is Datatype.BOOL:
            inputs[tensor.name] = np.ones(tensor.shape, dtype)
        elif dtype.kind == "f":
            inputs[tensor.name] = generator.standard_normal(tensor.shape).astype(dtype)
        else:
            inputs[tensor.name] = generator.integers(0, _TOKENS_MAX, tensor.shape).astype(dtype)
    return inputs
