"""How fast weights get to the device: by size of copy, into pages and plain memory, and pinning."""

import ctypes
import mmap
import time
from typing import Any, Final

from cw.config import CudaSettings
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    advise,
    elapsed_ns,
    fall_back,
    passed,
)
from cw.devices.cuda.experiments.rig import Rig, fill_host
from cw.units import MS, PAGE_BYTES, GiB, MiB

_TOTAL_BYTES: Final = 256 * MiB
_CHUNKS_BYTES: Final = (1 * MiB, 2 * MiB, 4 * MiB, PAGE_BYTES, 64 * MiB)
_DEFAULT_BYTES: Final = CudaSettings().load_chunk_bytes
_REPEATS: Final = 3
_PART_OF_PLAIN_MIN: Final = 0.9
_REGISTER_PORTABLE: Final = 1


def run(rig: Rig) -> list[Measurement]:
    """Copy the same pinned memory in several ways; the best of a few repeats counts."""
    stream = rig.stream()
    begin_ns = time.perf_counter_ns()
    source = rig.pinned(_TOTAL_BYTES)
    pin_ns = time.perf_counter_ns() - begin_ns
    fill_host(source, _TOTAL_BYTES, 1)
    space, pages = rig.reserve(_TOTAL_BYTES // PAGE_BYTES), rig.pages(_TOTAL_BYTES // PAGE_BYTES)
    space.map(pages)
    plain = rig.plain_memory(_TOTAL_BYTES)
    found = [
        _per_gib("pinning by the driver", pin_ns),
        _rate("plain memory, one copy", rig, plain, source, _TOTAL_BYTES, stream),
    ]
    for chunk_bytes in _CHUNKS_BYTES:
        name = f"pages, chunks of {chunk_bytes // MiB} MiB"
        found.append(_rate(name, rig, space.address, source, chunk_bytes, stream))
    return found + _registered(rig, space.address, stream)


def _registered(rig: Rig, target: int, stream: Any) -> list[Measurement]:
    """The way of the host images: memory of one's own, touched, then registered."""
    memory = mmap.mmap(-1, _TOTAL_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    touch_ns = elapsed_ns(lambda: fill_host(address, _TOTAL_BYTES, 1))
    register = rig.driver.cuMemHostRegister
    register_ns = elapsed_ns(lambda: rig.call(register, address, _TOTAL_BYTES, _REGISTER_PORTABLE))
    found = [
        _per_gib("touching", touch_ns),
        _per_gib("registering", register_ns),
        _rate("pages, from registered memory", rig, target, address, PAGE_BYTES, stream),
    ]
    rig.call(rig.driver.cuMemHostUnregister, address)
    return found


def _rate(
    name: str, rig: Rig, target: int, source: int, chunk_bytes: int, stream: Any
) -> Measurement:
    def copy_all() -> None:
        for offset in range(0, _TOTAL_BYTES, chunk_bytes):
            rig.copy_in(target + offset, source + offset, chunk_bytes, stream)
        rig.call(rig.driver.cuStreamSynchronize, stream)

    best_ns = min(elapsed_ns(copy_all) for _ in range(_REPEATS))
    return Measurement(name=name, value=_TOTAL_BYTES / best_ns, unit="GB/s")


def _per_gib(name: str, duration_ns: int) -> Measurement:
    return Measurement(name=name, value=duration_ns / MS * GiB / _TOTAL_BYTES, unit="ms/GiB")


def verdict(figures: Figures) -> Verdict:
    """Find the smallest chunk, from the default on, that keeps the copy engine busy."""
    plain = figures["plain memory, one copy"]
    by_driver = figures[f"pages, chunks of {PAGE_BYTES // MiB} MiB"]
    if figures["pages, from registered memory"] < _PART_OF_PLAIN_MIN * by_driver:
        return fall_back("registered memory is slower than the driver's: pin by cuMemHostAlloc")
    for chunk_bytes in _CHUNKS_BYTES:
        rate = figures[f"pages, chunks of {chunk_bytes // MiB} MiB"]
        if chunk_bytes < _DEFAULT_BYTES or rate < _PART_OF_PLAIN_MIN * plain:
            continue
        words = f"{rate:.1f} GB/s in chunks of {chunk_bytes // MiB} MiB ({plain:.1f} in one copy)"
        if chunk_bytes == _DEFAULT_BYTES:
            return passed(words)
        return advise(f'{words}: smaller ones are slow; load_chunk = "{chunk_bytes // MiB}MiB"')
    return fall_back(f"no chunk reaches {_PART_OF_PLAIN_MIN:.0%} of one copy's {plain:.1f} GB/s")


EXPERIMENT: Final = Experiment(
    name="h2d",
    question="At what rate do weights come to the device?",
    rule=f"The smallest load_chunk at {_PART_OF_PLAIN_MIN:.0%} of one plain pinned copy's rate.",
    run=run,
    verdict=verdict,
    needs_torch=False,
)
