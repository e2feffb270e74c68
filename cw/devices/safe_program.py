"""A module made of a graph that was read as data (``models/safe_graph.py``; design/0019).

No file of torch's is opened here and no name of the archive reaches torch: operators come from the
allow-list, and values are named anew, since a module's code is generated from the names in it. Then
all steps are tried on tensors without memory ("meta"), at every batch size of the model, and a
program that would take too much, or gives other shapes than it says, is refused before it has run.
"""

import collections
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import fx

from cw.errors import ArchiveInvalid
from cw.messages import ModelSpec
from cw.models.program_signature import ProgramSignature
from cw.models.safe_graph import LIST_MAX, Ref, SafeGraph, Step, TorchName, Value
from cw.models.safe_operators import SAFE_ARITHMETIC, SAFE_OPERATORS
from cw.models.torch_dtypes import TORCH_DTYPES
from cw.units import MiB

WORKING_BYTES_MAX: Final = 1024 * MiB
"""What a batch may take beside weights and inputs: all values alive at once, and scratch."""

_SIZE_MAX: Final = 1 << 40
_PARTS: Final = ("split.Tensor", "unbind.int", "chunk.default")
_aten: Final[Any] = torch.ops.aten


def resolve(name: str) -> Callable[..., Any]:
    """Find an allowed operator in torch.

    Raises:
        ArchiveInvalid: It is not on the list, or this version of torch lacks it.
    """
    if name in SAFE_ARITHMETIC:
        found: Callable[..., Any] = getattr(operator, SAFE_ARITHMETIC[name])
        return found
    if name not in SAFE_OPERATORS:
        raise ArchiveInvalid(f"program: the operator {name[:200]!r} is not allowed")
    packet, overload = name.removeprefix("torch.ops.aten.").split(".")
    try:
        found = getattr(getattr(_aten, packet), overload)
    except AttributeError as exc:
        raise ArchiveInvalid(
            f"program: torch {torch.__version__} has no {name}; use another, or another torch"
        ) from exc
    return found


def build_module(graph: SafeGraph, signature: ProgramSignature, model: ModelSpec) -> fx.GraphModule:
    """Make a module of a graph, as ``torch.export.load(...).graph_module`` would be.

    Args:
        graph: What it computes.
        signature: Of the same program.
        model: For its batch sizes, at each of which the module is tried.

    Returns:
        ``forward(*weights, *inputs)``, a tuple of outputs.

    Raises:
        ArchiveInvalid: An operator refuses its arguments, a shape differs from the signature's, or
            a batch would take more than ``WORKING_BYTES_MAX``.
    """
    module = _assemble(graph)
    for batch_size in model.batch_sizes:
        _try_out(module.graph, signature, batch_size)
    return module


def _assemble(graph: SafeGraph) -> fx.GraphModule:
    made = fx.Graph()
    values: dict[str, fx.Node] = {}
    for number, name in enumerate(graph.arguments):
        values[name] = made.placeholder(f"argument_{number}")
    for number, step in enumerate(graph.steps):
        arguments, keywords = _bind(step, values)
        node = made.create_node(
            "call_function", resolve(step.operator), arguments, keywords, name=f"step_{number}"
        )
        if not step.is_tuple:
            values[step.outputs[0]] = node
            continue
        for part, name in enumerate(step.outputs):
            values[name] = made.call_function(operator.getitem, (node, part))
    made.output(tuple(values[name] for name in graph.outputs))
    made.lint()
    return fx.GraphModule(torch.nn.Module(), made)


