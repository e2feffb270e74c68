"""What a program takes and gives, read from its graph without loading it.

With this a weights file that does not fit its program, or a manifest that promises other
shapes, is refused at upload, by a process that has no torch.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import attrs

from cw.errors import ArchiveInvalid
from cw.messages import Datatype, TensorSpec
from cw.models.image import ImageLayout
from cw.models.manifest import Manifest

_DATATYPES: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "UINT8",
        2: "INT8",
        3: "INT16",
        4: "INT32",
        5: "INT64",
        6: "FP16",
        7: "FP32",
        8: "FP64",
        12: "BOOL",
        13: "BF16",
        28: "UINT16",
        34: "UINT32",
        35: "UINT64",
    }
)
"""torch's serialised ScalarType -> ours. Source: ``torch/_export/serde/schema.py``, schema 8."""

_WEIGHT_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "parameter": "parameter_name",
        "buffer": "buffer_name",
        "tensor_constant": "tensor_constant_name",
    }
)


@attrs.frozen(kw_only=True)
class Argument:
    """One tensor that a program takes or gives.

    Attributes:
        name: For a weight, its name in ``weights.safetensors``; else the graph's own name.
        datatype: Open Inference Protocol name, or ``BF16``.
        shape: Extents; without the batch dimension unless it is a weight.
        is_weight: Bound to the image rather than to a request.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    is_weight: bool


@attrs.frozen(kw_only=True)
class ProgramSignature:
    """A program as a function of flat arguments.

    Attributes:
        arguments: In the order of ``graph_module.forward``: weights, then inputs.
        outputs: In the order of the returned tuple.
        batch_max: The largest batch that the program was exported for.
    """

    arguments: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    batch_max: int

    @property
    def weights(self) -> tuple[Argument, ...]:
        """The arguments that come from the image."""
        return tuple(argument for argument in self.arguments if argument.is_weight)

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """The arguments that come from requests."""
        return tuple(argument for argument in self.arguments if not argument.is_weight)


def read_signature(graph: dict[str, Any]) -> ProgramSignature:
    """Read the signature of a graph that ``program.check_program`` returned.

    Raises:
        ArchiveInvalid: The graph is not a pure function of weights and batched tensors.
    """
    try:
        return _Reader(graph).read()
    # The graph is foreign JSON: whatever is missing or of another type shows as one of these.
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
        raise ArchiveInvalid(
            f"program: its graph is not as torch.export writes it ({type(exc).__name__}: {exc}); "
            "pack the model again with a version of torch that cw supports"
        ) from exc


class _Reader:
    """One pass over a graph's signature."""

    def __init__(self, graph: dict[str, Any]) -> None:
        module = graph["graph_module"]
        self._signature = module["signature"]
        self._values = module["graph"]["tensor_values"]
        self._inputs = module["graph"]["inputs"]
        self._ranges = graph["range_constraints"]

    def read(self) -> ProgramSignature:
        arguments = tuple(self._argument(spec) for spec in self._signature["input_specs"])
        outputs = tuple(self._output(spec) for spec in self._signature["output_specs"])
        named = [argument.name for argument in arguments if argument.is_weight]
        if len(set(named)) != len(named):
            raise ArchiveInvalid("program: a weight is an argument twice")
        if len(self._inputs) != len(arguments):
            raise ArchiveInvalid("program: its graph takes other arguments than its signature")
        return ProgramSignature(arguments=arguments, outputs=outputs, batch_max=self._batch_max())

    def _argument(self, spec: dict[str, Any]) -> Argument:
        ((kind, body),) = spec.items()
        if kind == "user_input":
            return self._batched(body["arg"]["as_tensor"]["name"])
        if kind not in _WEIGHT_KINDS:
            raise ArchiveInvalid(f"program: expected weights and tensors as inputs, got {kind}")
        meta = self._values[body["arg"]["name"]]
        return Argument(
            name=str(body[_WEIGHT_KINDS[kind]]),
            datatype=_DATATYPES[meta["dtype"]],
            shape=tuple(int(size["as_int"]) for size in meta["sizes"]),
            is_weight=True,
        )

    def _output(self, spec: dict[str, Any]) -> Argument:
        ((kind, body),) = spec.items()
        if kind != "user_output":
            raise ArchiveInvalid(
                f"program: expected outputs only, got {kind}: a program may not change its "
                "weights or inputs"
            )
        return self._batched(body["arg"]["as_tensor"]["name"])

    def _batched(self, name: str) -> Argument:
        meta = self._values[name]
        if not meta["sizes"] or not self._is_batch(meta["sizes"][0]):
            raise ArchiveInvalid(f"program: expected the first dimension of {name!r} to be a batch")
        return Argument(
            name=name,
            datatype=_DATATYPES[meta["dtype"]],
            shape=tuple(int(size["as_int"]) for size in meta["sizes"][1:]),
            is_weight=False,
        )

    def _is_batch(self, size: dict[str, Any]) -> bool:
        """A plain symbol, the only one; or 1 in a program that knows no batches."""
        if not self._ranges:
            return size.get("as_int") == 1
        (symbol,) = self._ranges
        return "as_expr" in size and size["as_expr"]["expr_str"].startswith(f"Symbol('{symbol}'")

    def _batch_max(self) -> int:
        if not self._ranges:
            return 1
        (bounds,) = self._ranges.values()
        if bounds["min_val"] not in {None, 0, 1}:
            raise ArchiveInvalid(
                f"program: expected batches from 1, got batches from {bounds['min_val']}"
            )
        return int(bounds["max_val"])


