"""Which calls wait for the device: each is made while a kernel of 50 ms runs."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    answer,
    elapsed_ns,
    passed,
)
from cw.devices.cuda.experiments.rig import PageRange, Rig
from cw.units import US, MiB

_KERNEL_CYCLES: Final = 100_000_000
"""50 ms at 2 GHz."""
_PAGES: Final = 8
_EDITS: Final = ("map", "allow access", "unmap")


def run(rig: Rig) -> list[Measurement]:
    """Make each call once to warm up, and once beside the kernel."""
    space, pages = rig.reserve(_PAGES), rig.pages(_PAGES)
    space.map(pages)
    space.unmap()
    extra: list[Any] = []
    pinned: list[int] = []
    free_host = rig.driver.cuMemFreeHost
    calls: dict[str, Callable[[], object]] = {
        "map": partial(_map_each, space, pages),
        "allow access": lambda: rig.allow_access(space.address, space.size_bytes),
        "unmap": space.unmap,
        "create": lambda: extra.extend(rig.pages(1)),
        "release": lambda: rig.drop_pages(extra),
        "pin 64 MiB": lambda: pinned.append(rig.pinned(64 * MiB)),
        "unpin 64 MiB": lambda: rig.call(free_host, pinned.pop()),
    }
    return [found for name, make in calls.items() for found in _beside_kernel(rig, name, make)]


def _map_each(space: PageRange, pages: list[Any]) -> None:
    for index, page in enumerate(pages):
        space.map_one(index, page)


def _beside_kernel(rig: Rig, name: str, make: Callable[[], object]) -> list[Measurement]:
    torch = rig.torch
    stream, end = rig.stream(), rig.event(timing=False)
    rig.wait()
    with torch.cuda.stream(torch.cuda.ExternalStream(int(stream))):
        torch.cuda._sleep(_KERNEL_CYCLES)
    rig.record(end, stream)
    took_ns = elapsed_ns(make)
    goes_on = not rig.has_happened(end)
    rig.wait()
    return [
        Measurement(name=name, value=took_ns / US, unit="us"),
        answer(_question(name), goes_on),
    ]


def _question(name: str) -> str:
    return f"{name} does not wait"


def verdict(figures: Figures) -> Verdict:
    """Say whether edits beside a running INFER may be thought of; the default is none."""
    waiting = [name for name in _EDITS if not figures.holds(_question(name))]
    if waiting:
        return passed(f"edit pages only between INFERs, as the device does: {waiting} wait")
    return passed(
        "no edit waits for the device: edit_pages_while_running is possible if experiment jitter "
        "finds edits harmless; by default they are made between INFERs"
    )


EXPERIMENT: Final = Experiment(
    name="vmm_async",
    question="Which driver calls wait for a running kernel?",
    rule="Edits beside INFERs only if none waits and jitter agrees; else between them.",
    run=run,
    verdict=verdict,
)
