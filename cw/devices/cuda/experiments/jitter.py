"""How much replays vary: idle, under LOAD, and while the pages of other models are edited."""

import time
from collections.abc import Callable
from typing import Any, Final

from cw.devices.cuda.experiments.captured import Captured, device_spread
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    answer,
    fall_back,
    passed,
    spread,
)
from cw.devices.cuda.experiments.rig import Rig
from cw.units import PAGE_BYTES

_RUNS: Final = 1000
_WARM_RUNS: Final = 200
_LOAD_PAGES: Final = 16
_EDITED_PAGES: Final = 4
_IDLE_RATIO_MAX: Final = 1.01
_LOAD_RATIO_MAX: Final = 1.03
_LOAD_RATE_PART_MIN: Final = 0.9
_EDIT_SLOWER_MAX: Final = 1.01
_CASES: Final = (("resnet50", 1), ("resnet50", 8), ("bert", 1))
_LOADED_CASE: Final = "resnet50 b1"


def run(rig: Rig) -> list[Measurement]:
    """Replay alone, then beside each disturbance."""
    found = []
    for name, batch_size in _CASES[1:]:
        other = Captured(rig, name, batch_size)
        other.replays(_WARM_RUNS)
        found += device_spread(f"{name} b{batch_size} idle", other.replays(_RUNS // 2))
    graph = Captured(rig, *_CASES[0])
    graph.replays(_WARM_RUNS)
    alone = graph.replays(_RUNS)
    found += device_spread(f"{_LOADED_CASE} idle", alone)
    found += spread("launch idle", [timing.launch_ns for timing in alone])
    expected = graph.output.clone()
    load = _loading(rig)
    plain_gb_s = _rate(rig, load, lambda: time.sleep(0.5))
    loaded_gb_s = _rate(rig, load, lambda: found.extend(_loaded(graph)))
    found += [
        Measurement(name="LOAD alone", value=plain_gb_s, unit="GB/s"),
        Measurement(name="LOAD beside replays", value=loaded_gb_s, unit="GB/s"),
    ]
    with rig.beside(_editing(rig)):
        found += device_spread(f"{_LOADED_CASE} beside edits", graph.replays(_RUNS // 2))
    same = bool(rig.torch.equal(graph.output, expected))
    return [*found, answer("output unchanged by edits", same)]


def _loaded(graph: Captured) -> list[Measurement]:
    timings = graph.replays(_RUNS)
    return device_spread(f"{_LOADED_CASE} under LOAD", timings) + spread(
        "launch under LOAD", [timing.launch_ns for timing in timings]
    )


def _loading(rig: Rig) -> Callable[[int], None]:
    """Return a step that keeps two chunks of a LOAD on their way."""
    space, pages = rig.reserve(_LOAD_PAGES), rig.pages(_LOAD_PAGES)
    space.map(pages)
    source, stream = rig.pinned(space.size_bytes), rig.stream()
    done: list[Any] = [rig.event(blocking=True, timing=False) for _ in range(2)]

    def step(index: int) -> None:
        offset = index % _LOAD_PAGES * PAGE_BYTES
        rig.copy_in(space.address + offset, source + offset, PAGE_BYTES, stream)
        rig.record(done[index % 2], stream)
        if index:
            rig.wait_for(done[(index + 1) % 2])

    return step


def _rate(rig: Rig, load: Callable[[int], None], during: Callable[[], object]) -> float:
    """Return the LOADs' rate, GB/s, while something else goes on."""
    with rig.beside(load) as loads:
        begin_ns, before = time.perf_counter_ns(), loads.count
        during()
        elapsed_ns, count = time.perf_counter_ns() - begin_ns, loads.count - before
    return count * PAGE_BYTES / elapsed_ns


def _editing(rig: Rig) -> Callable[[int], None]:
    """Return a step that maps and unmaps another model's pages."""
    space, pages = rig.reserve(_EDITED_PAGES), rig.pages(_EDITED_PAGES)

    def step(_index: int) -> None:
        space.map(pages)
        space.unmap()

    return step


def verdict(figures: Figures) -> Verdict:
    """Compare the spreads with the targets."""
    idle = max(figures[f"{name} b{batch_size} idle p99/p50"] for name, batch_size in _CASES)
    loaded = figures[f"{_LOADED_CASE} under LOAD p99/p50"]
    part = figures["LOAD beside replays"] / max(1e-9, figures["LOAD alone"])
    slower = figures[f"{_LOADED_CASE} beside edits p99"] / figures[f"{_LOADED_CASE} idle p99"]
    beside = slower <= _EDIT_SLOWER_MAX and figures.holds("output unchanged by edits")
    words = (
        f"p99/p50 {idle:.3f} idle (at most {_IDLE_RATIO_MAX}), {loaded:.3f} under LOAD (at most "
        f"{_LOAD_RATIO_MAX}); LOAD at {part:.0%} of its own rate (at least "
        f"{_LOAD_RATE_PART_MIN:.0%}); edits beside INFERs "
        f"{'harmless' if beside else 'disturb: leave them between INFERs'}"
    )
    if idle > _IDLE_RATIO_MAX:
        return fall_back(f"{words}: look at clocks (nvidia-smi -lgc) and at other processes")
    if loaded > _LOAD_RATIO_MAX or part < _LOAD_RATE_PART_MIN:
        return fall_back(f"{words}: smaller chunks of LOAD, see experiment small_copy")
    return passed(words)


EXPERIMENT: Final = Experiment(
    name="jitter",
    question="How much do replays vary, alone and beside LOADs and page edits?",
    rule=(
        f"p99/p50 at most {_IDLE_RATIO_MAX} idle and {_LOAD_RATIO_MAX} under LOAD; LOAD keeps "
        f"{_LOAD_RATE_PART_MIN:.0%} of its rate."
    ),
    run=run,
    verdict=verdict,
    limit_s=120,
)
