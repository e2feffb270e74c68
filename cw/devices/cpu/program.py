"""Exported programs, each loaded once and shared by all models of its architecture.

A program is a pure function of flat arguments: the weights, then the inputs. A model adds nothing
to it but a tuple of tensors at the addresses where its pages will lie.
"""

import contextlib
import ctypes
import importlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import torch

from cw.devices.cpu.dtypes import TORCH_DTYPES
from cw.devices.cpu.inputs import InputBuffers
from cw.devices.device import Tensors
from cw.devices.fitting import CheckedProgram
from cw.errors import ArchiveInvalid, RequestInvalid
from cw.messages import ModelSpec, TensorSpec
from cw.models.image import ImageLayout
from cw.models.program_signature import ProgramSignature

_LOADER_MODULES: Final = (
    "torch._export.serde.serialize",
    "torch.export.pt2_archive._package",
    "torch.fx.experimental.symbolic_shapes",
    "torch.export.unflatten",
    "torch.utils._sympy.numbers",
)

Forward = Callable[..., Sequence[torch.Tensor]]
"""``forward(*weights, *inputs)``, a tuple of ``datatype[batch, *shape]``."""


@attrs.define(eq=False)
class CpuProgram:
    """A loaded program.

    Attributes:
        signature: What it takes and gives.
        buffers: Where its inputs lie.
        models: How many prepared models use it.
    """

    signature: ProgramSignature
    buffers: InputBuffers
    models: int
    _forward: Forward

    def run(
        self, weights: tuple[torch.Tensor, ...], batch_size: int, inputs: Sequence[Tensors]
    ) -> tuple[torch.Tensor, ...]:
        """Compute one batch; a probe if there are no inputs.

        Args:
            weights: A resident model's.
            batch_size: Rows to compute, of which `len(inputs)` are not padding.
            inputs: Per request, the bytes of each input.

        Returns:
            The outputs, valid until the next run.

        Raises:
            RequestInvalid: The program refuses these inputs: an index outside of its table, say.
            ArchiveInvalid: It fails on a probe, or gives other than its signature says.
        """
        if inputs:
            tensors = self.buffers.fill(batch_size, inputs)
        else:
            tensors = self.buffers.probe(batch_size)
        try:
            outputs = self._forward(*weights, *tensors)
        # Whatever an operator raises on a CPU is about its arguments: the device is well.
        except Exception as exc:
            problem = f"{type(exc).__name__}: {exc}"
            if inputs:
                raise RequestInvalid(
                    f"the model fails on an input of this batch ({problem}); its values must lie "
                    "in the ranges that the model was made for"
                ) from exc
            raise ArchiveInvalid(
                f"the model fails on random inputs of batch {batch_size} ({problem}); floats are "
                "normal and integers are 0 or 1: it must accept those to be measured"
            ) from exc
        return tuple(output.contiguous() for output in outputs)


def load_program(checked: CheckedProgram, inputs: Sequence[TensorSpec]) -> CpuProgram:
    """Load a program: 0.3 to 2 s, in which the interpreter is busy most of the time.

    Raises:
        ArchiveInvalid: This version of torch can't read it, or it takes weights after inputs.
    """
    order = [argument.is_weight for argument in checked.signature.arguments]
    if order != sorted(order, reverse=True):
        raise ArchiveInvalid("program: expected all weights before the inputs; pack it again")
    try:
        module = torch.export.load(io.BytesIO(checked.data)).graph_module
    # The loader is foreign and documents no errors; none of them is the device's.
    except Exception as exc:
        raise ArchiveInvalid(
            f"program: torch {torch.__version__} can't load it ({type(exc).__name__}: {exc}); "
            "pack it with a version of torch that cw supports"
        ) from exc
    for node in module.graph.nodes:
        node.meta.clear()  # serves compilers, and is most of a program's memory
    forward: Forward = module.forward
    return CpuProgram(
        signature=checked.signature, buffers=InputBuffers(inputs), models=0, forward=forward
    )


def warm_loader() -> None:
    """Import what torch imports at the first load (sympy and a thousand modules more): 0.8 s."""
    for name in _LOADER_MODULES:
        # Private names: where a version of torch has others, its first load is slower, no more.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def bind_weights(
    signature: ProgramSignature, layout: ImageLayout, address: int
) -> tuple[torch.Tensor, ...]:
    """Make a model's weights: views of the memory at `address`, which is not touched.

    Args:
        signature: The program's; `layout` was checked against it.
        layout: Where each tensor lies in the image.
        address: Of the image, stable for as long as any of the tensors is alive.

    Returns:
        One tensor per weight, in the program's order.
    """
    memory = (ctypes.c_uint8 * layout.image_bytes).from_address(address)
    image = torch.frombuffer(memory, dtype=torch.uint8)
    # One view per datatype and one per tensor: three per tensor took twice as long.
    typed: dict[str, torch.Tensor] = {}
    weights = []
    for argument in signature.weights:
        place = layout.tensors[argument.name]
        if place.datatype not in typed:
            typed[place.datatype] = image.view(TORCH_DTYPES[place.datatype])
        base = typed[place.datatype]
        strides = [math.prod(place.shape[i + 1 :]) for i in range(len(place.shape))]
        offset = place.offset_bytes // base.element_size()
        weights.append(torch.as_strided(base, place.shape, strides, offset))
    return tuple(weights)


class OutputReader:
    """Copies a model's outputs out, as bytes per request.

    Args:
        model: Whose outputs, batch sizes aside.
    """

    def __init__(self, model: ModelSpec) -> None:
        self._name: Final = model.name
        self._sizes: Final = tuple(spec.size_bytes for spec in model.outputs)

    def read(
        self, outputs: Sequence[torch.Tensor], batch_size: int, count: int
    ) -> tuple[Tensors, ...]:
        """Copy the first `count` rows of each output.

        Raises:
            ArchiveInvalid: The program gave other sizes than the model's spec says.
        """
        given = [output.nbytes for output in outputs]
        expected = [size * batch_size for size in self._sizes]
        # Read by address below, so never beyond what is there.
        if given != expected:
            raise ArchiveInvalid(
                f"program of {self._name}: expected outputs of {expected} bytes for a batch of "
                f"{batch_size}, got {given}"
            )
        starts = [output.data_ptr() for output in outputs]
        columns = list(zip(starts, self._sizes, strict=True))
        return tuple(
            tuple(ctypes.string_at(start + row * size, size) for start, size in columns)
            for row in range(count)
        )
