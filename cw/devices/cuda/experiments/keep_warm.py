"""Whether a replay after some idle time is slower, and a small graph in between helps."""

import time
from collections.abc import Callable
from typing import Final

from cw.devices.cuda.experiments.captured import Captured
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    advise,
    fall_back,
    passed,
    quantile,
)
from cw.devices.cuda.experiments.rig import Rig
from cw.units import MS, SECOND, US

_IDLE_NS: Final = (2 * MS, 20 * MS, 200 * MS, SECOND)
_SAMPLES_NS: Final = 4 * SECOND
"""So long is each idle time repeated, within these bounds on the count:"""
_SAMPLES_MIN: Final = 8
_SAMPLES_MAX: Final = 60
_WARM_EVERY_NS: Final = 2 * MS
_SLOWER_MAX: Final = 1.03


def run(rig: Rig) -> list[Measurement]:
    """Replay after idle times; the longest also with a small graph run meanwhile."""
    graph = Captured(rig, "resnet50", 1)
    replay_small = _small(rig, graph)
    graph.replays(200)
    found = [_worst("busy", graph, 200, lambda: None)]
    for idle_ns in _IDLE_NS:
        count = min(_SAMPLES_MAX, max(_SAMPLES_MIN, _SAMPLES_NS // idle_ns))
        found.append(_worst(_name(idle_ns), graph, count, _sleep(idle_ns)))

    def keep_warm() -> None:
        end_ns = time.perf_counter_ns() + _IDLE_NS[-1]
        while time.perf_counter_ns() < end_ns:
            replay_small()
            time.sleep(_WARM_EVERY_NS / SECOND)

    return [*found, _worst("kept warm", graph, _SAMPLES_MIN, keep_warm)]


def _small(rig: Rig, beside: Captured) -> Callable[[], None]:
    """Make the graph that the device would keep the card warm with; return what replays it."""
    from cw.devices.cuda.capture import capture_small  # needs torch, which the list does not

    kept = capture_small(rig.shipped, stream=beside.stream)

    def replay() -> None:
        rig.shipped.launch(kept[0].executable, beside.stream)
        rig.wait()

    return replay


def _sleep(duration_ns: int) -> Callable[[], None]:
    return lambda: time.sleep(duration_ns / SECOND)


def _name(idle_ns: int) -> str:
    return f"after {idle_ns // MS} ms"


def _worst(name: str, graph: Captured, count: int, before: Callable[[], None]) -> Measurement:
    samples_ns = []
    for _ in range(count):
        before()
        samples_ns.append(graph.replay().device_ns)
    p99_ns = quantile(samples_ns, 0.99)
    return Measurement(name=name, value=p99_ns / US, unit="us", note=f"p99, n={count}")


def verdict(figures: Figures) -> Verdict:
    """Find the idle time after which replays are slow."""
    busy_us = figures["busy"]
    ratios = {idle_ns: figures[_name(idle_ns)] / busy_us for idle_ns in _IDLE_NS}
    slow = [idle_ns for idle_ns, ratio in ratios.items() if ratio > _SLOWER_MAX]
    if not slow:
        return passed(f"after idle times a replay takes at most {max(ratios.values()):.2f} of busy")
    kept = figures["kept warm"] / busy_us
    words = f"after {slow[0] // MS} ms idle a replay takes {ratios[slow[0]]:.2f} of a busy one's"
    if kept <= _SLOWER_MAX:
        return advise(f'{words}, kept warm {kept:.2f}: keep_warm = "{_WARM_EVERY_NS // MS}ms"')
    return fall_back(f"{words}, kept warm {kept:.2f}: lock the clocks (nvidia-smi -lgc)")


EXPERIMENT: Final = Experiment(
    name="keep_warm",
    question="Is a replay after idle time slower?",
    rule=f"Keep warm from the idle time on after which p99 exceeds {_SLOWER_MAX}x the busy one.",
    run=run,
    verdict=verdict,
    limit_s=90,
)
