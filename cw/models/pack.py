"""Make an archive from a torch module, and further weight sets for its program.

The program is what ``torch.export`` makes of the module with a dynamic batch dimension, minus
all weights; parameters, buffers and constant tensors go to the image under their names in the
graph's signature. What is left depends on the architecture alone, so weight sets of one
architecture share one program, byte for byte.

How an executor runs an archive (``cw/devices``), once the program's sha256 is on the store's
allow-list::

    program = torch.export.load(program_path)          # once per program, 0.3 to 2 s
    signature = read_signature(check_program(program_path.read_bytes()))
    with WeightsImage(weights_path) as image:          # LOAD: one copy
        arena[: image.layout.image_bytes] = image.data
    flat = []
    for argument in signature.arguments:               # the order of graph_module.forward
        if argument.is_weight:
            place = layout.tensors[argument.name]      # a view: arena[offset:][:nbytes]
            flat.append(view(arena, place.offset_bytes, place.datatype, place.shape))
        else:                                          # in the order of manifest.inputs
            flat.append(next(inputs))                  # datatype[batch, *shape]
    outputs = program.graph_module(*flat)              # a tuple, as manifest.outputs

``signature.arguments`` says the same as ``program.graph_signature.input_specs`` (there, the
``target`` of PARAMETER, BUFFER and CONSTANT_TENSOR is the tensor's name; USER_INPUT is the
rest). ``program.state_dict`` holds placeholders without memory and must not be used, nor may
``program.module()``, which binds them. Call it under ``torch.inference_mode``.

A module that makes tensors as it runs (``torch.arange``) ties its program to the CPU: their
nodes have ``device="cpu"`` among their arguments, which a GPU's executor rewrites in
``program.graph`` after loading. None of the examples does.

Needs torch, so no server imports this.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import attrs
import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from cw.errors import ArchiveInvalid
from cw.messages import TensorSpec
from cw.models.archive import (
    PROGRAM_FILE,
    WEIGHTS_FILE,
    Archive,
    make_archive,
    read_manifest,
    verify_archive,
    write_manifest,
)
from cw.models.image import ImageLayout, TensorPlace, WeightsImage
from cw.models.image_writer import ImagePlan, plan_image, write_image
from cw.models.manifest import Manifest, check_name
from cw.models.program import check_program, strip_program
from cw.models.program_signature import (
    ProgramSignature,
    check_weights,
    name_outputs,
    read_signature,
)
from cw.models.torch_dtypes import TORCH_DTYPES

Sample = Callable[[int], tuple[torch.Tensor, ...]]
"""Makes inputs for a batch size: one ``datatype[batch, *shape]`` for each input."""

DEFAULT_BATCH_SIZES: Final = (1, 2, 4, 8, 16)

_DATATYPES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}

_RELATIVE_ERROR_MAX: Final = 1e-2
"""More than this between a sample alone and in a batch is no rounding: rows depend on others."""

_STATED_ERROR_MIN: Final = 1e-4
"""The least tolerance stated. One CPU's kernels differ by 1e-7 to 3e-6 between batch sizes; this
leaves room for those of other CPUs and devices."""


def pack(
    source: nn.Module | ExportedProgram,
    *,
    name: str,
    inputs: Sequence[TensorSpec],
    out: Path,
    output_names: Sequence[str] = ("output",),
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    description: str = "",
    sample: Sample | None = None,
) -> Archive:
    """Export a module, write its archive, and prove that the archive computes the same.

    Args:
        source: A module on the CPU, which is put into eval mode, or an export of one. It takes
            the inputs as positional tensors ``datatype[batch, *shape]`` and returns a tensor,
            or a tuple of tensors, whose first dimension is the batch. It must not change its
            weights or inputs, and a sample's output must not depend on the rest of its batch.
        name: The model's name.
        inputs: One sample's shapes, without the batch.
        out: The folder to make; must not exist.
        output_names: One name for each tensor returned.
        batch_sizes: Rising, from 1; the last bounds the program's batch dimension.
        description: One line.
        sample: Makes inputs that the module accepts, for the proof; by default normal floats,
            and ints of 0 and 1.

    Returns:
        The verified archive at ``out``.

    Raises:
        ArchiveInvalid: The module cannot be exported with a batch dimension, is not a pure
            function, or the exported program gives other outputs.
        ManifestInvalid: The name, a shape or the batch sizes are out of bounds.
        OSError: ``out`` exists or cannot be written.
    """
    check_name(name)
    make_sample = sample or _random_sample(inputs)
    if isinstance(source, ExportedProgram):
        exported, module = source, cast("nn.Module", source.module())
    else:
        exported, module = _export(source, make_sample, inputs, max(batch_sizes)), source
    program, signature = _strip(exported, max(batch_sizes))
    tensors = _named_tensors(exported, signature)
    plan = _plan(signature)

    def fill(folder: Path) -> None:
        (folder / PROGRAM_FILE).write_bytes(program)
        digest = write_image(folder / WEIGHTS_FILE, plan, tensors)
        write_manifest(
            folder,
            Manifest(
                name=name,
                description=description,
                program_sha256=hashlib.sha256(program).hexdigest(),
                weights_sha256=digest,
                image_bytes=plan.layout.image_bytes,
                inputs=tuple(inputs),
                outputs=name_outputs(signature, output_names),
                batch_sizes=tuple(batch_sizes),
                tolerance=_prove(module, folder, signature, make_sample, batch_sizes),
            ),
        )

    make_archive(out, fill)
    return verify_archive(out)


def pack_weights(
    template: Archive, state_dict: Mapping[str, torch.Tensor], *, name: str, out: Path
) -> Archive:
    """Write a further weight set for the program of an archive, without exporting again.

    Neither the program nor the weights are run or read back, so this takes little more than
    writing the file. The tolerance is the template's: it is relative, and depends on
    the architecture more than on the weights.

    Args:
        template: Any archive of the same architecture. Its program is linked, not copied,
            where the file system allows.
        state_dict: The new weights. What a state dict does not hold (constants, buffers that
            are not persistent) is taken from the template.
        name: The new model's name.
        out: The folder to make; must not exist.

    Returns:
        The archive at ``out``.

    Raises:
        ArchiveInvalid: The weights are not those of the program.
        ManifestInvalid: The name is out of bounds.
        OSError: ``out`` exists or cannot be written.
    """
    check_name(name)
    plan = _plan(template.signature)
    check_weights(template.signature, _layout_of(state_dict, template.layout))
    manifest = template.manifest

    def fill(folder: Path) -> None:
        try:
            os.link(template.program_path, folder / PROGRAM_FILE)
        except OSError:  # another file system, or one without links
            shutil.copyfile(template.program_path, folder / PROGRAM_FILE)
        with WeightsImage(template.weights_path) as image:
            tensors = {
                # Copied, since a mapping cannot be closed while a slice of it lives.
                name: memoryview(bytes(image.data[place.offset_bytes :][: place.nbytes]))
                for name, place in image.layout.tensors.items()
                if name not in state_dict
            }
        tensors.update({key: _tensor_bytes(value) for key, value in state_dict.items()})
        digest = write_image(folder / WEIGHTS_FILE, plan, tensors)
        write_manifest(folder, attrs.evolve(manifest, name=name, weights_sha256=digest))

    make_archive(out, fill)
    return Archive(
        folder=out,
        manifest=read_manifest(out),
        layout=plan.layout,
        signature=template.signature,
    )


def load_export(path: Path) -> ExportedProgram:
    """Read what ``torch.export.save`` wrote, for ``pack``.

    Loading runs what the file says: it must be one's own, or come from someone trusted.

    Raises:
        ArchiveInvalid: torch cannot load it.
    """
    try:
        return torch.export.load(path)
    # torch raises whatever its parsers do; its words are all there is to say.
    except Exception as exc:
        raise ArchiveInvalid(f"{path}: expected a file of torch.export.save: {exc}") from exc


# --- export


def _export(
    module: nn.Module, sample: Sample, inputs: Sequence[TensorSpec], batch_max: int
) -> ExportedProgram:
    if batch_max == 1:
        batch, dynamic_shapes = 1, None
    else:
        # torch specialises on a batch of 1, and may take two equal extents for one symbol: so
        # the example's batch is neither 1 nor any other extent.
        extents = {extent for spec in inputs for extent in spec.shape}
        fitting = (size for size in range(2, batch_max + 1) if size not in extents)
        batch = next(fitting, 2)
        dimension = torch.export.Dim("batch", min=1, max=batch_max)
        dynamic_shapes = tuple({0: dimension} for _ in inputs)
    try:
        return torch.export.export(module.eval(), sample(batch), dynamic_shapes=dynamic_shapes)
    # torch raises a dozen unrelated types; what they say of the module is what its author needs.
    except Exception as exc:
        raise ArchiveInvalid(
            f"{type(module).__name__} cannot be exported with a batch of 1 to {batch_max}; make "
            f"its forward() a function of tensors that treats the batch alike at every size: {exc}"
        ) from exc


def _strip(exported: ExportedProgram, batch_max: int) -> tuple[bytes, ProgramSignature]:
    """Serialise a program without its weights, and read it as a stranger would."""
    saved = io.BytesIO()
    torch.export.save(exported, saved)
    program = strip_program(saved.getvalue())
    signature = read_signature(check_program(program))
    if signature.batch_max < batch_max:
        raise ArchiveInvalid(
            f"expected an export for batches of up to {batch_max}, got one for up to "
            f"{signature.batch_max}: export it with a larger Dim, or give smaller batch_sizes"
        )
    return program, signature


# --- bytes


def _plan(signature: ProgramSignature) -> ImagePlan:
    """Lay the weights out in the order in which the program takes them."""
    return plan_image((weight.name, weight.datatype, weight.shape) for weight in signature.weights)


def _named_tensors(exported: ExportedProgram, signature: ProgramSignature) -> dict[str, memoryview]:
    held = {**exported.constants, **exported.state_dict}
    return {weight.name: _tensor_bytes(held[weight.name]) for weight in signature.weights}


def _tensor_bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def _layout_of(state_dict: Mapping[str, torch.Tensor], base: ImageLayout) -> ImageLayout:
    """Say how ``base`` would look with a state dict's tensors in it."""
    places = dict(base.tensors)
    for name, tensor in state_dict.items():
        places[name] = TensorPlace(
            offset_bytes=places[name].offset_bytes if name in places else 0,
            nbytes=tensor.nbytes,
            datatype=_DATATYPES.get(tensor.dtype, str(tensor.dtype)),
            shape=tuple(tensor.shape),
        )
    return attrs.evolve(base, tensors=places)


