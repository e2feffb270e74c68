"""Whether cuDNN's search for the fastest kernels at capture is worth its time."""

import time
from typing import Final

from cw.devices.cuda.experiments.captured import Captured, device_spread
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    advise,
    passed,
)
from cw.devices.cuda.experiments.rig import Rig
from cw.units import MS

_RUNS: Final = 300
_GAIN_MIN: Final = 0.05


def run(rig: Rig) -> list[Measurement]:
    """Capture without and with the search, and replay each."""
    found = []
    for search in (False, True):
        rig.torch.backends.cudnn.benchmark = search
        begin_ns = time.perf_counter_ns()
        graph = Captured(rig, "resnet50", 4)
        took_ms = (time.perf_counter_ns() - begin_ns) / MS
        graph.replays(_RUNS)
        name = _name(search)
        found.append(Measurement(name=f"capture {name}", value=took_ms, unit="ms"))
        found += device_spread(f"replay {name}", graph.replays(_RUNS))
    return found


def _name(search: bool) -> str:
    return "with the search" if search else "without"


def verdict(figures: Figures) -> Verdict:
    """Compare the medians; the default is off."""
    without, searched = (figures[f"replay {_name(search)} p50"] for search in (False, True))
    gain = 1 - searched / without
    words = f"cudnn_benchmark changes a replay of ResNet-50 at batch 4 by {-gain:+.1%}"
    if gain >= _GAIN_MIN:
        return advise(f"{words}: set it to true")
    return passed(f"{words}: less than {_GAIN_MIN:.0%} gained, it stays off")


EXPERIMENT: Final = Experiment(
    name="autotune",
    question="Is cudnn_benchmark at capture worth it?",
    rule=f"On if the median replay gains {_GAIN_MIN:.0%}.",
    run=run,
    verdict=verdict,
)
