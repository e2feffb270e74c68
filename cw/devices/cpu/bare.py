"""The bare loop: a model's program called over and over, by nobody but one thread.

It is what a server on this processor can at best come near to, and so the measure of the device's
predictability (`cw/benchmarks/cpu.py`). Program, weights and settings are the device's own; there
are no inputs to write, no outputs to read, no lane and no event loop.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import torch

from cw.devices import address_space
from cw.devices.cpu.heap import keep_large_blocks
from cw.devices.cpu.program import CpuProgram, load_program
from cw.devices.cpu.quiet import torch_settings
from cw.devices.fitting import check_fit, read_program, read_weights
from cw.devices.garbage import settle_garbage
from cw.devices.host_images import GRANULE_BYTES, HostImages
from cw.errors import ConfigError
from cw.messages import ModelSpec
from cw.units import MiB, div_ceil, format_bytes

_WARM_UPS: Final = 5
"""Runs that are not measured: the first ones make torch's caches."""
_STRIDE_BYTES: Final = 2 * MiB
_CYCLE_BYTES: Final = 512 * MiB
"""More than any processor's cache."""


class BareModel:
    """A model whose program can be called at once. Made by `open`, freed by `close`."""

    def __init__(self, model: ModelSpec, program: CpuProgram, images: HostImages) -> None:
        self._model: Final = model
        self._program: Final = program
        self._images: Final = images
        self._parameters: tuple[torch.Tensor, ...] = program.plan.bind(
            images.address_of(model.model_id)
        )

    @classmethod
    def open(
        cls, model: ModelSpec, program_path: Path, weights: Path, *, as_exported: bool = False
    ) -> Self:
        """Load a program and its weights, as a device's PREPARE and LOAD do.

        Args:
            model: The model's spec.
            program_path: The program's file.
            weights: The weights' file.
            as_exported: As of `load_program`.

        Raises:
            ArchiveInvalid: They do not fit each other.
        """
        keep_large_blocks()
        checked = read_program(model, program_path, is_allowed=True)  # one's own
        layout = read_weights(weights)
        check_fit(model, checked.signature, layout)
        program = load_program(checked, model, as_exported=as_exported)
        program.buffers.grow(model.batch_sizes)
        images = HostImages(program.plan.size_bytes + GRANULE_BYTES)
        program.write_image(layout, weights, images.hold(model.model_id, program.plan.size_bytes))
        return cls(model, program, images)

    def durations_ns(
        self, batch_size: int, *, runs: int, cores: Sequence[int] = (), threads: int = 1
    ) -> list[int]:
        """Call the program in a plain loop, on random inputs, on a thread made for it.

        Args:
            batch_size: One of the model's.
            runs: Calls that are measured.
            cores: Processors that the thread is kept on; empty means any.
            threads: Torch's threads for one operator.

        Returns:
            Per call, how long it took.
        """
        assert batch_size in self._model.batch_sizes, f"{batch_size}: {self._model.batch_sizes}"

        def call() -> None:
            self._program.run(self._parameters, batch_size, ())

        def loop() -> list[int]:
            with torch_settings(threads):
                return _durations_ns(call, runs)

        settle_garbage()
        return _on_a_thread(loop, cores)

    def close(self) -> None:
        """Free the weights. Closing twice is allowed."""
        self._parameters = ()  # first the tensors, then what they look at
        self._images.close()


def copy_durations_ns(size_bytes: int, *, runs: int, cores: Sequence[int] = ()) -> list[int]:
    """Copy memory that was touched before to memory that was touched before, in huge pages.

    Sources take turns, so that none of them is in a cache, as the image of a LOAD is not.

    Args:
        size_bytes: Of each copy, at least 1.
        runs: Copies that are measured.
        cores: Processors that the thread is kept on; empty means any.

    Returns:
        Per copy, how long it took.

    Raises:
        ConfigError: There is not that much memory.
    """
    sources = div_ceil(_CYCLE_BYTES, size_bytes)
    stride = div_ceil(size_bytes, _STRIDE_BYTES) * _STRIDE_BYTES
    total = (sources + 1) * stride
    address = address_space.reserve(total, alignment_bytes=_STRIDE_BYTES)
    try:
        address_space.fill_with_memory(address, total)
    except OSError as exc:
        address_space.release(address, total)
        raise ConfigError(f"expected {format_bytes(total)} to copy in: {exc}") from exc
    turn = 0

    def copy() -> None:
        nonlocal turn
        turn = turn % sources + 1
        address_space.copy(address, address + turn * stride, size_bytes)

    try:
        return _on_a_thread(lambda: _durations_ns(copy, runs), cores)
    finally:
        address_space.release(address, total)


def _durations_ns(call: Callable[[], None], runs: int) -> list[int]:
    for _ in range(_WARM_UPS):
        call()
    durations_ns = []
    for _ in range(runs):
        begin_ns = time.perf_counter_ns()
        call()
        durations_ns.append(time.perf_counter_ns() - begin_ns)
    return durations_ns


def _on_a_thread(work: Callable[[], list[int]], cores: Sequence[int]) -> list[int]:
    """Do work on a thread of its own, so that what is set for it does not outlive it."""
    results: list[list[int]] = []

    def body() -> None:
        if cores:
            os.sched_setaffinity(0, cores)  # 0 is this thread, not the process
        results.append(work())

    thread = threading.Thread(target=body, name="bare-loop")
    thread.start()
    thread.join()
    assert results, "the loop raised; its thread has printed why"
    return results[0]
