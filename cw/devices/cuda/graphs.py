"""What the device asks of whoever makes CUDA graphs: one per (model, batch size), captured once.

`torch_graphs.py` is the implementation; tests have one (`tests/softcuda/host_graphs.py`) whose
kernels are functions of the host.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from cw.devices.fitting import CheckedProgram
from cw.messages import ModelSpec
from cw.models.image import ImageLayout

LoadedProgram = Any
"""A program as its maker loaded it: opaque here, shared by all models of an architecture."""


@attrs.frozen(kw_only=True)
class Buffers:
    """Where one program's inputs and outputs lie, each as large as the largest batch.

    Addresses of pinned host memory, one per tensor, in the program's order. All models of a program
    share them, since INFERs take turns.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@attrs.frozen(kw_only=True, eq=False)
class CapturedGraph:
    """An executable graph that times itself.

    Attributes:
        executable: What the driver launches.
        inputs: Device addresses to copy the inputs to before a launch; empty where the graph reads
            them from the host by itself.
        outputs: Device addresses at which it leaves the outputs, valid until the next launch of any
            graph of this program.
        first: An event that its first node records.
        last: An event that its last node records.
        keeps: What has to live as long as the graph does; its maker's own.
    """

    executable: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    first: int
    last: int
    keeps: Any


class GraphMaker(Protocol):
    """Loads programs and captures them, on the device's INFER thread while the card is idle."""

    def load(self, checked: CheckedProgram, model: ModelSpec) -> LoadedProgram:
        """Load a program.

        Raises:
            ArchiveInvalid: It can't be loaded.
        """
        ...

    def capture(
        self,
        program: LoadedProgram,
        model: ModelSpec,
        layout: ImageLayout,
        address: int,
        buffers: Buffers,
        stream: int,
    ) -> Mapping[int, CapturedGraph]:
        """Capture one graph per batch size of the model, the largest first.

        Args:
            program: From `load`.
            model: Whose spec.
            layout: Where each weight lies in the image.
            address: Of the image, on the card; pages of zeros lie there meanwhile.
            buffers: The program's host memory.
            stream: On which the graphs will be launched.

        Raises:
            ArchiveInvalid: The program fails, or does what a graph can't repeat.
        """
        ...

    def small(self, stream: int) -> CapturedGraph:
        """Capture a graph of one small kernel, without inputs and outputs, for `keep_warm`."""
        ...

    def drop(self, graph: CapturedGraph) -> None:
        """Free a graph that will not be launched any more, and its memory."""
        ...

    def close(self) -> None:
        """Free what the maker itself holds."""
        ...
