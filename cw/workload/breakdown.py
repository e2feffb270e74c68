"""Where a request's added latency goes, step by step.

Added latency is what neither the model's own time on the device nor its lane's work for others
explains. Its steps are durations that the processes on the way measured, each with its own clock
(`Timing`), so that no two clocks are ever compared; what lies between two processes is the
difference, there and back in one.
"""

from collections.abc import Sequence
from typing import Any, Final

import attrs
from rich.table import Table

from cw.messages import Timing
from cw.workload.client import End, Sent
from cw.workload.report import quantiles_ms

STEPS: Final[tuple[tuple[str, str], ...]] = (
    ("client", "client, and its connection to the gateway"),
    ("decision", "gateway to controller, the decision, and back"),
    ("payload", "inputs to the executor, and outputs back"),
    ("start", "from the inputs' coming to the start on the device"),
    ("end", "from the device's end to the outputs' leaving"),
)
"""Each step's name in `--json`, and what it is to people; in the order of time."""


@attrs.frozen(kw_only=True)
class Steps:
    """One request's added latency, in ns; its fields add up to it."""

    client: int
    decision: int
    payload: int
    start: int
    end: int


def steps_of(latency_ns: int, timing: Timing) -> Steps:
    """Part a request's added latency.

    While its lane works for others a request waits first for the controller, which holds it back,
    and then in the executor. So that time is taken off the wait in the executor, and what is left
    of it off the decision.

    Args:
        latency_ns: By the client's clock.
        timing: As the answer told it.
    """
    busy_at_executor_ns = min(timing.lane_busy_ns, timing.waited_ns)
    busy_before_ns = timing.lane_busy_ns - busy_at_executor_ns
    return Steps(
        client=latency_ns - timing.total_ns,
        decision=timing.assigned_ns - busy_before_ns,
        payload=timing.total_ns - timing.assigned_ns - timing.executor_ns,
        start=timing.waited_ns - busy_at_executor_ns,
        end=timing.executor_ns - timing.waited_ns - timing.device_ns,
    )


def breakdown(sent: Sequence[Sent]) -> dict[str, Any]:
    """Sum a load up: per step ``p50, p99`` in ms and its ``share`` of all added latency.

    Only requests that were answered in time count. Empty where none was.
    """
    parted = [
        steps_of(entry.latency_ns, entry.result.timing)
        for entry in sent
        if entry.end is End.KEPT and entry.result is not None
    ]
    if not parted:
        return {}

    columns = {name: [getattr(steps, name) for steps in parted] for name, _ in STEPS}
    columns["all"] = [sum(attrs.astuple(steps)) for steps in parted]
    total_ns = sum(columns["all"]) or 1
    return {
        name: {**quantiles_ms(values, 0.5, 0.99), "share": round(sum(values) / total_ns, 4)}
        for name, values in columns.items()
    }


def breakdown_table(rows: dict[str, Any]) -> Table:
    """Make the table for people."""
    table = Table(title="added latency, step by step", title_justify="left")
    table.add_column("step")
    for heading in ("p50 ms", "p99 ms", "share"):
        table.add_column(heading, justify="right")
    for name, text in (*STEPS, ("all", "all (a sum's quantiles are not the quantiles' sum)")):
        row = rows[name]
        table.add_row(text, f"{row['p50']:.3f}", f"{row['p99']:.3f}", f"{row['share']:.1%}")
    return table
