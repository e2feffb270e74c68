"""Input buffers: where requests' bytes become tensors, allocated once per program.

One buffer per input, as large as the largest batch; smaller batches are its first rows. One thread
runs everything, so all models of a program share them.
"""

from collections.abc import Sequence
from typing import Final

import torch

from cw.devices.device import Tensors
from cw.errors import RequestInvalid
from cw.messages import TensorSpec
from cw.models.torch_dtypes import TORCH_DTYPES

_PROBE_SEED: Final = 20201104


class InputBuffers:
    """The inputs of one program.

    Args:
        specs: One sample's inputs, in the program's order.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs: Final = tuple(specs)
        self._capacity = 0
        self._bytes: list[memoryview] = []
        self._views: dict[int, tuple[torch.Tensor, ...]] = {}
        self._probes: dict[int, tuple[torch.Tensor, ...]] = {}
        # From this row on, the buffers hold zeros only.
        self._clean_from = 0

    def grow(self, batch_sizes: Sequence[int]) -> None:
        """Make room, and tensors of the right shape, for these batch sizes."""
        wanted = sorted({*self._views, *batch_sizes})
        if wanted == sorted(self._views):
            return
        self._capacity, self._clean_from = wanted[-1], 0
        whole = [_zeros(spec, self._capacity) for spec in self._specs]
        self._bytes = [flat.numpy().data for flat, _ in whole]
        self._views = _first_rows([tensor for _, tensor in whole], wanted)
        self._probes = _first_rows(random_batch(self._specs, self._capacity), wanted)

    def probe(self, batch_size: int) -> tuple[torch.Tensor, ...]:
        """Return a batch of random inputs, always the same.

        Floats are normal. Integers are 0 or 1, since more might be outside of an embedding's
        table, and those of an input with ``mask`` in its name are all 1.
        """
        return self._probes[batch_size]

    def fill(self, batch_size: int, inputs: Sequence[Tensors]) -> tuple[torch.Tensor, ...]:
        """Write requests into the first rows, zeros into the rest.

        Raises:
            RequestInvalid: An input has not the size of its spec.
        """
        for tensors in inputs:
            if len(tensors) != len(self._specs):
                raise RequestInvalid(f"expected {len(self._specs)} inputs, got {len(tensors)}")
        before, self._clean_from = self._clean_from, max(self._clean_from, len(inputs))
        for index, (buffer, spec) in enumerate(zip(self._bytes, self._specs, strict=True)):
            size, end = spec.size_bytes, 0
            for tensors in inputs:
                data = memoryview(tensors[index]).cast("B")
                if len(data) != size:
                    raise RequestInvalid(
                        f"input {spec.name!r}: expected {size} bytes, got {len(data)}"
                    )
                buffer[end : end + size] = data
                end += size
            if (stale_until := min(before, batch_size) * size) > end:
                buffer[end:stale_until] = bytes(stale_until - end)
        if before <= batch_size:
            self._clean_from = len(inputs)
        return self._views[batch_size]


def _zeros(spec: TensorSpec, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate zeros, as uint8[bytes] and as a view ``datatype[batch, *shape]`` of the same."""
    flat = torch.zeros(batch_size * spec.size_bytes, dtype=torch.uint8)
    return flat, flat.view(TORCH_DTYPES[spec.datatype.value]).view(batch_size, *spec.shape)


def _first_rows(
    tensors: Sequence[torch.Tensor], batch_sizes: Sequence[int]
) -> dict[int, tuple[torch.Tensor, ...]]:
    return {size: tuple(tensor[:size] for tensor in tensors) for size in batch_sizes}


def random_batch(specs: Sequence[TensorSpec], batch_size: int) -> list[torch.Tensor]:
    """Make a probe's inputs, always the same; `InputBuffers.probe` says what is in them."""
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    batch = []
    for spec in specs:
        shape, dtype = (batch_size, *spec.shape), TORCH_DTYPES[spec.datatype.value]
        if dtype.is_floating_point:
            batch.append(torch.randn(shape, generator=generator).to(dtype))
        elif "mask" in spec.name.lower():
            batch.append(torch.ones(shape, dtype=dtype))
        else:
            batch.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return batch
