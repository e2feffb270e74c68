"""How well emulated executors keep time: eight INFER lanes in one process, fed from memory.

Each lane gets an action every 2 ms, ordered some milliseconds ahead with a window of its own and
its inputs. The *start error* is how much later than planned the device began. The limit is what a
bare timer does in the same process, before the lanes run.
"""

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.actors.clock import PreciseTimer, now_ns
from cw.actors.weights_cache import ModelFiles
from cw.benchmarks.report import Figure, Report, quantile
from cw.benchmarks.rig import Rig, running_executor
from cw.devices.emulated import EmulatedDevice
from cw.devices.profile_file import BatchDurations, read_profile
from cw.messages import Datatype, ModelSpec, Outcome, TensorSpec, Window, model_id_for
from cw.units import MS, PAGE_BYTES, SECOND, US

LANES: Final = 8
PER_SECOND: Final = 500
START_ERROR_NS_MAX: Final = 200 * US

_DURATION_NS: Final = MS
_AHEAD_NS: Final = 4 * MS
_WINDOW_NS: Final = 5 * MS
_INPUT: Final = (bytes(256),)


def run(*, seconds: float = 10.0, lanes: int = LANES, core: int | None = None) -> Report:
    """Measure start errors.

    Args:
        seconds: Of actions.
        lanes: Executors in this process.
        core: Keep the process on this processor; None: the last that it may use.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before) if core is None else core})
    try:
        return trio.run(_measure, seconds, lanes)
    finally:
        os.sched_setaffinity(0, before)


@attrs.define
class _Tally:
    """Start errors of what ran, and how many did not."""

    late_ns: list[int] = attrs.Factory(list)
    missed: int = 0


async def _measure(seconds: float, lanes: int) -> Report:
    bare = await _bare_timer(min(seconds, 3.0))
    tally = _Tally()
    async with AsyncExitStack() as stack:
        rigs = [await _open(stack) for _ in range(lanes)]
        begin_ns = now_ns() + 50 * MS
        async with trio.open_nursery() as nursery:
            for index, rig in enumerate(rigs):
                # Out of step with one another, as lanes are.
                first_ns = begin_ns + index * SECOND // (PER_SECOND * lanes)
                nursery.start_soon(_feed, rig, first_ns, round(seconds * PER_SECOND), tally)
    rows = (
        _row("bare timer", bare, 0),
        _row(f"{lanes} lanes", tally.late_ns, tally.missed),
    )
    return Report(
        title=f"emulated: {lanes} lanes at {PER_SECOND} actions/s each, one process on one core",
        columns=("start error", "p50 us", "p99 us", "p99.9 us", "max us", "actions", "missed"),
        rows=rows,
        figures=(
            Figure(
                name="start error p99",
                value=quantile(tally.late_ns, 0.99) / US,
                unit="us",
                at_most=START_ERROR_NS_MAX / US,
            ),
        ),
    )


def _row(name: str, late_ns: list[int], missed: int) -> tuple[str, ...]:
    points = (quantile(late_ns, part) / US for part in (0.5, 0.99, 0.999))
    worst = max(late_ns, default=0) / US
    return (name, *(f"{us:,.0f}" for us in (*points, worst)), f"{len(late_ns):,}", str(missed))


async def _bare_timer(seconds: float) -> list[int]:
    """Sleep as often as one lane does, and nothing else; say how late each wake was."""
    late = []
    with PreciseTimer() as timer:
        instant_ns = now_ns()
        for _ in range(round(seconds * PER_SECOND)):
            instant_ns += SECOND // PER_SECOND
            await timer.sleep_until_ns(instant_ns)
            late.append(now_ns() - instant_ns)
    return late


async def _open(stack: AsyncExitStack) -> Rig:
    profile = attrs.evolve(
        read_profile("instant"),
        infer=BatchDurations((1,), (_DURATION_NS,)),
        load_bytes_per_second=0,
    )
    device = EmulatedDevice(profile, pages_total=4, verify=False)
    stack.push_async_callback(device.aclose)
    none = ModelFiles(program=Path(), weights=Path())  # nothing is read from them
    rig = await stack.enter_async_context(running_executor(device, {_MODEL.name: none}))
    await rig.prepare(_MODEL)
    await rig.load(_MODEL.model_id)
    return rig


_MODEL: Final = ModelSpec(
    model_id=model_id_for("bench", "a" * 64, "b" * 64),
    name="bench",
    program_sha256="a" * 64,
    weights_sha256="b" * 64,
    image_bytes=PAGE_BYTES,
    inputs=(TensorSpec(name="x", datatype=Datatype.UINT8, shape=(256,)),),
    outputs=(TensorSpec(name="y", datatype=Datatype.UINT8, shape=(256,)),),
    batch_sizes=(1,),
)


async def _feed(rig: Rig, first_ns: int, count: int, tally: _Tally) -> None:
    """Order actions ahead of their time, one every so many, and collect their results."""
    async with trio.open_nursery() as nursery:
        for index in range(count):
            start_ns = first_ns + index * SECOND // PER_SECOND
            await trio.sleep_until((start_ns - _AHEAD_NS) / SECOND)
            nursery.start_soon(_one, rig, start_ns, tally)


async def _one(rig: Rig, start_ns: int, tally: _Tally) -> None:
    window = Window(earliest_ns=start_ns, latest_ns=start_ns + _WINDOW_NS)
    action = rig.infer(_MODEL.model_id, 1, window)
    rig.orderer.order(action)
    await rig.bring_inputs(action, _INPUT)
    result = await rig.orderer.result(action.action_id)
    if result.outcome is Outcome.OK:
        tally.late_ns.append(result.start_ns - start_ns)
    else:
        tally.missed += 1