def _bind(step: Step, values: Mapping[str, fx.Node]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put a step's arguments in the order of its operator's schema."""
    given = {item.name: item for item in step.inputs}
    if step.operator in SAFE_ARITHMETIC:
        if len(step.inputs) != 2 or any(item.by_keyword for item in step.inputs):
            raise ArchiveInvalid(f"program: expected two numbers for {step.operator}")
        return tuple(_to_torch(item.value, values) for item in step.inputs), {}
    schema: Any = getattr(resolve(step.operator), "_schema")  # noqa: B009  (torch has no types for it)
    names = [argument.name for argument in schema.arguments]
    by_keyword_only = {argument.name for argument in schema.arguments if argument.kwarg_only}
    if len(given) != len(step.inputs) or not given.keys() <= set(names):
        raise ArchiveInvalid(
            f"program: {step.operator} takes {names}, got {[item.name for item in step.inputs]}"
        )
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    for place, name in enumerate(names):
        if name not in given:
            continue
        value = _to_torch(given[name].value, values)
        if name == "device" and value is not None:
            value = torch.device(value)
        if given[name].by_keyword:
            keywords[name] = value
        elif place == len(arguments) and name not in by_keyword_only:
            arguments.append(value)
        else:
            raise ArchiveInvalid(f"program: {step.operator} is not given {name!r} in its place")
    return tuple(arguments), keywords


def _to_torch(value: Value, values: Mapping[str, fx.Node]) -> Any:
    match value:
        case Ref():
            return values[value.name]
        case TorchName():
            return getattr(torch, value.name)
        case tuple():
            return [_to_torch(part, values) for part in value]
        case _:
            return value


def _try_out(graph: fx.Graph, signature: ProgramSignature, batch_size: int) -> None:
    """Run all steps on tensors without memory; check sizes, and what would be alive at once."""
    given = _arguments(signature, batch_size)
    last_use: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last_use[node] = node
        for used in node.all_input_nodes:
            last_use[used] = node
    values: dict[fx.Node, Any] = {}
    alive = _Alive()
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
            continue
        arguments, keywords = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "output":
            _check_outputs(arguments[0], signature, batch_size)
            return
        values[node] = _call(node.target, arguments, keywords, batch_size)
        alive.hold(values[node])
        needed = alive.size_bytes + _scratch_bytes(node.target, arguments, values[node])
        if needed > WORKING_BYTES_MAX:
            raise ArchiveInvalid(
                f"program: at batch {batch_size} it would take {needed} bytes beside its weights "
                f"by {node.target}, expected at most {WORKING_BYTES_MAX}; make the model's "
                "inputs, layers or largest batch smaller"
            )
        for used in {*node.all_input_nodes, node}:
            if last_use[used] is node and used.op != "placeholder":
                alive.release(values.pop(used))


def _call(
    target: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], batch_size: int
) -> Any:
    _check_parts(target, arguments)
    # What an operator makes from nothing would be made in memory, before anyone has counted it.
    if _takes_device(target):
        keywords = {**keywords, "device": torch.device("meta")}
    try:
        result = target(*arguments, **keywords)
    # Operators are foreign and raise anything; whatever it is, the arguments are at fault.
    except Exception as exc:
        raise ArchiveInvalid(
            f"program: {target} fails on what the graph gives it, at batch {batch_size} "
            f"({type(exc).__name__}: {str(exc)[:300]})"
        ) from exc
    for tensor in _tensors(result):
        assert tensor.is_meta, f"{target} was tried in memory"
    return result


def _takes_device(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and any(item.name == "device" for item in schema.arguments)


class _Alive:
    """The storages that values hold: a small view keeps all of a large tensor."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._holders: Final[collections.Counter[int]] = collections.Counter()

    def hold(self, result: Any) -> None:
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if not self._holders[storage._cdata]:
                self.size_bytes += storage.nbytes()
            self._holders[storage._cdata] += 1

    def release(self, result: Any) -> None:
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            self._holders[storage._cdata] -= 1
            if not self._holders[storage._cdata]:
                self.size_bytes -= storage.nbytes()


def _arguments(signature: ProgramSignature, batch_size: int) -> Iterator[torch.Tensor]:
    for argument in signature.arguments:
        shape = argument.shape if argument.is_weight else (batch_size, *argument.shape)
        yield torch.empty(shape, dtype=TORCH_DTYPES[argument.datatype], device="meta")


def _check_parts(target: Any, arguments: tuple[Any, ...]) -> None:
    """Refuse an operator that would cut a tensor in a million parts, before it does."""
    if not str(target).removeprefix("aten.").startswith(_PARTS):
        return
    tensor, *rest = arguments
    if target is _aten.unbind.int:
        dim = rest[0] if rest else 0
        parts = tensor.shape[dim] if -tensor.dim() <= dim < tensor.dim() else 0
    elif target is _aten.chunk.default:
        parts = rest[0]
    else:
        parts = max(tensor.shape, default=0) // max(1, rest[0])
    if parts > LIST_MAX:
        raise ArchiveInvalid(
            f"program: {target} makes {parts} parts of a tensor, expected at most {LIST_MAX}"
        )


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a result; check the numbers that are sizes.

    Raises:
        ArchiveInvalid: A size out of all proportion, or a result that is neither.
    """
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for part in result:
            yield from _tensors(part)
    elif type(result) is not int or not -_SIZE_MAX <= result <= _SIZE_MAX:
        raise ArchiveInvalid(f"program: expected tensors and sizes, got {str(result)[:80]}")


def _scratch_bytes(target: Any, arguments: tuple[Any, ...], result: Any) -> int:
    """Estimate what an operator takes while it runs.

    Arguments that were expanded may be copied whole. Beside that, the hungriest: the columns of one
    sample for a convolution, both sides once per batch for a product, all scores for an attention.
    """
    given = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    copied = sum(
        max(0, tensor.numel() * tensor.element_size() - tensor.untyped_storage().nbytes())
        for tensor in given
    )
    if len(given) < 2 or not isinstance(result, torch.Tensor):
        return copied
    left, right = given[:2]
    if str(target).startswith("aten.conv") and result.dim() > 2:
        items = math.prod(right.shape[1:]) * math.prod(result.shape[2:])
    elif target is _aten.matmul.default and result.dim() > 2:
        items = math.prod(result.shape[:-2]) * (
            math.prod(left.shape[-2:]) + math.prod(right.shape[-2:])
        )
    elif target is _aten.scaled_dot_product_attention.default:
        items = math.prod(left.shape[:-1]) * right.shape[-2]
    else:
        items = 0
    return copied + int(items) * result.element_size()


def _check_outputs(outputs: Any, signature: ProgramSignature, batch_size: int) -> None:
    given = [
        (output.dtype, tuple(output.shape)) if isinstance(output, torch.Tensor) else None
        for output in outputs
    ]
    expected = [
        (TORCH_DTYPES[output.datatype], (batch_size, *output.shape)) for output in signature.outputs
    ]
    if given != expected:
        raise ArchiveInvalid(
            f"program: at batch {batch_size} it gives {given}, its signature says {expected}"
        )
