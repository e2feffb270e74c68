"""Whether torch computes on memory that it did not allocate: pages, and mapped host memory."""

from typing import Any, Final

import attrs

from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    answer,
    failed,
    passed,
)
from cw.devices.cuda.experiments.rig import Rig, fill_host
from cw.units import PAGE_BYTES, KiB

_FEATURES: Final = 256
_CHECKS: Final = (
    "a tensor lies where it was put",
    "bfloat16 can be viewed",
    "a layer gives the same output",
    "a kernel reads mapped host memory",
)


@attrs.frozen
class _Memory:
    """Device memory as the CUDA array interface describes it, version 3.

    Source: numba.readthedocs.io, "CUDA Array Interface".
    """

    address: int
    size_bytes: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.size_bytes,),
            "typestr": "|u1",
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": None,
        }


def bytes_at(torch: Any, address: int, size_bytes: int) -> Any:
    """Return uint8[size_bytes] over device memory, which it does not own."""
    # Without the device torch would copy to the CPU (pytorch issue 54139).
    return torch.as_tensor(_Memory(address, size_bytes), device="cuda")


def run(rig: Rig) -> list[Measurement]:
    """Ask each question once."""
    torch = rig.torch
    space, pages = rig.reserve(1), rig.pages(1)
    space.map(pages)
    base = bytes_at(torch, space.address, PAGE_BYTES)
    halves = base[: 64 * 2].view(torch.bfloat16).fill_(1)
    results = [base.data_ptr() == space.address, float(halves.float().sum()) == 64.0]

    layer = torch.nn.Linear(_FEATURES, _FEATURES).half().cuda()
    inputs = torch.randn(4, _FEATURES, device="cuda", dtype=torch.half)
    with torch.no_grad():
        expected = layer(inputs)
        flat = base[: layer.weight.numel() * 2].view(torch.half)
        moved = flat.view_as(layer.weight).copy_(layer.weight)
        layer.weight = torch.nn.Parameter(moved, requires_grad=False)
        results.append(bool(torch.equal(layer(inputs), expected)))

    host = rig.pinned(64 * KiB)
    fill_host(host, 64 * KiB, 7)
    device_address = int(rig.call(rig.driver.cuMemHostGetDevicePointer, host, 0))
    mapped = bytes_at(torch, device_address, 64 * KiB)
    results.append(int((mapped + 0).sum()) == 7 * 64 * KiB)
    return [answer(name, result) for name, result in zip(_CHECKS, results, strict=True)]


def verdict(figures: Figures) -> Verdict:
    """Every answer must be yes."""
    broken = [name for name in _CHECKS if not figures.holds(name)]
    if broken:
        return failed(f"not true here: {'; '.join(broken)}")
    return passed("torch computes on pages and on mapped host memory")


EXPERIMENT: Final = Experiment(
    name="tensors",
    question="Does torch compute on memory that it did not allocate?",
    rule="Every answer is yes.",
    run=run,
    verdict=verdict,
)
