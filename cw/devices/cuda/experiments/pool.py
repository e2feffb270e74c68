"""Whether graphs that share one memory pool stay right, in any order, and what that saves."""

import random
from typing import Any, Final

from cw.devices.cuda.experiments.captured import Captured
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    answer,
    fall_back,
    passed,
)
from cw.devices.cuda.experiments.rig import Rig
from cw.units import MiB

# Largest first: the smaller ones then fit into what it left.
_CASES: Final = (("resnet50", 16), ("bert", 16), ("resnet50", 4), ("bert", 4), ("resnet50", 1))
_REPLAYS: Final = 100
_ERROR_MAX: Final = 1e-2
_QUESTION: Final = "all outputs right in random order"


def run(rig: Rig) -> list[Measurement]:
    """Capture the same graphs with a pool each, then with one for all."""
    alone = _capture_all(rig, shared=False)
    shared = _capture_all(rig, shared=True)
    graphs: list[Captured] = shared[0]
    draw, wrong = random.Random(0), 0
    for _ in range(_REPLAYS):
        graph = draw.choice(graphs)
        graph.output.zero_()
        rig.wait()
        graph.replay()
        wrong += graph.error(graph.expected) > _ERROR_MAX
    return [
        Measurement(name="memory of five graphs, a pool each", value=alone[1] / MiB, unit="MiB"),
        Measurement(name="memory of five graphs, one pool", value=shared[1] / MiB, unit="MiB"),
        answer(_QUESTION, wrong == 0, f"{wrong} of {_REPLAYS} wrong"),
    ]


def _capture_all(rig: Rig, *, shared: bool) -> tuple[list[Captured], int]:
    """Return the graphs, and what torch reserved for them beyond the networks' first copies."""
    torch = rig.torch
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    pool: Any = torch.cuda.graph_pool_handle() if shared else None
    stream = rig.stream(urgent=True) if shared else None
    graphs = [Captured(rig, *case, pool=pool, stream=stream) for case in _CASES]
    torch.cuda.empty_cache()
    return graphs, int(torch.cuda.memory_reserved()) - before


def verdict(figures: Figures) -> Verdict:
    """One pool if it is safe."""
    if not figures.holds(_QUESTION):
        return fall_back("a memory pool for each graph: with one for all an output was wrong")
    own, one = (figures[f"memory of five graphs, {which}"] for which in ("a pool each", "one pool"))
    return passed(f"one pool is safe: {one:.0f} MiB for five graphs instead of {own:.0f}")


EXPERIMENT: Final = Experiment(
    name="pool",
    question="May all graphs share one memory pool?",
    rule="One pool if all outputs are right in random order.",
    run=run,
    verdict=verdict,
)