# --- proof


def _random_sample(inputs: Sequence[TensorSpec]) -> Sample:
    generator = torch.Generator().manual_seed(0)

    def sample(batch: int) -> tuple[torch.Tensor, ...]:
        tensors = []
        for spec in inputs:
            shape = (batch, *spec.shape)
            dtype = TORCH_DTYPES[spec.datatype.value]
            if dtype.is_floating_point:
                tensors.append(torch.randn(shape, generator=generator).to(dtype))
            else:
                tensors.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
        return tuple(tensors)

    return sample


def _prove(
    module: nn.Module,
    folder: Path,
    signature: ProgramSignature,
    sample: Sample,
    batch_sizes: Sequence[int],
) -> float:
    """Run the packed program on the packed weights, and compare it with the module.

    Returns:
        The tolerance to state: the largest relative difference found between a sample in a
        batch and the same sample alone in the module, with a margin.
    """
    program = torch.export.load(folder / PROGRAM_FILE)
    with WeightsImage(folder / WEIGHTS_FILE) as image:
        layout = image.layout
        before = torch.from_numpy(np.frombuffer(image.data, np.uint8).copy())
    arena = before.clone()
    views = [_view(arena, layout.tensors[weight.name]) for weight in signature.weights]
    worst = 0.0
    with torch.inference_mode():
        for batch in batch_sizes:
            given = sample(batch)
            kept = [tensor.clone() for tensor in given]
            outputs = program.graph_module(*_flat(signature, views, given))
            if not all(map(torch.equal, given, kept)) or not torch.equal(arena, before):
                raise ArchiveInvalid("the module changes its weights or its inputs as it runs")
            worst = max(worst, _compare(module, kept, outputs, batch))
    return float(f"{max(8 * worst, _STATED_ERROR_MIN):.1e}")


