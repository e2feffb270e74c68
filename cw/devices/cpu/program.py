"""Exported programs, each loaded once and shared by all models of its architecture.

A program is a pure function of flat arguments: the weights, then the inputs. It is rewritten for
this processor when it is loaded (`rewriting.py`) and then takes *parameters* made of the weights. A
model adds nothing to it but its parameters, at the addresses where its pages will lie.
"""

import contextlib
import ctypes
import importlib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import torch

from cw.devices import address_space
from cw.devices.cpu.image_plan import ImagePlan, plan_image
from cw.devices.cpu.inputs import InputBuffers
from cw.devices.cpu.rewriting import Weights, rewrite
from cw.devices.device import Tensors
from cw.devices.fitting import CheckedProgram
from cw.devices.program_modules import load_module
from cw.errors import ArchiveInvalid, RequestInvalid
from cw.messages import ModelSpec
from cw.models.image import ImageLayout
from cw.models.program_signature import ProgramSignature
from cw.models.torch_dtypes import TORCH_DTYPES
from cw.units import PAGE_BYTES

logger = logging.getLogger(__name__)

_LOADER_MODULES: Final = (
    "torch._export.serde.serialize",
    "torch.export.pt2_archive._package",
    "torch.fx.experimental.symbolic_shapes",
    "torch.export.unflatten",
    "torch.utils._sympy.numbers",
)

Forward = Callable[..., Sequence[torch.Tensor]]
"""``forward(*parameters, *inputs)``, a tuple of ``datatype[batch, *shape]``."""


@attrs.define(eq=False)
class CpuProgram:
    """A loaded program.

    Attributes:
        signature: What it takes and gives.
        plan: Where its parameters lie in a model's image.
        buffers: Where its inputs lie.
        models: How many prepared models use it.
    """

    signature: ProgramSignature
    plan: ImagePlan
    buffers: InputBuffers
    models: int
    _forward: Forward

    def run(
        self, parameters: tuple[torch.Tensor, ...], batch_size: int, inputs: Sequence[Tensors]
    ) -> tuple[torch.Tensor, ...]:
        """Compute one batch; a probe if there are no inputs.

        Args:
            parameters: A resident model's.
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
            outputs = self._forward(*parameters, *tensors)
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

    def write_image(self, layout: ImageLayout, weights: Path, address: int) -> None:
        """Read a model's weights once, and write what a LOAD will copy.

        Args:
            layout: Of the weights' file; it was checked against the signature.
            weights: The file.
            address: Of `plan.size_bytes` of memory.

        Raises:
            OSError: The file can't be mapped.
        """
        file_bytes = layout.data_start + layout.image_bytes
        file_address = address_space.map_file(weights, file_bytes)
        try:
            own = _weights_at(self.signature, layout, file_address + layout.data_start)
            self.plan.write(own, address)
            del own
        finally:
            address_space.release(file_address, file_bytes)


def load_program(
    checked: CheckedProgram, model: ModelSpec, *, as_exported: bool = False
) -> CpuProgram:
    """Load a program and rewrite it: 0.3 to 2 s, in which the interpreter is busy mostly.

    Args:
        checked: The program.
        model: Its first model, for the inputs and the pages that an image may take.
        as_exported: Leave its operators and its weights as they are.

    Raises:
        ArchiveInvalid: It can't be loaded (`load_module`), or takes weights after inputs.
    """
    signature = checked.signature
    order = [argument.is_weight for argument in signature.arguments]
    if order != sorted(order, reverse=True):
        raise ArchiveInvalid("program: expected all weights before the inputs; pack it again")
    own = {
        argument.name: torch.zeros(argument.shape, dtype=TORCH_DTYPES[argument.datatype])
        for argument in signature.weights
    }
    why_not = "the settings ask for it as exported" if as_exported else ""
    rewritten = rewrite(load_module(checked, model), own, model.inputs, why_not=why_not)
    plan = plan_image(rewritten.parameters, own)
    if plan.size_bytes > model.pages * PAGE_BYTES:
        why_not = f"packed, it needs more than the {model.pages} pages of {model.name}"
        rewritten = rewrite(load_module(checked, model), own, model.inputs, why_not=why_not)
        plan = plan_image(rewritten.parameters, own)
    logger.info(
        "program_loaded sha256=%s parameters=%d packed=%d why_not=%r",
        checked.sha256,
        len(rewritten.parameters),
        rewritten.packed,
        rewritten.why_not,
    )
    module = rewritten.module
    for node in module.graph.nodes:
        node.meta.clear()  # serves compilers, and is most of a program's memory
    forward: Forward = module.forward
    return CpuProgram(
        signature=signature,
        plan=plan,
        buffers=InputBuffers(model.inputs),
        models=0,
        forward=forward,
    )


def warm_loader() -> None:
    """Import what torch imports at the first load (sympy and a thousand modules more): 0.8 s."""
    for name in _LOADER_MODULES:
        # Private names: where a version of torch has others, its first load is slower, no more.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _weights_at(signature: ProgramSignature, layout: ImageLayout, address: int) -> Weights:
    """Make a model's own weights: views of the image at `address`.

    Args:
        signature: The program's; `layout` was checked against it.
        layout: Where each tensor lies in the image.
        address: Of the image, stable for as long as any of the tensors is alive.
    """
    memory = (ctypes.c_uint8 * layout.image_bytes).from_address(address)
    image = torch.frombuffer(memory, dtype=torch.uint8)
    weights = {}
    for argument in signature.weights:
        place = layout.tensors[argument.name]
        dtype = TORCH_DTYPES[place.datatype]
        count = math.prod(place.shape)
        flat = image[place.offset_bytes : place.offset_bytes + count * dtype.itemsize]
        weights[argument.name] = flat.view(dtype).view(place.shape)
    return weights


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
