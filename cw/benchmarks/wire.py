"""How well a whole cluster foresees its answers: one emulated executor at 500 actions a second.

Controller, gateway and executor are processes, as in production; the model takes 1 ms and is never
batched. Two errors are told: of the action, the end that the controller planned with against the
end that the executor measured; and of the answer, what was promised against when the client had it.
"""

import json
import tempfile
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.benchmarks.report import Figure, Report, quantile
from cw.cli import bench
from cw.cli.one_executor import load_options, one_executor
from cw.config import ExecutorSettings
from cw.devices.profile_file import SHIPPED
from cw.models.examples.tiny import MLP
from cw.units import MS, US, GiB

PER_SECOND: Final = 500
ERROR_NS_MAX: Final = 500 * US


def run(*, seconds: float = 10.0, seed: int = 1) -> Report:
    """Measure prediction errors.

    Args:
        seconds: Of load.
        seed: Of the arrivals.
    """
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as folder:
        return trio.run(_measure, Path(folder), seconds, seed)


async def _measure(folder: Path, seconds: float, seed: int) -> Report:
    profile = folder / "fixed-1ms.toml"
    text = (SHIPPED / "fixed-2ms.toml").read_text("utf-8")
    profile.write_text(text.replace('1 = "2ms"', '1 = "1ms"').replace("fixed-2ms", "fixed-1ms"))
    archive = attrs.evolve(MLP, batch_sizes=(1,)).pack(folder / "model", name="model")
    executor = ExecutorSettings(device="emulated", profile=str(profile), gpu_memory_bytes=1 * GiB)
    async with one_executor(folder / "cluster", executor, [archive.folder]) as one:
        options = load_options(seed, seconds, rate=float(PER_SECOND), slo=50 * MS)
        found, _ = await bench.measure(one.client, options)
        await trio.sleep(1)  # records are written four times a second
    records = folder / "cluster" / "logs" / "executor-0.actions.jsonl"
    actions = [json.loads(line) for line in records.read_text().splitlines()]
    errors_ns = [
        abs(each["end_ns"] - each["planned_end_ns"])
        for each in actions
        if each["kind"] == "INFER" and each["slots"] and each["outcome"] == "ok"
    ]
    answer_ms = found["prediction_error_ms"]
    return Report(
        title=f"wire: one emulated executor at {PER_SECOND} actions/s, 1 ms each",
        columns=("error", "p50 us", "p99 us", "max us", "of"),
        rows=(
            (
                "an action's end",
                *(f"{quantile(errors_ns, part) / US:,.0f}" for part in (0.5, 0.99)),
                f"{max(errors_ns, default=0) / US:,.0f}",
                f"{len(errors_ns):,}",
            ),
            (
                "an answer, at the client",
                *(f"{1000 * (answer_ms[name] or 0):,.0f}" for name in ("p50", "p99")),
                "",
                f"{found['kept']:,}",
            ),
        ),
        figures=(
            Figure(
                name="error of an action's end, p99",
                value=quantile(errors_ns, 0.99) / US,
                unit="us",
                at_most=ERROR_NS_MAX / US,
            ),
        ),
    )
