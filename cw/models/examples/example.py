"""``Example``: a model that can be built, fed and packed without more arguments than a seed."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy.typing as npt
import torch
from torch import nn

from cw.messages import TensorSpec
from cw.models.archive import Archive
from cw.models.pack import DEFAULT_BATCH_SIZES, Sample, pack


@attrs.frozen(kw_only=True)
class Example:
    """One architecture with its shapes.

    Attributes:
        name: The name it gets unless another is given.
        description: One line.
        build: Makes the module from a seed; trained models ignore the seed.
        inputs: One sample's shapes.
        output_names: One for each tensor returned.
        batch_sizes: The sizes that it is packed with.
        sample: Inputs that it accepts; None where any numbers do.
    """

    name: str
    description: str
    build: Callable[[int], nn.Module]
    inputs: tuple[TensorSpec, ...]
    output_names: tuple[str, ...] = ("output",)
    batch_sizes: tuple[int, ...] = DEFAULT_BATCH_SIZES
    sample: Sample | None = None

    def pack(self, out: Path, *, name: str | None = None, seed: int = 0) -> Archive:
        """Build the module and pack it (see ``pack.pack``)."""
        return pack(
            self.build(seed),
            name=name or self.name,
            description=self.description,
            inputs=self.inputs,
            output_names=self.output_names,
            batch_sizes=self.batch_sizes,
            sample=self.sample,
            out=out,
        )

    def run(
        self, sample: Mapping[str, npt.NDArray[Any]], *, seed: int = 0
    ) -> dict[str, npt.NDArray[Any]]:
        """Give the module's own answer to one sample, for comparison with a server's.

        Args:
            sample: By input name, each ``datatype[*shape]``, without the batch.
            seed: As for ``pack``.

        Returns:
            By output name, without the batch.
        """
        tensors = (torch.from_numpy(sample[spec.name])[None] for spec in self.inputs)
        with torch.inference_mode():
            answer = _built(self.build, seed)(*tensors)
        outputs = (answer,) if isinstance(answer, torch.Tensor) else answer
        return {
            name: output[0].numpy() for name, output in zip(self.output_names, outputs, strict=True)
        }


def compute_with(threads: int) -> None:
    """Bound torch's threads for one operator in this process, before it computes anything.

    By default it takes every core, which a process beside an executor must leave to it.
    """
    torch.set_num_threads(threads)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a module with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


@functools.lru_cache(maxsize=2)
def _built(build: Callable[[int], nn.Module], seed: int) -> nn.Module:
    """Keep what was built last: reading trained weights takes longer than many answers."""
    return build(seed)