def _flat(
    signature: ProgramSignature, views: Sequence[torch.Tensor], given: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    weights, inputs = iter(views), iter(given)
    return [next(weights if arg.is_weight else inputs) for arg in signature.arguments]


def _view(arena: torch.Tensor, place: TensorPlace) -> torch.Tensor:
    run = arena[place.offset_bytes : place.offset_bytes + place.nbytes]
    return run.view(TORCH_DTYPES[place.datatype]).view(place.shape)


def _compare(
    module: nn.Module,
    given: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
    batch: int,
) -> float:
    """Compare three rows of a batch with the module's own answers to each alone, relatively."""
    worst = 0.0
    for row in sorted({0, batch // 2, batch - 1}):
        alone = module(*(tensor[row : row + 1] for tensor in given))
        expected = (alone,) if isinstance(alone, torch.Tensor) else tuple(alone)
        for output, reference in zip(outputs, expected, strict=True):
            if output.shape[0] != batch:
                raise ArchiveInvalid(f"expected outputs of batch {batch}, got {output.shape}")
            error = (output[row].double() - reference[0].double()).abs().max().item()
            scale = reference.double().abs().max().item()
            # Written so that NaN fails.
            if not error <= _RELATIVE_ERROR_MAX * scale:
                raise ArchiveInvalid(
                    f"a sample's output in a batch of {batch} differs by {error:g} from the "
                    f"module's answer to it alone (largest element {scale:g}). Either samples of "
                    "a batch depend on one another, or the module gives no finite numbers for "
                    "random inputs: pass `sample`"
                )
            worst = max(worst, error / scale if scale else 0.0)
    return worst
