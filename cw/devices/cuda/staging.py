"""Pinned host memory through which a program's inputs and outputs pass."""

import ctypes
from collections.abc import Sequence
from typing import Final

from cw.devices.cpu.inputs import random_batch
from cw.devices.cuda.driver import CardFull, CudaDriver
from cw.devices.cuda.graphs import Buffers
from cw.devices.device import Tensors
from cw.errors import RequestInvalid
from cw.messages import ModelSpec


class Staging:
    """The inputs and outputs of all models of one program and one largest batch size.

    Args:
        driver: Pins the memory.
        model: Any of the models.

    Raises:
        CardFull: There is no more memory to pin.
    """

    def __init__(self, driver: CudaDriver, model: ModelSpec) -> None:
        self._driver: Final = driver
        self._inputs: Final = model.inputs
        self._output_sizes: Final = tuple(spec.size_bytes for spec in model.outputs)
        largest = model.batch_sizes[-1]
        sizes = [spec.size_bytes * largest for spec in (*model.inputs, *model.outputs)]
        addresses = _allocate(driver, sizes)
        count = len(model.inputs)
        self.buffers: Final = Buffers(
            inputs=tuple(addresses[:count]), outputs=tuple(addresses[count:])
        )
        self._views: Final = [
            memoryview((ctypes.c_uint8 * size).from_address(address)).cast("B")
            for address, size in zip(self.buffers.inputs, sizes, strict=False)
        ]
        self._probe: Final = [
            ctypes.string_at(tensor.data_ptr(), tensor.nbytes)
            for tensor in random_batch(model.inputs, largest)
        ]
        self.models = 0
        """How many prepared models use it."""

    def fill(self, batch_size: int, inputs: Sequence[Tensors]) -> None:
        """Write requests into the first rows and zeros into the rest; without any, a probe.

        Raises:
            RequestInvalid: An input has not the size of its spec.
        """
        for tensors in inputs:
            if len(tensors) != len(self._inputs):
                raise RequestInvalid(f"expected {len(self._inputs)} inputs, got {len(tensors)}")
        for index, (view, spec) in enumerate(zip(self._views, self._inputs, strict=True)):
            size, end = spec.size_bytes, 0
            if not inputs:
                end = size * batch_size
                view[:end] = self._probe[index][:end]
            for tensors in inputs:
                data = memoryview(tensors[index]).cast("B")
                if len(data) != size:
                    raise RequestInvalid(
                        f"input {spec.name!r}: expected {size} bytes, got {len(data)}"
                    )
                view[end : end + size] = data
                end += size
            if (padding := size * batch_size - end) > 0:
                ctypes.memset(self.buffers.inputs[index] + end, 0, padding)

    def sizes(self, batch_size: int) -> tuple[list[int], list[int]]:
        """Say how many bytes the inputs and the outputs of a batch have."""
        return (
            [spec.size_bytes * batch_size for spec in self._inputs],
            [size * batch_size for size in self._output_sizes],
        )

    def read(self, count: int) -> tuple[Tensors, ...]:
        """Copy the first `count` rows of each output out."""
        columns = list(zip(self.buffers.outputs, self._output_sizes, strict=True))
        return tuple(
            tuple(ctypes.string_at(start + row * size, size) for start, size in columns)
            for row in range(count)
        )

    def close(self) -> None:
        """Free the memory; no graph reads it any more."""
        self._views.clear()
        for address in (*self.buffers.inputs, *self.buffers.outputs):
            self._driver.host_free(address)


def _allocate(driver: CudaDriver, sizes: Sequence[int]) -> list[int]:
    """Allocate all of it, or nothing."""
    addresses: list[int] = []
    try:
        addresses.extend(driver.host_alloc(max(1, size)) for size in sizes)
    except CardFull:
        for address in addresses:
            driver.host_free(address)
        raise
    return addresses
