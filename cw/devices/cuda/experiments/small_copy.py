"""How long an INFER's input waits while a LOAD is queued, by the LOAD's chunk and depth."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    advise,
    elapsed_ns,
    fall_back,
    passed,
    quantile,
)
from cw.devices.cuda.experiments.rig import Rig
from cw.units import PAGE_BYTES, US, KiB, MiB

_SMALL_BYTES: Final = 588 * KiB
"""One image of 3 x 224 x 224 floats."""
_DEPTH: Final = 2
_CHUNKS_BYTES: Final = (2 * MiB, 4 * MiB, PAGE_BYTES)
_REPEATS: Final = 40
_WARM_REPEATS: Final = 5
_WAIT_US_MAX: Final = 700.0
"""Two pages of 16 MiB at 50 GB/s: what the largest chunk may cost an input."""


def run_copies(rig: Rig) -> list[Measurement]:
    """Time a small copy each way, with nothing and with LOADs before it."""
    target, source = rig.plain_memory(_DEPTH * PAGE_BYTES), rig.pinned(_DEPTH * PAGE_BYTES)
    small, small_host = rig.plain_memory(MiB), rig.pinned(MiB)
    load, infer = rig.stream(), rig.stream(urgent=True)

    def queue(chunk_bytes: int) -> None:
        for index in range(_DEPTH if chunk_bytes else 0):
            at = index * chunk_bytes
            rig.copy_in(target + at, source + at, chunk_bytes, load)

    ways: dict[str, Callable[[], None]] = {
        "input": lambda: rig.copy_in(small, small_host, _SMALL_BYTES, infer),
        "output": lambda: rig.copy_out(small_host, small, _SMALL_BYTES, infer),
    }
    return [
        _wait(rig, _name(way, chunk), send, partial(queue, chunk), infer)
        for way, send in ways.items()
        for chunk in (0, *_CHUNKS_BYTES)
    ]


def run(rig: Rig) -> list[Measurement]:
    """Do the same for a kernel that reads the input from mapped host memory by itself."""
    from cw.devices.cuda.experiments.tensors import bytes_at

    torch = rig.torch
    host = rig.pinned(MiB)
    mapped = bytes_at(torch, device_address(rig, host), _SMALL_BYTES)
    target = torch.empty_like(mapped)
    load, infer = rig.stream(), rig.stream(urgent=True)
    large, source = rig.plain_memory(_DEPTH * PAGE_BYTES), rig.pinned(_DEPTH * PAGE_BYTES)
    urgent = torch.cuda.ExternalStream(int(infer))

    def queue() -> None:
        for index in range(_DEPTH):
            at = index * PAGE_BYTES
            rig.copy_in(large + at, source + at, PAGE_BYTES, load)

    def send() -> None:
        with torch.cuda.stream(urgent):
            torch.add(mapped, 0, out=target)

    return [
        *run_copies(rig),
        _wait(rig, _name("kernel", 0), send, lambda: None, infer),
        _wait(rig, _name("kernel", PAGE_BYTES), send, queue, infer),
    ]


def device_address(rig: Rig, host_address: int) -> int:
    """Return the address by which the device reads mapped host memory."""
    return int(rig.call(rig.driver.cuMemHostGetDevicePointer, host_address, 0))


def _name(way: str, chunk_bytes: int) -> str:
    before = f"{_DEPTH} x {chunk_bytes // MiB} MiB" if chunk_bytes else "nothing"
    return f"{way} behind {before}"


def _wait(
    rig: Rig, name: str, send: Callable[[], None], queue: Callable[[], None], stream: Any
) -> Measurement:
    done = rig.event(timing=False)
    samples_ns = []
    for _ in range(_REPEATS + _WARM_REPEATS):
        rig.wait()
        queue()

        def send_and_wait() -> None:
            send()
            rig.record(done, stream)
            rig.wait_for(done)

        samples_ns.append(elapsed_ns(send_and_wait))
    p99_ns = quantile(samples_ns[_WARM_REPEATS:], 0.99)
    return Measurement(name=name, value=p99_ns / US, unit="us", note="p99")


def verdict(figures: Figures) -> Verdict:
    """Compare the default, a kernel behind the largest chunks, with the engine behind each."""
    kernel_us = figures[_name("kernel", PAGE_BYTES)]
    waits_us = {chunk: figures[_name("input", chunk)] for chunk in _CHUNKS_BYTES}
    chunk, engine_us = min(waits_us.items(), key=lambda item: item[1])
    words = (
        f"an input waits {kernel_us:.0f} us by a kernel that reads it, {engine_us:.0f} us by the "
        f"copy engine behind {_DEPTH} chunks of {chunk // MiB} MiB"
    )
    if min(kernel_us, engine_us) > _WAIT_US_MAX:
        return fall_back(f"{words}, both over {_WAIT_US_MAX:.0f}: no LOAD beside an INFER's input")
    if kernel_us <= engine_us:
        return passed(f'{words}: inputs_by = "kernel"')
    return advise(f'{words}: inputs_by = "copy", load_chunk = "{chunk // MiB}MiB"')


EXPERIMENT: Final = Experiment(
    name="small_copy",
    question="How long does an input wait behind a LOAD?",
    rule=f"inputs_by what waits less (p99), and at most {_WAIT_US_MAX:.0f} us.",
    run=run,
    verdict=verdict,
)