def check_weights(signature: ProgramSignature, layout: ImageLayout) -> None:
    """Compare an image with the program that is to run on it.

    Raises:
        ArchiveInvalid: Names the first tensors that are missing, too many or different.
    """
    wanted = {argument.name: argument for argument in signature.weights}
    if wanted.keys() != layout.tensors.keys():
        missing = sorted(wanted.keys() - layout.tensors.keys())[:4]
        extra = sorted(layout.tensors.keys() - wanted.keys())[:4]
        raise ArchiveInvalid(
            f"weights: expected the {len(wanted)} tensors of the program, got "
            f"{len(layout.tensors)}; missing {missing}, too many {extra}"
        )
    for name, argument in wanted.items():
        place = layout.tensors[name]
        if (place.datatype, place.shape) != (argument.datatype, argument.shape):
            raise ArchiveInvalid(
                f"weights: expected tensor {name!r} to be {argument.datatype} "
                f"{list(argument.shape)}, got {place.datatype} {list(place.shape)}"
            )


def check_manifest(signature: ProgramSignature, manifest: Manifest) -> None:
    """Compare a manifest with the program that it describes.

    Raises:
        ArchiveInvalid: Inputs, outputs or batch sizes differ.
    """
    _check_specs("inputs", signature.inputs, manifest.inputs)
    _check_specs("outputs", signature.outputs, manifest.outputs)
    if manifest.batch_sizes[-1] > signature.batch_max:
        raise ArchiveInvalid(
            f"program: expected batches of up to {manifest.batch_sizes[-1]}, as the manifest "
            f"says, but it was exported for up to {signature.batch_max}"
        )


def name_outputs(signature: ProgramSignature, names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Describe a program's outputs as its manifest shall.

    Raises:
        ArchiveInvalid: There are more names than outputs, or fewer, or an output is BF16.
    """
    if len(names) != len(signature.outputs):
        raise ArchiveInvalid(
            f"expected {len(signature.outputs)} output_names, one per tensor returned, "
            f"got {list(names)}"
        )
    known = {kind.value for kind in Datatype}
    for output in signature.outputs:
        if output.datatype not in known:
            raise ArchiveInvalid(
                f"expected outputs of {', '.join(sorted(known))}, got {output.datatype}; "
                "convert it in forward()"
            )
    return tuple(
        TensorSpec(name=name, datatype=Datatype(output.datatype), shape=output.shape)
        for name, output in zip(names, signature.outputs, strict=True)
    )


def _check_specs(
    field: str, arguments: tuple[Argument, ...], specs: tuple[TensorSpec, ...]
) -> None:
    of_program = [(argument.datatype, argument.shape) for argument in arguments]
    of_manifest = [(spec.datatype.value, spec.shape) for spec in specs]
    if of_program != of_manifest:
        raise ArchiveInvalid(
            f"program: its {field} are {of_program}, those of the manifest {of_manifest}"
        )
