"""What capturing costs, what nodes a graph has, and what a launch costs by which way."""

import time
from collections import Counter
from typing import Final

from cw.devices.cuda.experiments.captured import Captured
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    answer,
    elapsed_ns,
    failed,
    fall_back,
    passed,
    quantile,
    spread,
)
from cw.devices.cuda.experiments.rig import Rig
from cw.units import MS, MiB

_LAUNCHES: Final = 200
_EXECUTABLES: Final = 50
_LAUNCH_US_MAX: Final = 50.0
_ERROR_MAX: Final = 1e-2
_ALLOWED: Final = frozenset({"KERNEL", "MEMSET", "MEMCPY", "EVENT_RECORD"})


def run(rig: Rig) -> list[Measurement]:
    """Capture both networks."""
    found = []
    for name in ("resnet50", "bert"):
        free_before, begin_ns = rig.free_bytes(), time.perf_counter_ns()
        graph = Captured(rig, name, 1)
        took_ns, taken = time.perf_counter_ns() - begin_ns, free_before - rig.free_bytes()
        taken -= graph.range.size_bytes
        graph.replay()
        kinds = Counter(rig.shipped.node_kinds(int(graph.graph.raw_cuda_graph())))
        found += [
            Measurement(name=f"{name}: build and capture", value=took_ns / MS, unit="ms"),
            Measurement(name=f"{name}: memory beyond pages", value=taken / MiB, unit="MiB"),
            Measurement(name=f"{name}: nodes", value=kinds.total(), note=str(dict(kinds))),
            answer(f"{name}: only nodes that replay without the host", kinds.keys() <= _ALLOWED),
            answer(f"{name}: right output", graph.error(graph.expected) < _ERROR_MAX),
            *_launches(rig, name, graph),
            *_given_back(rig, name, graph),
        ]
    return found


def _launches(rig: Rig, name: str, graph: Captured) -> list[Measurement]:
    """Time the host's part of a launch, by the driver and by torch."""
    torch = rig.torch
    stream = torch.cuda.ExternalStream(int(graph.stream))

    def by_torch() -> None:
        with torch.cuda.stream(stream):
            graph.graph.replay()

    graph.graph.instantiate()  # torch's executable, beside the device's own
    ways = {"launch by the driver": graph.launch, "launch by torch": by_torch}
    found = []
    for way, launch in ways.items():
        samples_ns = []
        for _ in range(_LAUNCHES):
            samples_ns.append(elapsed_ns(launch))
            rig.wait()
        found += spread(f"{name}: {way}", samples_ns)
    return [*found, _after_upload(rig, name, graph)]


def _after_upload(rig: Rig, name: str, graph: Captured) -> Measurement:
    """Compare the first launch of a fresh executable graph that was uploaded with later ones."""
    executable = _instantiate(rig, graph)
    rig.wait()

    def launch() -> None:
        rig.shipped.launch(executable, graph.stream)
        rig.wait()

    samples_ns = [elapsed_ns(launch) for _ in range(20)]
    rig.shipped.drop_executable(executable)
    ratio = samples_ns[0] / quantile(samples_ns[1:], 0.5)
    return Measurement(name=f"{name}: first launch after an upload against others", value=ratio)


def _given_back(rig: Rig, name: str, graph: Captured) -> list[Measurement]:
    """Free many executables: a removed model's graphs must leave room for another's."""
    before = rig.free_bytes()
    executables = [_instantiate(rig, graph) for _ in range(_EXECUTABLES)]
    rig.wait()
    with_them = rig.free_bytes()
    for executable in executables:
        rig.shipped.drop_executable(executable)
    rig.wait()
    taken, given_back = before - with_them, rig.free_bytes() - with_them
    of_all = f"of {_EXECUTABLES} executables"
    return [
        Measurement(name=f"{name}: memory {of_all}", value=taken / MiB, unit="MiB"),
        Measurement(name=f"{name}: given back {of_all}", value=given_back / MiB, unit="MiB"),
    ]


def _instantiate(rig: Rig, graph: Captured) -> int:
    executable = rig.shipped.instantiate(int(graph.graph.raw_cuda_graph()))
    rig.shipped.upload(executable, graph.stream)
    return executable


def verdict(figures: Figures) -> Verdict:
    """Graphs must be right and replay without the host; launches must be short."""
    for name in ("resnet50", "bert"):
        if not figures.holds(f"{name}: right output"):
            return failed(f"{name}'s graph gives another output than the network")
        if not figures.holds(f"{name}: only nodes that replay without the host"):
            return failed(f"{name}'s graph has nodes other than {', '.join(sorted(_ALLOWED))}")
    launch_us = max(figures[f"{name}: launch by the driver p99"] for name in ("resnet50", "bert"))
    words = f"a launch by the driver takes {launch_us:.0f} us of the host (p99)"
    if launch_us > _LAUNCH_US_MAX:
        return fall_back(f"{words}, more than {_LAUNCH_US_MAX:.0f}: launch ahead of the window")
    return passed(words)


EXPERIMENT: Final = Experiment(
    name="capture",
    question="What do captures and launches cost?",
    rule=f"Outputs right, no host nodes, a launch within {_LAUNCH_US_MAX:.0f} us (p99).",
    run=run,
    verdict=verdict,
)
