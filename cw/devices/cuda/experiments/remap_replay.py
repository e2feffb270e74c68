"""Whether a captured graph still computes right after other pages lie under its addresses."""

from functools import partial
from typing import Any, Final

from cw.devices.cuda.experiments.captured import Captured, relative_error, slots_of
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    answer,
    elapsed_ns,
    fall_back,
    passed,
    quantile,
    spread,
)
from cw.devices.cuda.experiments.rig import Rig, fill_host
from cw.units import PAGE_BYTES

_BATCH_SIZE: Final = 4
_STEADY_RUNS: Final = 100
_REMAPS: Final = 30
_HURRIED_CYCLES: Final = 60
_ERROR_MAX: Final = 1e-2
"""Half precision, other kernels than eager's: a wrong weight is off by far more."""
_FIRST_REPLAY_RATIO_MAX: Final = 1.1
_RIGHT: Final = (
    "the graph gives the network's output",
    "other pages, other weights: the other's output",
    "the first pages again, not reloaded: the same output",
    "pages in another order, reloaded: the same output",
    "no output is wrong without waits between",
)


class _Images:
    """Two networks' weights in pinned memory, laid out as in the pages."""

    def __init__(self, rig: Rig, graph: Captured, other: Any) -> None:
        self._rig: Final = rig
        self._graph: Final = graph
        self._addresses: Final = [self._pin(net) for net in (graph.net, other)]

    def _pin(self, net: Any) -> int:
        size_bytes = self._graph.range.size_bytes
        address = self._rig.pinned(size_bytes)
        fill_host(address, size_bytes, 0)
        torch = self._rig.torch
        for slot in slots_of(net):
            # The bytes as they lie, whatever the strides.
            flat = torch.as_strided(slot.tensor, (slot.tensor.numel(),), (1,)).contiguous()
            target, source = address + slot.offset, flat.data_ptr()
            self._rig.call(self._rig.driver.cuMemcpyDtoH, target, source, slot.size_bytes)
        return address

    def send(self, which: int) -> None:
        """Copy an image to where the graph's weights lie, page by page, on its stream."""
        graph = self._graph
        for offset in range(0, graph.range.size_bytes, PAGE_BYTES):
            source = self._addresses[which] + offset
            self._rig.copy_in(graph.range.address + offset, source, PAGE_BYTES, graph.stream)


def run(rig: Rig) -> list[Measurement]:
    """Compare outputs and first replays after remaps."""
    from cw.devices.cuda.experiments import nets  # needs torch, which the list does not

    torch = rig.torch
    graph = Captured(rig, "resnet50", _BATCH_SIZE)
    other = nets.make("resnet50", seed=1)
    with torch.no_grad():
        expected_other = other(graph.inputs).clone()
    # Or the comparisons below would say nothing.
    assert relative_error(expected_other, graph.expected) > 2 * _ERROR_MAX, "both answer alike"
    images, spare = _Images(rig, graph, other), rig.pages(graph.range.page_count)

    def output_on(pages: list[Any], image: int | None) -> Any:
        _remap(rig, graph, pages)
        if image is not None:
            images.send(image)
        graph.output.zero_()
        rig.wait()
        graph.replay()
        return graph.output.clone()

    first = output_on(graph.pages, 0)
    right = [graph.error(graph.expected) < _ERROR_MAX]
    second = output_on(spare, 1)
    right.append(graph.error(expected_other) < _ERROR_MAX)
    right.append(bool(torch.equal(output_on(graph.pages, None), first)))
    right.append(bool(torch.equal(output_on(spare[::-1], 0), first)))
    timings = _first_replays(rig, graph, images, spare)
    right.append(_hurry(rig, graph, images, spare, (first, second)) == 0)
    return [answer(name, yes) for name, yes in zip(_RIGHT, right, strict=True)] + timings


def _remap(rig: Rig, graph: Captured, pages: list[Any]) -> None:
    rig.wait()
    graph.range.unmap()
    graph.range.map(pages)


def _first_replays(
    rig: Rig, graph: Captured, images: _Images, spare: list[Any]
) -> list[Measurement]:
    graph.replays(_STEADY_RUNS)
    steady_ns = [timing.device_ns for timing in graph.replays(_STEADY_RUNS)]
    first_ns, remap_ns = [], []
    for index in range(_REMAPS):
        pages = (spare, graph.pages)[index % 2]
        remap_ns.append(elapsed_ns(partial(_remap, rig, graph, pages)))
        images.send(0)
        rig.wait()
        first_ns.append(graph.replay().device_ns)
    ratio = quantile(first_ns, 0.5) / max(1, quantile(steady_ns, 0.5))
    return [
        *spread("replay", steady_ns),
        *spread("first replay after a remap", first_ns),
        *spread(f"remap of {graph.range.page_count} pages", remap_ns),
        Measurement(name="first replay against others", value=ratio),
    ]


def _hurry(
    rig: Rig,
    graph: Captured,
    images: _Images,
    spare: list[Any],
    expected: tuple[Any, Any],
) -> int:
    """Remap, load and replay without a pause on the host; count wrong outputs."""
    wrong = 0
    for index in range(_HURRIED_CYCLES):
        # The wait inside is the fence that UNLOAD has too: unmapping does not wait by itself.
        _remap(rig, graph, (graph.pages, spare)[index % 2])
        images.send(index % 2)
        graph.launch()
        rig.call(rig.driver.cuStreamSynchronize, graph.stream)
        wrong += not rig.torch.equal(graph.output, expected[index % 2])
    return wrong


def verdict(figures: Figures) -> Verdict:
    """Every output right, and the first replay hardly slower than others."""
    wrong = [name for name in _RIGHT if not figures.holds(name)]
    if wrong:
        return fall_back(f"fixed slots instead of pages; not true here: {'; '.join(wrong)}")
    ratio = figures["first replay against others"]
    words = f"every output is right; the first replay after a remap takes {ratio:.2f} of others"
    if ratio > _FIRST_REPLAY_RATIO_MAX:
        return fall_back(f"{words}, more than {_FIRST_REPLAY_RATIO_MAX}: fixed slots")
    return passed(words)


EXPERIMENT: Final = Experiment(
    name="remap_replay",
    question="Does a graph compute right after its pages were exchanged?",
    rule=f"Pages if every output is right and the first replay <= {_FIRST_REPLAY_RATIO_MAX}x.",
    run=run,
    verdict=verdict,
    limit_s=90,
)
