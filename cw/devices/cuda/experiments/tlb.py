"""How fast a kernel reads weights that are scattered over pages, against one piece of memory."""

import random
from typing import Any, Final

from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    fall_back,
    passed,
)
from cw.devices.cuda.experiments.rig import Rig
from cw.devices.cuda.experiments.tensors import bytes_at
from cw.units import MS, PAGE_BYTES, GiB, MiB

_TOTAL_BYTES: Final = 2 * GiB
_PAGE_SIZES_BYTES: Final = (2 * MiB, PAGE_BYTES)
_READS: Final = 5
_PART_MIN: Final = 0.97


def run(rig: Rig) -> list[Measurement]:
    """Sum 2 GiB up, in one piece and in shuffled pages."""
    torch = rig.torch
    plain = torch.empty(_TOTAL_BYTES // 2, dtype=torch.half, device="cuda").normal_()
    found = [Measurement(name="one piece", value=_rate(torch, plain), unit="GB/s")]
    for page_bytes in _PAGE_SIZES_BYTES:
        count = _TOTAL_BYTES // page_bytes
        space, pages = rig.reserve(count, page_bytes), rig.pages(count, page_bytes)
        random.Random(0).shuffle(pages)
        space.map(pages)
        scattered = bytes_at(torch, space.address, space.size_bytes).view(torch.half)
        scattered.copy_(plain)
        found.append(
            Measurement(name=_name(page_bytes), value=_rate(torch, scattered), unit="GB/s")
        )
        del scattered
        rig.wait()
        space.unmap()
        rig.drop_pages(pages)
    return found


def _name(page_bytes: int) -> str:
    return f"shuffled pages of {page_bytes // MiB} MiB"


def _rate(torch: Any, values: Any) -> float:
    for _ in range(_READS):
        values.sum()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(_READS):
        values.sum()
    last.record()
    last.synchronize()
    return float(_READS * _TOTAL_BYTES / (first.elapsed_time(last) * MS))


def verdict(figures: Figures) -> Verdict:
    """Compare the rates."""
    part = figures[_name(PAGE_BYTES)] / figures["one piece"]
    words = f"pages of 16 MiB are read at {part:.0%} of one piece's rate (at least {_PART_MIN:.0%})"
    return passed(words) if part >= _PART_MIN else fall_back(f"{words}: larger pages, or slots")


EXPERIMENT: Final = Experiment(
    name="tlb",
    question="Does scattering weights over pages slow kernels down?",
    rule=f"Pages of 16 MiB if they are read at {_PART_MIN:.0%} of one piece's rate.",
    run=run,
    verdict=verdict,
)
